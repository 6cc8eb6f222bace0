"""Promises of the parts that a run is put together from: with stubs in place of networks, clips and clocks."""

import dataclasses
import json
import shutil
import types

import numpy as np
import pytest
import tensorflow as tf

from mocogan_tf import sampling
from mocogan_tf.config import Config, differences
from mocogan_tf.data.cache import VideoSet
from mocogan_tf.training import callbacks, evaluation, loop, run_directory, trained, warnings
from tests.support.commands import ROOT
from tests.support.tiny import TINY

pytestmark = pytest.mark.core


def videos(fps=12.0, num_clips=2):
    return VideoSet(
        name="stub", categories=("a", "b"), fps=fps, labels=np.arange(num_clips, dtype=np.int32) % 2,
        lengths=np.full(num_clips, 9), offsets=9 * np.arange(num_clips), names=("one", "two", "three")[:num_clips],
        frames=np.zeros((9 * num_clips, 32, 32, 3), np.uint8),
    )  # fmt: skip


def run_of(config, tmp_path):
    return loop.Run(config, tmp_path, videos(), None, types.SimpleNamespace(is_chief=True))


def test_scores_are_of_the_runs_configuration_clips_and_seed(tmp_path, monkeypatch):
    config = Config(**{**TINY, "video_length": 8}, seed=7, every_nth=3, evaluate_every=1).resolve_categories(2)
    asked = []
    monkeypatch.setattr(loop, "Monitor", lambda *args, **options: asked.append((args, options)))
    run = run_of(config, tmp_path)
    for stride in (1, 2):
        *_, saving = loop._callbacks(run, 0, stride)
        saving.evaluate.make_monitor()
    for ((compared, clips), options), stride in zip(asked, (1, 2), strict=True):
        assert clips is run.videos and options == {"seed": 7}
        assert compared == dataclasses.replace(config, video_length=8 // stride, every_nth=3 * stride)


def test_a_runs_clips_are_slower_than_the_videos_by_the_frames_left_out(tmp_path):
    config = Config(**TINY, every_nth=3).resolve_categories(2)
    run = run_of(config, tmp_path)
    assert run.fps == 4.0
    samples = next(found for found in loop._callbacks(run, 0, 1) if isinstance(found, callbacks.Samples))
    assert samples.fps == 4.0
    with run_directory.claim(tmp_path / "run", config, run.videos, run.fps):
        assert run_directory.read_data(tmp_path / "run")["fps"] == 4.0


def test_a_run_goes_on_with_more_rendered_clips_where_that_is_allowed(tmp_path):
    few, more = (Config(**{**TINY, "num_clips": number}).resolve_categories(2) for number in (2, 3))
    with run_directory.claim(tmp_path / "run", few, videos(), 12.0):
        pass
    run_directory.check(tmp_path / "run", more, "auto")
    with pytest.raises(ValueError, match=r"was trained on other clips: 1 new \(three\)\..*--allow_changed_data"):
        run_directory.check_clips(tmp_path / "run", more, videos(num_clips=3))
    run_directory.check_clips(tmp_path / "run", more, videos(num_clips=3), allow_changed_data=True)


def test_a_bundle_whose_configuration_holds_an_idle_value_is_read_and_scored_on_other_clips(tmp_path):
    bundle = shutil.copytree(ROOT / "pretrained" / "shapes", tmp_path / "bundle")
    described = json.loads((bundle / "bundle.json").read_text())
    described["provenance"]["config"].update(mask_weight=0.2, num_clips=2000)
    (bundle / "bundle.json").write_text(json.dumps(described))
    found = trained.open_bundle(bundle)
    assert (found.config.mask_weight, found.config.num_clips) == (0.1, 2000)
    material = evaluation.material_of(found, num_videos=4, seed=0, data_dir="/clips")
    assert material.config.data_dir == "/clips"


class Ended(Exception):
    pass


@pytest.mark.parametrize("deterministic", [False, True])
def test_deterministic_makes_tensorflow_deterministic(deterministic, tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr(tf.config.experimental, "enable_op_determinism", lambda: told.append(True))

    def ended(*args):
        raise Ended

    monkeypatch.setattr(loop, "make_strategy", ended)
    with pytest.raises(Ended):
        loop.train(Config(**TINY, deterministic=deterministic), tmp_path)
    assert told == [True] * deterministic


def test_the_exit_code_tells_what_ended_a_run():
    assert loop.EXIT_CODES == {None: 0, 2: 130, 15: 143} and loop.WORKER_LOST == 75


FREE = {
    "steps", "data_dir", "num_clips", "cache_dir", "jit_compile", "steps_per_execution", "log_every", "sample_every",
    "checkpoint_every", "keep_checkpoints", "keep_every", "evaluate_every",
}  # fmt: skip


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(Config)])
def test_a_run_goes_on_only_with_what_decides_its_method_unchanged(name):
    config = Config(**TINY).resolve_categories(2)
    value = getattr(config, name)
    another = f"{value}x" if isinstance(value, str) else value + 1
    other = object.__new__(Config)  # Whatever it means beside the others: one field differs.
    other.__dict__.update(vars(config) | {name: another})
    assert differences(config, other) == ([] if name in FREE else [f"{name}: {value} -> {another}"])


def test_samples_are_of_the_averaged_generator_and_of_the_same_latents_each_time(tmp_path, monkeypatch):
    asked, clips = [], np.zeros((4, 3, 8, 8, 3), np.uint8)
    monkeypatch.setattr(sampling, "overview", lambda *args, **options: asked.append((args, options)) or (clips, 2))
    average = types.SimpleNamespace(frame_stride=2)
    board = types.SimpleNamespace(write_film=lambda *args: films.append(args))
    films = []
    samples = callbacks.Samples(tmp_path, 0, 5, video_length=6, fps=8.0, seed=3, tensorboard=board)
    samples.set_model(types.SimpleNamespace(sampler=average, generator="the raw one", steps_per_execution=1))
    for step in range(12):
        samples.on_train_batch_end(step, {})
    samples.on_train_end()
    assert asked == [((average, 6), {"seed": 3})] * 3
    assert [(fps, step) for _, _, fps, step in films] == [(4.0, 5), (4.0, 10), (4.0, 12)]
    assert sorted(path.stem for path in (tmp_path / "samples").glob("*.webp")) == [
        "step-00000005", "step-00000010", "step-00000012",
    ]  # fmt: skip


def test_the_pace_counts_clips_of_all_steps_since_the_last_line(tmp_path, monkeypatch, capsys):
    now = [100.0]
    monkeypatch.setattr(callbacks.time, "monotonic", lambda: now[0])
    log = callbacks.JsonLog(tmp_path, 10, 5, clips_per_step=8)
    progress = callbacks.Progress(10, 30, 5, clips_per_step=8)
    model = types.SimpleNamespace(steps_per_execution=1)
    for callback in (log, progress):
        callback.set_model(model)
        callback.on_train_begin()
    for step in range(10):
        now[0] += 0.5 if step < 5 else 0.25
        for callback in (log, progress):
            callback.on_train_batch_end(step, {"loss_g": 1.0})
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [15, 20]
    assert [line["seconds_per_step"] for line in lines] == [0.5, 0.25]
    assert [line["clips_per_second"] for line in lines] == [16.0, 32.0]
    said = capsys.readouterr().out.splitlines()
    # From the end of the first step on: four steps in two seconds; then nine in three and a quarter.
    assert [line.split("  ")[2] for line in said] == ["16.0 clips/s", "22.2 clips/s"]


def points(folder):
    return sorted(
        (event.step, value.tag)
        for path in folder.iterdir()
        for event in tf.compat.v1.train.summary_iterator(str(path))
        for value in event.summary.value
    )


def test_a_run_that_goes_on_cuts_tensorboards_curves_at_its_checkpoint(tmp_path):
    first = callbacks.TensorBoardLog(tmp_path, 0, 1)
    for step in range(1, 7):
        first.on_step(step - 1, step, {"loss_g": float(step)})
    folder = tmp_path / "tensorboard"
    (path,) = folder.iterdir()
    path.write_bytes(path.read_bytes()[:-5])  # Killed in the middle of the last record.
    callbacks.TensorBoardLog(tmp_path, 3, 1).on_step(3, 4, {"loss_g": 9.0})
    assert points(folder) == [(1, "loss/g"), (2, "loss/g"), (3, "loss/g"), (4, "loss/g")]


def test_warnings_come_at_the_documented_numbers():
    assert (warnings.EARLY, warnings.WINDOW) == (1000, 500)
    won = warnings.balance_warning("video", "r1_video", 0.019, 0.996)
    assert "has won" in won
    for loss, accuracy in ((0.021, 0.996), (0.019, 0.994), (1.349, 0.549), (1.351, 0.551)):
        assert warnings.balance_warning("video", "r1_video", loss, accuracy) is None
    assert "tells nothing apart" in warnings.balance_warning("video", "r1_video", 1.351, 0.549)
    real = {"diversity_real": 100.0, "motion_real": 10.0}
    for diversity, motion, subjects in (
        (25.1, 1.01, []),
        (24.9, 1.01, ["mode collapse"]),
        (25.1, 0.99, ["motion collapse"]),
        (25.1, 39.9, []),
        (25.1, 40.1, ["flicker"]),
    ):
        found = warnings.collapse_warnings({"diversity": diversity, "motion": motion, **real})
        assert [text.partition(":")[0] for text in found] == subjects
