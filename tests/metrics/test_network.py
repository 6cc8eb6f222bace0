"""Promises of the feature network: it follows its seed, is kept, sees damages, and tells classes on clips held out."""

import dataclasses
import pathlib

import numpy as np
import pytest

from mocogan_tf.config import Config
from mocogan_tf.data.cache import VideoSet
from mocogan_tf.data.datasets import open_videos
from mocogan_tf.metrics import network
from mocogan_tf.metrics.clips import Clips, real_clips
from mocogan_tf.metrics.network import Recipe
from tests.metrics.test_monitor import shape_videos

QUICK = Recipe(min_steps=8, max_steps=8, batch=8)
rng = np.random.default_rng(0)


def numbered(number=3, length=6):
    """Clips of which every pixel tells clip and frame."""
    values = 40 * np.arange(number)[:, None] + 5 * np.arange(length)
    return np.broadcast_to(values[..., None, None, None], (number, length, 32, 32, 3)).astype(np.uint8)


def damaged(clips, name):
    kinds = np.full(len(clips), network.DAMAGES.index(name))
    return network.damage(clips, kinds, np.random.default_rng(1))


def test_temporal_damages_do_what_they_are_called():
    clips = numbered()
    tones = clips[..., 0, 0, 0].astype(int)
    shuffled = damaged(clips, "shuffled")[..., 0, 0, 0]
    assert (np.sort(shuffled, axis=1) == tones).all() and (shuffled != tones).any()
    frozen = damaged(clips, "frozen")[..., 0, 0, 0]
    assert (frozen == frozen[:, :1]).all() and all(tone in of for tone, of in zip(frozen[:, 0], tones, strict=True))
    spliced = damaged(clips, "spliced")[..., 0, 0, 0]
    other = np.roll(tones, -1, axis=0)
    for clip, own, following in zip(spliced, tones, other, strict=True):
        cut = int((clip == own).sum())
        assert 1 <= cut < 6 and (clip[:cut] == own[:cut]).all() and (clip[cut:] == following[cut:]).all()
    np.testing.assert_array_equal(damaged(clips, "blended")[..., 0, 0, 0], (tones + other) // 2)
    np.testing.assert_array_equal(damaged(clips, "none"), clips)


def test_spatial_damages_do_what_they_are_called():
    clips = rng.integers(0, 256, (2, 4, 32, 32, 3)).astype(np.uint8)
    tiles = damaged(clips, "tiles")
    assert (tiles != clips).any()
    np.testing.assert_array_equal(np.sort(tiles.reshape(2, 4, -1)), np.sort(clips.reshape(2, 4, -1)))
    same_order = damaged(np.repeat(clips[:, :1], 4, axis=1), "tiles")
    assert (same_order == same_order[:, :1]).all()
    blurred = damaged(clips, "blurred")
    assert (blurred[:, :, ::4, ::4] == blurred[:, :, 3::4, 3::4]).all()
    assert abs(blurred.mean() - clips.mean()) < 1


def test_shrinking_averages_and_refuses_what_it_cannot_halve():
    frames = rng.integers(0, 256, (3, 128, 128, 3)).astype(np.uint8)
    expected = frames.reshape(3, 32, 4, 32, 4, 3).mean(axis=(2, 4))
    assert np.abs(network.shrink(frames) - expected).max() <= 1.5  # Two roundings.
    with pytest.raises(ValueError, match="Received: 48x48"):
        network.shrink(np.zeros((48, 48, 3), np.uint8))


def test_the_same_clips_and_recipe_give_the_same_network(tmp_path):
    clips = Clips(shape_videos(40).frames[:80].reshape(20, 4, 32, 32, 3))
    options = {"num_frames": 4, "every_nth": 1, "recipe": QUICK}
    first, second = (network.open_network(shape_videos(40), cache_dir=str(tmp_path / n), **options) for n in "ab")
    assert first.name == second.name
    np.testing.assert_array_equal(first(clips).features, second(clips).features)
    loaded = network.open_network(shape_videos(40), cache_dir=str(tmp_path / "a"), **options)
    np.testing.assert_array_equal(loaded(clips).features, first(clips).features)
    assert loaded.accuracy == first.accuracy


def test_other_clips_labels_or_recipes_give_a_network_of_another_name():
    videos = shape_videos(40)
    pixels = videos.frames.copy()
    pixels[4] = 255 - pixels[4]
    others = [
        (dataclasses.replace(videos, labels=1 - videos.labels), QUICK),
        (dataclasses.replace(videos, frames=pixels), QUICK),
        (videos, dataclasses.replace(QUICK, seed=1)),
    ]
    names = {network._digest(found, 4, 1, recipe) for found, recipe in [(videos, QUICK), *others]}
    assert len(names) == 4


def test_kept_networks_go_by_the_same_name_as_in_version_0_1():
    lengths = np.full(6, 4, np.int64)
    frames = (np.arange(24 * 32 * 32 * 3) % 251).astype(np.uint8).reshape(24, 32, 32, 3)
    videos = VideoSet(
        name="few",
        categories=("up", "left"),
        fps=8.0,
        labels=np.array([0, 1] * 3, np.int32),
        lengths=lengths,
        offsets=np.cumsum(lengths) - lengths,
        names=tuple("abcdef"),
        frames=frames,
    )
    assert network._digest(videos, 4, 1, Recipe()) == "796161a576bb7299"


def test_a_damaged_file_is_made_again(tmp_path, caplog):
    options = {"num_frames": 4, "every_nth": 1, "recipe": QUICK, "cache_dir": str(tmp_path)}
    first = network.open_network(shape_videos(40), **options)
    path = pathlib.Path(tmp_path) / f"{first.name}.npz"
    path.write_bytes(path.read_bytes()[:1000])
    again = network.open_network(shape_videos(40), **options)
    clips = Clips(shape_videos(40).frames[:16].reshape(4, 4, 32, 32, 3))
    np.testing.assert_array_equal(again(clips).features, first(clips).features)


def test_features_of_real_clips_have_deviation_1(tmp_path):
    options = {"num_frames": 4, "every_nth": 1, "recipe": QUICK, "cache_dir": str(tmp_path)}
    videos = shape_videos(160)
    features = network.open_network(videos, **options)(real_clips(videos, 300, 4, 1, seed=0)).features
    assert np.median(features.std(axis=0)) == pytest.approx(1.0, abs=0.2)


def test_too_few_videos_are_refused(tmp_path):
    with pytest.raises(ValueError, match="at least 5 real videos .* has 4"):
        network.open_network(shape_videos(4), num_frames=4, every_nth=1, cache_dir=str(tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize(("dataset", "num_clips"), [("shapes", 800), ("taichi", 2000)])
def test_classes_of_the_rendered_sets_are_told_on_clips_held_out(dataset, num_clips, tmp_path):
    config = Config(dataset=dataset, num_clips=num_clips, cache_dir=str(tmp_path))
    videos = open_videos(config)
    found = network.open_network(videos, num_frames=16, every_nth=2, cache_dir=str(tmp_path))
    assert found.accuracy["category"] >= 0.95
