"""Promises of the pictures that a model animates."""

import numpy as np
import pytest
from PIL import Image

from mocogan_tf.data.datasets import RENDER_SEED, open_videos
from mocogan_tf.data.pictures import pictures_to_animate
from mocogan_tf.data.sources.fitting import read_picture
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


def test_a_picture_is_cropped_and_resized_as_clips_are_and_says_so(tmp_path):
    pixels = np.zeros((48, 80, 3), np.uint8)
    pixels[:, 16:64] = [250, 120, 30]  # The central square.
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    found, words = read_picture(tmp_path / "wide.png", 32, 3)
    assert words == "wide.png: 80x48, cut to its central 48x48, resized to 32x32"
    np.testing.assert_array_equal(found, np.broadcast_to(np.array([250, 120, 30], np.uint8), (32, 32, 3)))
    grey, _ = read_picture(str(tmp_path / "wide.png"), 32, 1)
    assert grey.shape == (32, 32, 1)


def test_of_an_animation_the_first_frame_is_taken(tmp_path):
    frames = [Image.fromarray(frame) for frame in frames_of(3, first=50)]
    frames[0].save(tmp_path / "film.gif", save_all=True, append_images=frames[1:])
    found, words = read_picture(tmp_path / "film.gif", 32, 3)
    assert (found == 50).all() and words == "film.gif: 32x32"


@pytest.mark.parametrize(
    ("name", "content"),
    [("missing.png", None), ("text.txt", b"hello"), ("cut.png", b"\x89PNG\r\n\x1a\n123"), ("empty.jpg", b"")],
)
def test_what_is_no_picture_is_one_line_with_its_name(name, content, tmp_path):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"Cannot read the picture .*{name}: .+") as error:
        read_picture(tmp_path / name, 32, 3)
    assert "\n" not in str(error.value)
