"""Promises of a training run and its directory."""

import dataclasses
import json
import re
import signal
import types

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from tensorflow.python.data.ops import multi_device_iterator_ops

from mocogan_tf.config import Config
from mocogan_tf.data.datasets import open_videos
from mocogan_tf.distribution import devices
from mocogan_tf.distribution.cluster import Cluster
from mocogan_tf.gans import build
from mocogan_tf.gans.base import to_float
from mocogan_tf.training import checkpoints, loop, run_directory, trained
from mocogan_tf.training.stopping import StopOnSignal
from tests.support.tiny import TINY

pytestmark = pytest.mark.usefixtures("plain_graphs")


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return str(tmp_path_factory.mktemp("cache"))


@pytest.fixture
def config(cache):
    return Config(
        **{**TINY, "noise_sigma": 0.1},
        cache_dir=cache,
        steps=6,
        log_every=1,
        sample_every=3,
        checkpoint_every=3,
    )


def losses(run_dir):
    """The log without the pace, which no two runs share."""
    lines = [json.loads(line) for line in (run_dir / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in ("seconds_per_step", "clips_per_second")} for line in lines]


@pytest.mark.core
def test_a_run_leaves_all_that_the_readme_lists(config, tmp_path, capsys):
    run_dir = tmp_path / "run"
    assert loop.train(config, run_dir) == 0
    said = capsys.readouterr().out.splitlines()
    at = said.index(f"watch it with: tensorboard --logdir={run_dir}")
    assert said[at - 1].startswith(f"training {run_dir}: steps 1 to 6")
    assert said[at + 1] == "6 steps show that everything runs; grids of grey fog are to be expected"
    written = Config.from_json(run_dir / "config.json")
    assert written == dataclasses.replace(config, dim_category=2, category_loss="supervised")
    assert json.loads((run_dir / "data.json").read_text())["categories"] == ["up", "left"]
    lines = [json.loads(line) for line in (run_dir / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    expected = {
        "step",
        "loss_d_image",
        "loss_d_video",
        "loss_g",
        "loss_category_d",
        "loss_category_g",
        "accuracy_d_image",
        "accuracy_d_video",
        "seconds_per_step",
        "clips_per_second",
    }
    assert set(lines[0]) == expected
    assert checkpoints.steps(run_dir) == [3, 6]
    for step in (3, 6):
        grid = Image.open(run_dir / "samples" / f"step-{step:08d}.webp")
        assert (grid.n_frames, grid.size) == (4, (2 * (4 * 34 - 2),) * 2)
        assert Image.open(run_dir / "samples" / f"step-{step:08d}.png").size == (4 * 32, 16 * 34 - 2)
    tags = set()
    for path in (run_dir / "tensorboard").iterdir():
        for event in tf.compat.v1.train.summary_iterator(str(path)):
            tags |= {value.tag for value in event.summary.value}
    assert {"loss/g", "loss/d_video", "samples"} <= tags


@pytest.mark.slow
def test_a_run_that_animates_pictures_keeps_them_and_goes_on_exactly(config, tmp_path, monkeypatch):
    scored = []

    def make_monitor(config, videos, seed, pictures):
        return lambda generator: scored.append(pictures(3)) or {"frechet_video": 1.0}

    monkeypatch.setattr(loop, "Monitor", make_monitor)
    fields = {"decoder": "fine", "content_modulation": True, "share_fakes": True, "evaluate_every": 3}
    task = dataclasses.replace(config, task="image_to_video", **fields)
    loop.train(task, tmp_path / "whole")
    loop.train(dataclasses.replace(task, steps=3), tmp_path / "parts")
    loop.train(task, tmp_path / "parts", resume="must")
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    assert all("loss_reconstruct" in line for line in losses(tmp_path / "parts"))
    kept = run_directory.read_pictures(tmp_path / "parts")
    assert kept.held_out and kept.pixels.shape == (16, 32, 32, 3)
    np.testing.assert_array_equal(scored[0], kept.pixels[:3])
    generator, _, _ = trained.load_generator(tmp_path / "parts")
    assert generator.contents.shape == (16, generator.latents.dim_content)
    # Four pictures, each still and in four motions.
    assert Image.open(tmp_path / "parts/samples/step-00000006.webp").size == (2 * (5 * 34 - 2), 2 * (4 * 34 - 2))
    (tmp_path / "parts" / run_directory.PICTURES).write_bytes(b"PK\x03\x04")
    with pytest.raises(ValueError, match="Cannot read the run's pictures"):
        trained.load_generator(tmp_path / "parts")


@pytest.mark.slow
def test_a_run_that_goes_on_writes_the_losses_of_one_that_was_never_stopped(config, tmp_path):
    loop.train(config, tmp_path / "whole")
    loop.train(dataclasses.replace(config, steps=3), tmp_path / "parts")
    # What was written after the checkpoint counts for nothing, a half line least of all.
    with open(tmp_path / "parts" / "log.jsonl", "a") as log:
        log.write('{"step": 4, "loss_g": 99}\n{"step": 5, "lo')
    loop.train(config, tmp_path / "parts", resume="must")
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")


@pytest.mark.core
def test_checkpoints_are_scored_the_best_outlives_the_latest_and_resume_cuts_the_scores(config, tmp_path, monkeypatch):
    scores = iter([2.0, 1.0, 3.0, 4.0, 5.0])
    around = {"diversity": 1.0, "diversity_real": 1.0, "motion": 1.0, "motion_real": 1.0}

    def make_monitor(config, videos, seed):
        return lambda generator: {"frechet_video": next(scores), **around}

    monkeypatch.setattr(loop, "Monitor", make_monitor)
    every = dataclasses.replace(config, steps=4, checkpoint_every=1, evaluate_every=1, keep_checkpoints=1)
    loop.train(every, tmp_path)
    assert checkpoints.steps(tmp_path) == [2, 4]
    assert trained.load_generator(tmp_path, "best")[2] == 2
    with open(tmp_path / "evaluations.jsonl", "a") as file:
        file.write('{"step": 5, "frechet_video": 0.1}\n')  # Of a run that was killed before its checkpoint.
    loop.train(dataclasses.replace(every, steps=5), tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "evaluations.jsonl").read_text().splitlines()]
    assert {line["step"]: line["frechet_video"] for line in lines} == {1: 2.0, 2: 1.0, 3: 3.0, 4: 4.0, 5: 5.0}
    assert checkpoints.steps(tmp_path) == [2, 5]


def test_no_thread_of_tensorflow_tunes_the_batches(config, tmp_path, monkeypatch):
    """It sleeps for up to a minute, and the end of a training may wait for it."""
    made, training_batches = [], loop.training_batches

    def noted(*args, **kwargs):
        made.append(training_batches(*args, **kwargs))
        return made[-1]

    monkeypatch.setattr(loop, "training_batches", noted)
    # The iterator that a strategy puts before a dataset by default, which always has the thread.
    monkeypatch.setattr(multi_device_iterator_ops, "OwnedMultiDeviceIterator", None)
    alone = types.SimpleNamespace(cluster=Cluster())
    run = loop.Run(config, tmp_path, open_videos(config), devices.make_strategy(config), alone)
    batch = next(iter(loop._batches(run, 0)))
    assert batch["videos"].shape == (4, 4, 32, 32, 3)
    assert len(made) == 1 and not made[0].options().autotune.enabled


def test_other_seeds_give_other_losses(config, tmp_path):
    short = dataclasses.replace(config, steps=1)
    loop.train(short, tmp_path / "a")
    loop.train(dataclasses.replace(short, seed=1), tmp_path / "b")
    assert losses(tmp_path / "a") != losses(tmp_path / "b")


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_checkpoint(config, tmp_path, monkeypatch):
    def spoiled(videos, config, **where):
        batches = training_batches(videos, config, **where).enumerate()
        return batches.map(
            lambda i, batch: {**batch, "images": to_float(batch["images"]) + tf.where(i == 3, np.float32(np.nan), 0.0)}
        )

    training_batches = loop.training_batches
    monkeypatch.setattr(loop, "training_batches", spoiled)
    with pytest.raises(
        FloatingPointError, match=r"loss_d_image.* not finite at step 4\. The checkpoint of step 3 is kept"
    ):
        loop.train(config, tmp_path / "run")
    assert checkpoints.steps(tmp_path / "run") == [3]


@pytest.mark.core
@pytest.mark.parametrize(
    ("message", "error", "words"),
    [
        (
            "OOM when allocating tensor with shape[8,64,13,32,32]",
            ValueError,
            "--video_batch or --image_batch, or --ngf",
        ),
        ("log.jsonl; No space left on device", OSError, "The disk is full; earlier checkpoints"),
    ],
)
def test_memory_or_disk_that_run_out_end_in_a_line_that_says_what_to_do(
    message, error, words, config, tmp_path, monkeypatch
):
    def fit(*args, callbacks, **kwargs):
        for one in callbacks.callbacks:
            if isinstance(one, StopOnSignal):
                one.on_train_begin()
        raise tf.errors.ResourceExhaustedError(None, None, message)

    monkeypatch.setattr(keras.Model, "fit", fit)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(error, match=words):
        loop.train(config, tmp_path / "run")
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.core
def test_a_run_directory_of_another_configuration_is_refused_and_the_difference_named(config, tmp_path):
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    resolved = config.resolve_categories(2)
    (run_dir / "config.json").write_text(dataclasses.replace(resolved, ngf=8, steps=99).to_json())
    with pytest.raises(ValueError, match=re.escape("another configuration (ngf: 8 -> 4)")):
        loop.train(config, run_dir)


@pytest.mark.core
def test_a_run_on_another_number_of_categories_is_refused_before_it_is_loaded(config, tmp_path):
    loop.train(dataclasses.replace(config, steps=1), tmp_path / "run")
    other = dataclasses.replace(config, dim_category=5, category_loss="infogan")
    with pytest.raises(ValueError, match="another configuration .*dim_category: 2 -> 5"):
        loop.train(other, tmp_path / "run")


@pytest.mark.core
def test_one_process_at_a_time_trains_in_a_run_directory(config, tmp_path):
    short = dataclasses.replace(config, steps=1)
    resolved, videos = short.resolve_categories(2), loop.open_videos(short)
    with run_directory.claim(tmp_path / "run", resolved, videos, 8.0):
        with pytest.raises(ValueError, match="Another process is training in"):
            loop.train(short, tmp_path / "run")
    (tmp_path / "run" / "config.json").unlink()
    (tmp_path / "run" / "data.json").unlink()  # As of a start that failed before it wrote them.
    assert loop.train(short, tmp_path / "run") == 0


@pytest.mark.slow
def test_spectral_normalisation_and_the_penalty_train_together_and_go_on_exactly(config, tmp_path):
    changes = {"discriminator_norm": "spectral", "noise_sigma": 0.0, "r1_image": 1.0, "r1_video": 1.0, "r1_every": 2}
    both = dataclasses.replace(config, **changes, steps=4, checkpoint_every=3)
    loop.train(both, tmp_path / "whole")
    loop.train(dataclasses.replace(both, steps=3), tmp_path / "parts")
    loop.train(both, tmp_path / "parts")
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")


@pytest.mark.core
def test_resume_never_refuses_a_run_and_must_insists_on_one(config, tmp_path):
    with pytest.raises(ValueError, match="no checkpoint to go on from"):
        loop.train(config, tmp_path / "empty", resume="must")
    (tmp_path / "config.json").write_text(config.resolve_categories(2).to_json())
    with pytest.raises(ValueError, match="already holds a run"):
        loop.train(config, tmp_path, resume="never")


@pytest.mark.core
def test_a_folder_of_other_things_is_not_taken_for_a_run_directory(config, tmp_path):
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(ValueError, match="not empty and holds no run"):
        loop.train(config, tmp_path)


@pytest.mark.slow
def test_several_steps_per_execution_end_at_the_step_asked_for(config, tmp_path):
    together = dataclasses.replace(config, steps=4, steps_per_execution=2, precision="mixed_float16")
    loop.train(together, tmp_path)
    assert checkpoints.steps(tmp_path) == [4]
    assert [line["step"] for line in losses(tmp_path)] == [2, 4]
    with pytest.raises(ValueError, match=r"steps_per_execution=2. Set --steps=6\."):
        loop.train(dataclasses.replace(together, steps=5), tmp_path)


def built_optimizers(**changes):
    """The model of a configuration whose optimizer settings all differ from the defaults, and its optimizers."""
    settings = {"learning_rate": 1e-3, "learning_rate_d": 3e-3, "beta_1": 0.3, "beta_2": 0.7, "weight_decay": 0.02}
    gan = build.build_gan(Config(**{**TINY, **settings, **changes}, asked=changes).resolve_categories(2))
    return gan, {
        "generator": gan.g_optimizer,
        "image_discriminator": gan.d_image_optimizer,
        "video_discriminator": gan.d_video_optimizer,
    }


@pytest.mark.core
@pytest.mark.parametrize("mode", ["coupled", "decoupled"])
@pytest.mark.parametrize("precision", ["float32", "mixed_bfloat16", "mixed_float16"])
def test_each_network_gets_an_adam_of_the_configurations_settings(mode, precision):
    gan, optimizers = built_optimizers(weight_decay_mode=mode, precision=precision)
    rates = {"generator": 1e-3, "image_discriminator": 3e-3, "video_discriminator": 3e-3}
    for name, optimizer in optimizers.items():
        assert isinstance(optimizer, keras.optimizers.LossScaleOptimizer) == (precision == "mixed_float16")
        adam = getattr(optimizer, "inner_optimizer", optimizer)
        assert type(adam) is keras.optimizers.Adam
        assert float(adam.learning_rate) == pytest.approx(rates[name])
        assert (adam.beta_1, adam.beta_2, adam.epsilon) == (0.3, 0.7, 1e-8)
        assert adam.weight_decay == (0.02 if mode == "decoupled" else None)
        moments = sorted(tuple(variable.shape) for variable in adam.variables if len(variable.shape))
        assert moments == sorted(2 * [tuple(variable.shape) for variable in getattr(gan, name).trainable_variables])
    # Either beside the gradient or in it, never both.
    assert gan.weight_decay == (0.02 if mode == "coupled" else 0.0)


@pytest.mark.core
def test_step_sizes_warm_up_and_the_video_discriminators_is_its_own():
    _, optimizers = built_optimizers(warmup_steps=4, d_video_rate=0.1)
    rates = {"generator": 1e-3, "image_discriminator": 3e-3, "video_discriminator": 3e-4}
    for name, rate in rates.items():
        risen = []
        for step in range(6):
            optimizers[name].iterations.assign(step)
            risen.append(float(optimizers[name].learning_rate))
        assert risen == pytest.approx([rate / 4, rate / 2, rate * 3 / 4, rate, rate, rate])


@pytest.mark.core
def test_no_decay_and_no_image_discriminator_leave_nothing_behind():
    gan, optimizers = built_optimizers(weight_decay=0.0, image_discriminator="none")
    assert gan.weight_decay == 0.0 and optimizers["image_discriminator"] is None
    assert optimizers["generator"].weight_decay is None and optimizers["video_discriminator"].weight_decay is None
