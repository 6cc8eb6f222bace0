"""Promises of pixels, grids and files."""

import io
import resource
import tracemalloc

import numpy as np
import pytest
from PIL import Image

from mocogan_tf import video

pytestmark = pytest.mark.core
RNG = np.random.default_rng(0)


def clip(frames=5, height=8, width=8, channels=3):
    return RNG.integers(0, 256, (frames, height, width, channels), np.uint8)


def test_every_pixel_value_survives_the_way_there_and_back():
    values = np.arange(256, dtype=np.uint8)
    np.testing.assert_array_equal(video.to_uint8(video.from_uint8(values)), values)


def test_values_outside_the_range_are_clipped():
    assert video.to_uint8([-2.0, -1.0, 0.0, 1.0, 2.0]).tolist() == [0, 0, 128, 255, 255]


def test_grid_lays_clips_out_row_by_row():
    clips = np.stack([np.full((2, 4, 4, 3), i, np.uint8) for i in range(6)])
    laid = video.grid(clips, columns=3, gap=2, background=9)
    assert laid.shape == (2, 2 * 6 - 2, 3 * 6 - 2, 3)
    assert [[laid[0, 6 * r, 6 * c, 0] for c in range(3)] for r in range(2)] == [[0, 1, 2], [3, 4, 5]]
    assert laid[1, 4, 0, 0] == laid[1, 0, 4, 0] == 9


def test_what_the_last_row_of_a_grid_lacks_is_black():
    laid = video.grid(np.full((5, 2, 4, 4, 3), 200, np.uint8), columns=3, gap=2, background=9)
    assert laid.shape == (2, 2 * 6 - 2, 3 * 6 - 2, 3)
    assert (laid[:, 6:, 6:10] == 200).all() and (laid[:, 6:, 12:] == 0).all() and (laid[:, 6:, 10:12] == 9).all()


def test_film_strips_have_a_line_per_clip_and_frames_from_left_to_right():
    clips = np.stack([clip(), clip()])
    strips = video.film_strips(clips, gap=1)
    assert strips.shape == (2 * 9 - 1, 5 * 8, 3)
    np.testing.assert_array_equal(strips[9:17, 16:24], clips[1, 2])


def test_scale_up_repeats_pixels():
    one = clip(1)
    np.testing.assert_array_equal(video.scale_up(one, 3)[:, ::3, ::3], one)


@pytest.mark.parametrize("suffix", [".webp", ".apng"])
def test_lossless_animations_give_back_the_pixels(suffix, tmp_path):
    frames = clip()
    video.write_video(tmp_path / f"a{suffix}", frames, fps=8)
    with Image.open(tmp_path / f"a{suffix}") as image:
        for i, frame in enumerate(frames):
            image.seek(i)
            np.testing.assert_array_equal(np.asarray(image.convert("RGB")), frame)
            assert image.info["duration"] == 125


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("suffix", [".gif", ".webp", ".apng", ".png", ".npy"])
def test_every_format_takes_colour_and_grey(channels, suffix, tmp_path):
    path = tmp_path / f"a{suffix}"
    video.write_video(path, clip(channels=channels), fps=10)
    if suffix == ".npy":
        assert np.load(path).shape == (5, 8, 8, channels)
    elif suffix == ".png":
        assert Image.open(path).size == (40, 8)
    else:
        assert Image.open(path).n_frames == 5


@pytest.mark.parametrize("suffix", [".mp4", ".webm"])
@pytest.mark.parametrize("size", [16, 17])
def test_films_have_every_frame_and_look_like_the_clip(suffix, size, tmp_path):
    av = pytest.importorskip("av")
    ramp = np.linspace(40, 200, 6, dtype=np.uint8)[:, None, None, None] * np.ones((1, size, size, 3), np.uint8)
    video.write_video(tmp_path / f"a{suffix}", ramp, fps=8)
    with av.open(str(tmp_path / f"a{suffix}")) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(frames) == 6
    for frame, expected in zip(frames, ramp, strict=True):
        assert np.abs(frame[:size, :size].astype(int) - expected).mean() < 6


def test_films_without_pyav_name_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    with pytest.raises(ValueError, match=r"mocogan-tf\[video\]"):
        video.write_video(tmp_path / "a.mp4", clip(), fps=8)


@pytest.mark.parametrize(
    ("suffix", "width", "fps"),
    [(".webp", 17_000, 8), (".gif", 70_000, 8), (".mp4", 17_000, 8), (".webm", 70_000, 8), (".webp", 8, 1e-7)],
)
def test_a_size_or_rate_that_a_format_does_not_hold_is_named(suffix, width, fps, tmp_path):
    if suffix in video.FILMS:
        pytest.importorskip("av")
    with pytest.raises(ValueError, match=f"Cannot write a{suffix}: .* {width}x8 pixels at {fps} frames per second"):
        video.write_video(tmp_path / f"a{suffix}", np.zeros((2, 8, width, 3), np.uint8), fps=fps)


def test_unknown_endings_are_refused(tmp_path):
    with pytest.raises(ValueError, match="must be one of .gif, .webp"):
        video.write_video(tmp_path / "a.bmp", clip(), fps=8)


def test_pixels_of_a_nan_are_black_and_the_argument_stays():
    values = np.array([np.nan, 1.0], np.float32)
    assert video.to_uint8(values).tolist() == [0, 255] and values[1] == 1.0


def test_one_palette_keeps_the_colours_of_what_stands_still():
    frames = np.repeat(clip(1), 3, axis=0)
    frames[:, 0, 0] = [[0], [128], [255]]
    with Image.open(io.BytesIO(video.animation(frames, "GIF", fps=10, one_palette=True))) as image:
        shown = []
        for i in range(3):
            image.seek(i)
            shown.append(np.asarray(image.convert("RGB")))
    assert (shown[0][1:] == shown[1][1:]).all() and (shown[0][1:] == shown[2][1:]).all()
    assert len({picture[0, 0].tobytes() for picture in shown}) == 3


def test_a_file_that_cannot_be_written_leaves_nothing_behind(tmp_path):
    with pytest.raises(ValueError, match="Cannot write a.webp"):
        video.write_video(tmp_path / "a.webp", np.zeros((2, 8, 17_000, 3), np.uint8), fps=8)
    assert not (tmp_path / "a.webp").exists()


@pytest.mark.parametrize("suffix", [".npy", ".mp4", ".webm", ".gif", ".webp", ".png"])
def test_a_clip_written_in_parts_is_the_file_of_the_whole(suffix, tmp_path):
    if suffix in video.FILMS:
        pytest.importorskip("av")
    whole = clip(7, 16, 16)
    video.write_video(tmp_path / f"whole{suffix}", whole, fps=8)
    with video.VideoWriter(tmp_path / f"parts{suffix}", whole.shape, 8) as writer:
        for part in (whole[:3], whole[3:4], whole[4:]):
            writer.write(part)
    assert (tmp_path / f"parts{suffix}").stat().st_size == (tmp_path / f"whole{suffix}").stat().st_size
    assert len(list(tmp_path.iterdir())) == 2
    if suffix == ".npy":
        np.testing.assert_array_equal(np.load(tmp_path / "parts.npy"), whole)


def test_a_clip_of_any_length_is_written_in_the_memory_of_one_part(tmp_path):
    part = clip(100, 64, 64)
    tracemalloc.start()
    with video.VideoWriter(tmp_path / "long.npy", (100 * len(part), *part.shape[1:]), 8) as writer:
        for _ in range(100):
            writer.write(part)
    assert tracemalloc.get_traced_memory()[1] < 2 * part.nbytes
    tracemalloc.stop()
    np.testing.assert_array_equal(np.load(tmp_path / "long.npy", mmap_mode="r")[-100:], part)


@pytest.mark.parametrize("suffix", [".gif", ".npy", ".webp"])
def test_a_full_disk_names_the_file_and_leaves_none(suffix, tmp_path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))  # The system refuses whatever is larger.
    try:
        with pytest.raises(OSError, match=f"Cannot write .*clip{suffix}: File too large"):
            video.write_video(tmp_path / f"clip{suffix}", clip(9, 64, 64), fps=8)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(tmp_path.iterdir())


def test_a_length_that_a_format_cannot_hold_is_refused():
    video.check_length(".mp4", 8, 10**6, 64, 64, 3)
    video.check_length(".webp", 8, 64, 64, 64, 3)
    with pytest.raises(ValueError, match="1000000 frames of 64x64 pixels .* take 98.3 GB. Use .npy, .mp4, .webm"):
        video.check_length(".webp", 8, 10**6, 64, 64, 3)
