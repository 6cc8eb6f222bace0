"""Promises of training that only a GPU can keep or break."""

import dataclasses
import json
import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from mocogan_tf import sampling
from mocogan_tf.config import MODELS, Config
from mocogan_tf.gans import build
from mocogan_tf.models.blocks import BatchNorm
from mocogan_tf.training import checkpoints, loop
from tests.support.tiny import TINY, baseline_config, tiny_batch, tiny_config

pytestmark = pytest.mark.gpu
ROOT = pathlib.Path(__file__).parents[2]
PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16")


@pytest.fixture
def config(tmp_path):
    return Config(**TINY, cache_dir=str(tmp_path / "cache"), steps=6, log_every=2, sample_every=6, checkpoint_every=3)


def run_python(*arguments, **environ):
    """Runs Python in a process of its own; returns what it printed."""
    done = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env={**os.environ, **environ}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def lines(run_dir):
    return [json.loads(line) for line in (run_dir / "log.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("model", MODELS)
def test_a_run_with_the_defaults_trains_and_leaves_samples(model, precision, tmp_path):
    fields = {"cache_dir": str(tmp_path / "cache"), "steps": 4, "steps_per_execution": 2, "log_every": 2}
    make = tiny_config if model == "mocogan" else lambda **changes: baseline_config(model, **changes)
    assert loop.train(make(**fields, precision=precision), tmp_path / "run") == 0
    assert checkpoints.steps(tmp_path / "run") == [4]
    assert np.isfinite([line["loss_g"] for line in lines(tmp_path / "run")]).all()


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(
    "changes",
    [
        {"noise_sigma": 0.1},
        {"share_fakes": True},
        {"discriminator_norm": "none", "r1_image": 1.0, "r1_video": 1.0, "r1_every": 2},
    ],
)
def test_xla_gives_the_losses_of_the_plain_step(changes, precision):
    def losses(jit):
        keras.utils.set_random_seed(0)
        config = tiny_config(**changes, precision=precision, jit_compile=jit)
        strategy = tf.distribute.MirroredStrategy(["GPU:0"])
        with strategy.scope():
            gan = build.build_gan(config, policy=precision)
        step = tf.function(lambda batch: strategy.run(gan.train_step, args=(batch,)), autograph=False)
        batch = {name: tf.constant(value) for name, value in tiny_batch(config).items()}
        return {name: float(value) for _ in range(2) for name, value in step(batch).items()}

    assert losses("on") == pytest.approx(losses("off"), abs=1e-3 if precision == "float32" else 0.05)


@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16", "mixed_float16"])
@pytest.mark.parametrize("channels", [12, 16])
def test_batch_normalisation_is_that_of_the_cpu(channels, dtype):
    rng = np.random.default_rng(0)
    x, found = rng.normal(0.5, 2, (8, 5, 4, 4, channels)).astype("float32"), []
    for device in ("CPU:0", "GPU:0"):
        with tf.device(device):
            layer = BatchNorm(momentum=0.9, epsilon=1e-5, dtype=dtype if device != "CPU:0" else "float32")
            given = tf.constant(x)
            with tf.GradientTape() as tape:
                tape.watch(given)
                y = tf.cast(layer(given, training=True), tf.float32)
                loss = tf.reduce_sum(y * tf.constant(x[::-1]))
            found.append([y, tape.gradient(loss, given), *layer.non_trainable_variables])
    tolerance = 1e-3 if dtype == "float32" else 0.05
    for one, other in zip(*found, strict=True):
        one, other = np.array(one), np.array(other)
        np.testing.assert_allclose(other, one, atol=tolerance * np.abs(one).max())


def test_clips_of_a_seed_are_those_of_the_cpu():
    config = tiny_config()
    clips = []
    for device in ("CPU:0", "GPU:0"):
        keras.utils.set_random_seed(0)
        with tf.device(device):
            clips.append(sampling.random_clips(build.build_generator(config), 4, 20, seed=7).astype(int))
    assert np.abs(clips[0] - clips[1]).max() <= 1


def test_a_deterministic_run_repeats_itself_bit_for_bit(tmp_path):
    flags = ["--profile=smoke", "--dataset=shapes", "--steps=6", "--deterministic", "--log_every=1"]
    flags += ["--sample_every=100", "--checkpoint_every=6", f"--cache_dir={tmp_path / 'cache'}"]
    for name in ("one", "two"):
        run_python("train.py", *flags, f"--run_dir={tmp_path / name}")
    one, two = (
        [{k: v for k, v in line.items() if "second" not in k} for line in lines(tmp_path / name)]
        for name in ("one", "two")
    )
    assert one == two


def test_a_run_that_goes_on_without_xla_continues_one_that_was_compiled(config, tmp_path):
    config = dataclasses.replace(config, sync_batch_norm=False)  # With which several GPUs could not use XLA.
    loop.train(dataclasses.replace(config, steps=3, jit_compile="on"), tmp_path / "run")
    loop.train(dataclasses.replace(config, jit_compile="off"), tmp_path / "run")
    loop.train(dataclasses.replace(config, jit_compile="on"), tmp_path / "whole")
    ends = [lines(tmp_path / name)[-1] for name in ("run", "whole")]
    assert ends[0]["loss_g"] == pytest.approx(ends[1]["loss_g"], abs=0.01)


def test_a_command_leaves_memory_to_others(tmp_path):
    code = (
        "from absl import flags; from mocogan_tf import cli\n"
        "def main(argv):\n"
        "    import tensorflow as tf\n"
        "    tf.matmul(*[tf.ones((256, 256))] * 2)\n"
        "    import subprocess\n"
        "    query = ['nvidia-smi', '--query-gpu=memory.used,memory.total', '--format=csv,noheader,nounits']\n"
        "    print(subprocess.run(query, capture_output=True, text=True).stdout.splitlines()[0])\n"
        "    return 0\n"
        "cli.run(main)"
    )
    printed = run_python("-c", code, TF_FORCE_GPU_ALLOW_GROWTH="")  # The command itself is to ask for it.
    used, total = map(int, printed.strip().splitlines()[-1].split(","))
    assert used < 0.5 * total


def test_two_gpus_end_in_the_losses_of_one(config, tmp_path):
    if len(tf.config.list_physical_devices("GPU")) < 2:
        pytest.skip("there is one GPU")
    ends = []
    for visible in ("0", "0,1"):
        run_dir = tmp_path / visible
        flags = ["--profile=smoke", "--dataset=shapes", "--steps=6", "--log_every=6", "--precision=float32"]
        flags += [f"--run_dir={run_dir}", f"--cache_dir={tmp_path / 'cache'}"]
        run_python("train.py", *flags, CUDA_VISIBLE_DEVICES=visible)
        ends.append(lines(run_dir)[-1]["loss_g"])
    assert ends[0] == pytest.approx(ends[1], abs=0.02)
