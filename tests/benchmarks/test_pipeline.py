"""The sides of `benchmarks.pipeline` do the same work, and its report says what its page says it does."""

import dataclasses

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("av")

from benchmarks import pipeline_sides, torch_loader
from mocogan_tf.data.datasets import open_videos

SIZES = {"image_size": 32, "video_length": 4, "every_nth": 2, "video_batch": 2, "image_batch": 4, "ngf": 4, "ndf": 4}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    pipeline_sides.make_files(folder, 6, num_frames=8, image_size=32)
    return folder


def sides_of(files, tmp_path, source):
    config = pipeline_sides.config_of(files / source, tmp_path, **SIZES)
    sizes = (config.video_length, config.every_nth, config.image_size)
    return config, open_videos(config), pipeline_sides.SOURCES[source](config.data_dir, *sizes)


@pytest.mark.parametrize("source", pipeline_sides.SOURCES)
def test_both_sides_cut_the_same_pixels(files, tmp_path, source):
    config, videos, dataset = sides_of(files, tmp_path, source)
    assert len(videos) == len(dataset) == 6
    assert pipeline_sides.same_cuts(videos, dataset, clips=6)
    decoded = torch_loader.DecodedClips(videos.folder, config.video_length, config.every_nth, config.image_size)
    assert pipeline_sides.same_cuts(videos, decoded, clips=6)
    darker = dataclasses.replace(videos, frames=np.array(videos.frames) // 2)
    assert not pipeline_sides.same_cuts(darker, dataset, clips=6)


def test_an_epoch_of_the_rival_has_every_clip_once_and_full_batches(files, tmp_path):
    config, _, dataset = sides_of(files, tmp_path, "raw shards")
    steps = list(torch_loader.Steps(dataset, config.video_batch, config.image_batch))
    assert sorted(i for step in steps for kind, i in step if kind == "clip") == list(range(6))
    assert all(sum(kind == "image" for kind, _ in step) == 4 for step in steps)
    clips, images = next(iter(torch_loader.loader(dataset, config.video_batch, config.image_batch)))
    assert clips.shape == (2, 3, 4, 32, 32) and images.shape == (4, 3, 32, 32)
    assert -1 <= clips.min() < clips.max() <= 1


def test_a_run_is_its_first_epoch_and_the_later_ones():
    sides = {"first epoch": {"ours": 7.0, "torch": 4.0}, "later epochs": {"ours": 1.0, "torch": 3.0}}
    result = {epoch: {name: {"median_s": value} for name, value in both.items()} for epoch, both in sides.items()}
    assert pipeline_sides.ratio_of_run(result, 1) == 4 / 7
    assert pipeline_sides.ratio_of_run(result, 5) == (4 + 4 * 3) / (7 + 4 * 1)


@pytest.mark.slow
def test_the_report_holds_every_source_epoch_and_side(tmp_path):
    report = pipeline_sides.run(tmp_path, clips=6, rounds=1, timed_steps=1, num_frames=8, **SIZES, steps=9, num_clips=6)
    assert list(report["results"]) == ["png shards", "raw shards", "strips", "video files"]
    for epochs in report["results"].values():
        assert set(epochs["first epoch"]) == {"ours", "torch", "ratio", "ratio_vs", "ratio_cpu_vs"}
        assert set(epochs["later epochs"]) == {*epochs["first epoch"], "torch, decoded once"}
        for sides in epochs.values():
            ours, rival = sides["ours"], sides["torch"]
            assert 0 < ours["min_s"] <= ours["median_s"] <= ours["max_s"] and ours["cpu_s"] > 0
            assert sides["ratio_vs"]["torch"] == pytest.approx(rival["median_s"] / ours["median_s"])
    assert report["ratio"] == min(e["later epochs"]["ratio_vs"]["torch"] for e in report["results"].values())
    first, later = (report["results"]["strips"][epoch] for epoch in ("first epoch", "later epochs"))
    theirs, ours = (first[side]["median_s"] + 2 * later[side]["median_s"] for side in ("torch", "ours"))
    assert report["epochs_of_a_run"] == 3 and report["ratio_run"]["strips"] == pytest.approx(theirs / ours)
    assert 0 < report["ratio_step"] and 0 <= report["waiting_share"] < 1
