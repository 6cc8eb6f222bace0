"""Promises of the pictures that a model animates."""

import numpy as np
import pytest

from mocogan_tf.data.datasets import RENDER_SEED, open_videos
from mocogan_tf.data.pictures import pictures_to_animate
from tests.support.made_clips import frames_of, save_strip

pytestmark = pytest.mark.core


def test_pictures_of_a_rendered_set_are_first_frames_of_clips_that_are_not_in_training(make_config, fake_renderer):
    config = make_config(dataset="fake")
    training = open_videos(config)
    fake_renderer.calls.clear()
    found = pictures_to_animate(config, training, 5)
    assert found.held_out and found.pixels.shape == (5, 32, 32, 3) and found.pixels.dtype == np.uint8
    assert [index for index, _ in fake_renderer.calls] == list(range(5))
    assert {seed for _, seed in fake_renderer.calls}.isdisjoint({RENDER_SEED})
    np.testing.assert_array_equal(found.pixels[:, 0, 0, 0], 10 * np.arange(5))
    np.testing.assert_array_equal(pictures_to_animate(config, training, 3).pixels, found.pixels[:3])


def folder(path, splits, number=6):
    for s, split in enumerate(splits):
        for i in range(number):
            save_strip(path / split / f"clip-{s}-{i}.png", frames_of(8, first=100 * s + 10 * i))
    return path


def test_pictures_of_a_divided_set_are_of_its_test_clips(make_config, tmp_path):
    config = make_config(data_dir=str(folder(tmp_path / "set", ["train", "test"])))
    found = pictures_to_animate(config, open_videos(config), 16)
    assert found.held_out
    assert sorted(found.pixels[:, 0, 0, 0].tolist()) == [100 + 10 * i for i in range(6)]


def test_pictures_of_any_other_set_are_of_training_clips_and_spread_over_it(make_config, tmp_path):
    config = make_config(data_dir=str(folder(tmp_path / "set", ["."])))
    found = pictures_to_animate(config, open_videos(config), 3)
    assert not found.held_out and "training clips" in found.words
    assert found.pixels[:, 0, 0, 0].tolist() == [0, 20, 50]
