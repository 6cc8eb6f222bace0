"""Promises of the pictures that a model animates."""

import numpy as np
import pytest
from PIL import Image

from mocogan_tf.data.datasets import RENDER_SEED, open_videos
from mocogan_tf.data.pictures import pictures_to_animate
from mocogan_tf.data.sources.fitting import read_given_clip
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


def values(frames):
    return frames[:, 0, 0, 0].tolist()


def test_a_given_clip_has_the_rate_and_the_length_that_are_asked_for(tmp_path):
    frames = [Image.fromarray(frame) for frame in frames_of(12, first=50)]
    frames[0].save(tmp_path / "film.gif", save_all=True, append_images=frames[1:], duration=50)
    found, words = read_given_clip(tmp_path / "film.gif", 32, 3, 10.0, 4)
    assert values(found) == [50, 52, 54, 56]
    assert words == "film.gif: 32x32, 4 frames of it at 10 per second"
    assert values(read_given_clip(tmp_path / "film.gif", 32, 3, 10.0, 100)[0]) == list(range(50, 62, 2))


@pytest.mark.parametrize("kind", ["folder", "strip", "array"])
def test_a_given_clip_without_a_rate_is_taken_frame_by_frame(kind, tmp_path):
    pixels = frames_of(11, size=64)
    path = tmp_path / {"folder": "frames", "strip": "clip.png", "array": "clip.npy"}[kind]
    if kind == "folder":
        path.mkdir()
        (path / "notes.txt").write_text("no picture")
        for i, frame in enumerate(pixels):
            Image.fromarray(frame).save(path / f"{i}.png")
    elif kind == "strip":
        save_strip(path, pixels)
    else:
        np.save(path, pixels)
    found, words = read_given_clip(str(path), 32, 3, 8.0, 100)
    assert found.shape == (11, 32, 32, 3) and values(found) == list(range(11))
    assert words.endswith(": 64x64, resized to 32x32, 11 frames of it at no known rate")


def test_what_is_no_clip_is_one_line_with_its_name(tmp_path):
    Image.new("RGB", (32, 32)).save(tmp_path / "picture.png")
    frames = [Image.fromarray(frame) for frame in frames_of(3)]
    frames[0].save(tmp_path / "fast.gif", save_all=True, append_images=frames[1:], duration=20)
    np.save(tmp_path / "two.npy", np.stack([frames_of(5), frames_of(5)]))
    (tmp_path / "empty").mkdir()
    for name, why in {
        "missing.gif": "No such file",
        "picture.png": "a single picture",
        "fast.gif": "fewer than two frames at 8 per second",
        "two.npy": "holds 2 clips, and one is needed",
        "empty": "holds no pictures",
    }.items():
        with pytest.raises(ValueError, match=f"(?i)Cannot read the clip .*{name}: .*{why}") as error:
            read_given_clip(tmp_path / name, 32, 3, 8.0, 16)
        assert "\n" not in str(error.value)
