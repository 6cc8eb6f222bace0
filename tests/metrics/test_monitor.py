"""Promises of the scores that training watches: fixed clips, right direction, no trace left in random states."""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf

from mocogan_tf.data.cache import VideoSet
from mocogan_tf.data.rendered import shapes
from mocogan_tf.latents import LatentSpec
from mocogan_tf.metrics.monitor import Monitor
from mocogan_tf.metrics.network import Recipe
from mocogan_tf.video import from_uint8
from tests.support.tiny import tiny_config

QUICK = Recipe(min_steps=30, max_steps=30, batch=16)
NUM_CLIPS = 128


def shape_videos(number=160, labelled=True):
    """Rendered shapes of eight frames at 32x32."""
    clips = [shapes.render_clip(i, seed=0, num_frames=8, image_size=32) for i in range(number)]
    lengths = np.full(number, 8, np.int64)
    return VideoSet(
        name="shapes",
        categories=shapes.CATEGORIES if labelled else (),
        fps=8.0,
        labels=np.array([clip.label if labelled else 0 for clip in clips], np.int32),
        lengths=lengths,
        offsets=np.cumsum(lengths) - lengths,
        names=tuple(str(i) for i in range(number)),
        frames=np.concatenate([clip.frames for clip in clips]),
    )


class Replay:
    """A generator that gives out real clips of the class asked for, changed; remembers the latents."""

    def __init__(self, videos, change=lambda clips: clips):
        self.latents = LatentSpec(dim_content=2, dim_motion=2, dim_category=len(videos.categories))
        self.videos, self.change = videos, change
        self.used = [0, 0]
        self.asked = []

    def __call__(self, latents, training):
        self.asked.append(latents["content"])
        asked = latents["category"].argmax(1) if "category" in latents else np.zeros(len(latents["content"]), int)
        clips = []
        for label in asked:
            of_class = np.flatnonzero(self.videos.labels == label)
            video, start = self.videos[of_class[self.used[label] % len(of_class)]], self.used[label] % 5
            clips.append(video[start : start + 4])
            self.used[label] += 1
        return {"video": from_uint8(self.change(np.stack(clips)))}


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def config(cache):
    return tiny_config(cache_dir=cache, every_nth=1)


@pytest.fixture(scope="module")
def watched(config):
    return Monitor(config, shape_videos(), NUM_CLIPS, seed=3, recipe=QUICK)


def test_scores_of_shapes_have_the_promised_names_and_are_plain_finite_numbers(watched):
    scores = watched(Replay(shape_videos()))
    assert tuple(scores) == watched.names
    assert set(watched.names) == {
        *("frechet_video", "frechet_frame", "kernel_video", "swd_32", "swd_16", "spectrum_high", "spectrum_checker"),
        *("mcs", "acd_color", "coverage", "color_diversity"),
        *("diversity", "motion", "diversity_real", "motion_real"),
    }
    assert all(type(value) is float and np.isfinite(value) for value in scores.values())
    assert scores["acd_color"] == 0.0 and scores["coverage"] == 1.0
    assert scores["diversity"] == pytest.approx(scores["diversity_real"], rel=0.1)
    assert scores["motion"] == pytest.approx(scores["motion_real"], rel=0.1)


def test_the_same_latents_are_asked_for_each_time_and_give_the_same_scores(watched):
    first, second = Replay(shape_videos()), Replay(shape_videos())
    assert watched(first) == watched(second)
    np.testing.assert_array_equal(np.concatenate(first.asked), np.concatenate(second.asked))


@pytest.mark.parametrize(
    "change",
    [
        lambda clips: np.zeros_like(clips),
        lambda clips: clips[:1].repeat(len(clips), axis=0),
        lambda clips: clips[:, :1].repeat(clips.shape[1], axis=1),
        lambda clips: 255 - clips,
    ],
    ids=["black", "one clip per batch", "frozen", "inverted"],
)
def test_damaged_clips_are_farther_from_the_real_ones(watched, change):
    videos = shape_videos()
    assert watched(Replay(videos, change=change))["frechet_video"] > 1.5 * watched(Replay(videos))["frechet_video"]


def test_collapse_shows_in_diversity_and_motion(watched):
    videos = shape_videos()
    one = watched(Replay(videos, change=lambda clips: np.full_like(clips, 40)))
    assert one["diversity"] == 0.0 and one["motion"] == 0.0
    assert one["diversity_real"] > 5 and one["motion_real"] > 1


def test_black_clips_have_the_largest_color_distance_not_none(watched):
    scores = watched(Replay(shape_videos(), change=np.zeros_like))
    assert scores["acd_color"] == pytest.approx(255 * np.sqrt(3)) and scores["coverage"] == 0.0


def test_mcs_is_the_share_of_clips_taken_for_the_class_that_was_asked_for(watched, monkeypatch):
    network = watched._network

    def one_in_four_wrong(clips):
        taken_for = np.where(np.arange(len(clips)) % 4 == 0, 1 - clips.labels, clips.labels)
        return dataclasses.replace(network(clips), categories=taken_for)

    monkeypatch.setattr(watched, "_network", one_in_four_wrong)
    assert watched(Replay(shape_videos()))["mcs"] == 0.75


def test_clips_without_labels_have_no_mcs(config):
    unlabelled = dataclasses.replace(config, dim_category=0, category_loss="none")
    watched = Monitor(unlabelled, shape_videos(labelled=False), NUM_CLIPS, seed=3, recipe=QUICK)
    assert "mcs" not in watched.names and "frechet_video" in watched.names
    assert watched(Replay(shape_videos(labelled=False)))["frechet_video"] > 0


def test_categories_that_were_found_are_not_the_sets_classes(config):
    found = dataclasses.replace(config, category_loss="infogan")
    assert "mcs" not in Monitor(found, shape_videos(), NUM_CLIPS, seed=3, recipe=QUICK).names


def test_an_empty_file_in_the_networks_place_is_damaged_and_made_again(config, tmp_path, caplog):
    elsewhere = dataclasses.replace(config, cache_dir=str(tmp_path))
    Monitor(elsewhere, shape_videos(), NUM_CLIPS, seed=3, recipe=QUICK)
    (kept,) = tmp_path.glob("clipnet-*.npz")
    kept.write_bytes(b"")
    with caplog.at_level("WARNING"):
        Monitor(elsewhere, shape_videos(), NUM_CLIPS, seed=3, recipe=QUICK)
    assert "is damaged (it is empty)" in caplog.text and kept.stat().st_size > 1000


def test_the_network_is_kept_and_the_second_monitor_gives_the_same_scores(config, watched, capfd):
    again = Monitor(config, shape_videos(), NUM_CLIPS, seed=3, recipe=QUICK)
    assert "Training" not in capfd.readouterr().err
    assert again.features == watched.features
    assert again(Replay(shape_videos())) == watched(Replay(shape_videos()))


def test_global_random_states_are_left_alone(config, tmp_path):
    draws = []
    for with_monitor in (False, True):
        keras.utils.set_random_seed(5)
        if with_monitor:
            elsewhere = dataclasses.replace(config, cache_dir=str(tmp_path))
            Monitor(elsewhere, shape_videos(), NUM_CLIPS, seed=3, recipe=QUICK)(Replay(shape_videos()))
        layer = keras.layers.Dense(3)
        layer.build((None, 2))
        draws.append([np.random.random(2), tf.random.uniform([2]).numpy(), layer.get_weights()[0].ravel()])
    for without, after in zip(*draws, strict=True):
        np.testing.assert_array_equal(without, after)


def test_too_few_clips_are_refused(config):
    with pytest.raises(ValueError, match="at least 128. Received: num_clips=127"):
        Monitor(config, shape_videos(), 127)


class Brighter:
    """Animates pictures of one colour each: all frames of a clip are five brighter than its picture."""

    latents = LatentSpec(dim_content=2, dim_motion=2, dim_category=2, content_from="pictures")

    def encode(self, pictures):
        return pictures[:, 0, 0, :2].astype(np.float32)

    def __call__(self, latents, training):
        value = latents["content"][:, :1, None, None, None] + 5
        return {"video": from_uint8((value * np.ones((1, 4, 32, 32, 3))).astype(np.uint8))}


def test_of_animated_pictures_the_first_frames_are_watched_too(config, watched):
    def pictures(number):
        assert number == NUM_CLIPS
        return (np.arange(0, 240, 12)[:, None, None, None] * np.ones((1, 32, 32, 3))).astype(np.uint8)

    monitor = Monitor(config, shape_videos(), NUM_CLIPS, seed=3, recipe=QUICK, pictures=pictures)
    scores = monitor(Brighter())
    assert scores["first_frame_l1"] == 5.0
    assert set(monitor.names) - set(watched.names) == {"first_frame_l1"} and tuple(scores) == monitor.names
