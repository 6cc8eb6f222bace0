"""Promises of the step's parts: what XLA compiles, what it must not change, and what runs outside of it."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.distribute import collective_all_reduce_strategy, mirrored_run, mirrored_strategy

from mocogan_tf.config import MODELS
from mocogan_tf.gans import base, build
from tests.support.tiny import baseline_config, tiny_batch, tiny_config

pytestmark = pytest.mark.core


def make(model="mocogan", **changes):
    """A model of seed 0 and a batch."""
    keras.utils.set_random_seed(0)
    config = tiny_config(**changes) if model == "mocogan" else baseline_config(model, **changes)
    return build.build_gan(config, policy=config.precision), tiny_batch(config)


def after_steps(number, model, **changes):
    """The logs of the last of some steps, and all weights."""
    gan, batch = make(model, **changes)
    batch = {name: tf.constant(value) for name, value in batch.items()}
    for _ in range(number):
        logs = gan.train_step(batch)
    return {name: float(value) for name, value in logs.items()}, gan.get_weights()


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS)
def test_compiled_by_xla_a_step_has_the_same_losses_and_weights(model):
    changes = {"noise_sigma": 0.1, "share_fakes": True} if model == "mocogan" else {}
    (plain, plain_weights), (compiled, compiled_weights) = (
        after_steps(2, model, jit_compile=jit, **changes) for jit in ("off", "on")
    )
    assert compiled == pytest.approx(plain, abs=1e-4)
    # Before a normalisation a bias has no gradient but rounding, and RMSprop makes steps of up to 5e-4 of that.
    atol = 2.5e-3 if model == "tgan" else 1e-3
    for one, other in zip(plain_weights, compiled_weights, strict=True):
        np.testing.assert_allclose(other, one, atol=atol)


def test_losses_are_computed_in_functions_that_xla_must_compile_and_updates_are_not():
    gan, batch = make(jit_compile="on")
    graph = tf.function(gan.train_step, autograph=False).get_concrete_function(batch).graph
    compiled = [op for op in graph.get_operations() if "PartitionedCall" in op.type and op.get_attr("_XlaMustCompile")]
    assert len(compiled) == 3  # D_I, D_V and the generator, in the authors' order.
    outside = {op.type for op in graph.get_operations()}
    assert "AssignVariableOp" in outside and "StatelessRandomNormalV2" in outside
    assert not outside & {"Conv2D", "Conv3D", "FusedBatchNormV3"}
    inside = {node.op for function in graph.as_graph_def().library.function for node in function.node_def}
    assert not any("Random" in name or "Assign" in name for name in inside)


@pytest.fixture
def as_on_gpus(monkeypatch):
    """TensorFlow takes all devices of a strategy for GPUs, and with them the branches that no CPU takes."""
    for module in (collective_all_reduce_strategy, mirrored_run, mirrored_strategy):
        monkeypatch.setattr(module, "_is_gpu_device", lambda device: True)
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind=None: ["one"])


@pytest.mark.parametrize(
    ("precision", "norm"), [("mixed_float16", "none"), ("mixed_float16", "batch"), ("mixed_bfloat16", "batch")]
)
def test_on_one_gpu_the_default_step_is_traced_without_collectives(precision, norm, as_on_gpus):
    """Capability 7 failed in the loss scale's branches, capability 8 had collectives of one member."""
    strategy = tf.distribute.MirroredStrategy(["CPU:0"])
    with strategy.scope():
        gan, batch = make(precision=precision, discriminator_norm=norm)
    assert gan.xla

    # As Keras's trainer makes it.
    step = tf.function(lambda batch: strategy.run(gan.train_step, args=(batch,)), jit_compile=gan.jit_compile)
    graph = step.get_concrete_function(batch).graph.as_graph_def()
    nodes = [*graph.node, *(node for function in graph.library.function for node in function.node_def)]
    assert not [node.name for node in nodes if "Collective" in node.op or "Nccl" in node.op]


def test_xla_is_chosen_on_gpus_only_and_never_where_it_would_change_or_break_something(monkeypatch):
    def uses_xla(gpus, replicas, **changes):
        with monkeypatch.context() as patch:
            strategy = type("Strategy", (), {"num_replicas_in_sync": replicas})
            patch.setattr(tf.distribute, "get_strategy", strategy)
            patch.setattr(tf.config, "list_physical_devices", lambda kind=None: ["GPU"] * gpus)
            return build.uses_xla(tiny_config(**changes))

    assert [uses_xla(gpus, 1) for gpus in (0, 1)] == [False, True]
    assert not uses_xla(1, 1, deterministic=True)
    assert not uses_xla(2, 2) and uses_xla(2, 2, sync_batch_norm=False)
    assert uses_xla(0, 1, jit_compile="on") and not uses_xla(1, 1, jit_compile="off")
    with pytest.raises(ValueError, match=r"needs --nosync_batch_norm on several devices.* This run has 2 devices"):
        uses_xla(2, 2, jit_compile="on")
    with pytest.raises(ValueError, match="does not promise bit-identical results"):
        uses_xla(1, 1, jit_compile="on", deterministic=True)


def test_pixels_are_scaled_on_the_device_exactly():
    pixels = tf.range(256, dtype=tf.int32)
    np.testing.assert_array_equal(
        base.to_float(tf.cast(pixels, tf.uint8)), np.arange(256, dtype=np.float32) / 127.5 - 1
    )
    assert set(base.to_float(tf.constant([0, 255], tf.uint8)).numpy()) == {-1.0, 1.0}
    gan, batch = make()
    stored = {
        name: (127.5 * (value + 1)).astype(np.uint8) if name != "labels" else value for name, value in batch.items()
    }
    scaled = {name: np.array(base.to_float(tf.constant(value))) for name, value in stored.items() if name != "labels"}
    logs = gan.train_step({name: tf.constant(value) for name, value in stored.items()})
    again, _ = make()
    expected = again.train_step(
        {**{name: tf.constant(value) for name, value in scaled.items()}, "labels": batch["labels"]}
    )
    assert {name: float(value) for name, value in logs.items()} == {
        name: float(value) for name, value in expected.items()
    }


@pytest.mark.parametrize("model", MODELS)
def test_the_first_step_with_a_loss_that_is_not_finite_is_remembered(model):
    gan, batch = make(model)
    batch = {name: tf.constant(value) for name, value in batch.items()}
    gan.train_step(batch)
    assert gan.first_step_not_finite == 0
    gan.train_step({**batch, "videos": batch["videos"] * np.nan})
    gan.train_step(batch)
    assert gan.first_step_not_finite == 2
