"""What counts as a clip, and what its frames are."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

from mocogan_tf.data.sources.fitting import FitOptions, read_clip
from mocogan_tf.data.sources.layouts import find_clips
from mocogan_tf.video import write_video
from tests.support.made_clips import REAL_CLIPS, decode_clip, frames_of, save_frames, save_huge_png, save_strip

pytestmark = pytest.mark.core


OPTIONS = FitOptions(image_size=32)


def only_clip(folder):
    (clip,) = find_clips(folder).clips
    return clip


@pytest.mark.parametrize("across", [True, False])
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_a_strip_is_cut_into_squares_along_its_longer_side(tmp_path, across, mode):
    frames = np.random.default_rng(0).integers(0, 6, (5, 32, 32, 3)).astype(np.uint8) * 40
    strip = save_strip(tmp_path / "a.png", frames, across=across, mode=mode)
    expected = frames
    if mode == "P":  # The palette loses colours; the oracle is what Pillow shows.
        shown = np.asarray(Image.open(strip).convert("RGB"))
        expected = np.stack(np.split(shown, 5, axis=1 if across else 0))
    np.testing.assert_array_equal(decode_clip(only_clip(tmp_path), 32, 3), expected)


def test_a_file_is_what_its_content_says_and_not_its_name(tmp_path):
    save_strip(tmp_path / "a.jpg", frames_of(5), mode="RGBA")
    np.testing.assert_array_equal(decode_clip(only_clip(tmp_path), 32, 3), frames_of(5))


def test_remainder_pixels_of_a_strip_are_reported(tmp_path):
    Image.new("RGB", (32 * 5 + 7, 32)).save(tmp_path / "a.png")
    clip = read_clip(only_clip(tmp_path), OPTIONS)
    assert len(clip.frames) == 5
    assert clip.notes == ("7 pixels after the last of 5 frames are left out",)


def test_frames_of_another_size_are_cropped_to_the_centre_and_scaled(tmp_path):
    # A 96x64 frame: red margins of 16 pixels, a grey square between them.
    frame = np.zeros((64, 96, 3), np.uint8)
    frame[:, :, 0] = 255
    frame[:, 16:80] = 100
    (tmp_path / "clip").mkdir()
    for i in range(4):
        Image.fromarray(frame).save(tmp_path / "clip" / f"{i}.png")
    np.testing.assert_array_equal(decode_clip(only_clip(tmp_path), 32, 3), np.full((4, 32, 32, 3), 100))


def test_scaling_down_does_not_alias(tmp_path):
    checkers = (np.indices((128, 128)).sum(0) % 2 * 255).astype(np.uint8)
    save_strip(tmp_path / "a.png", np.stack([checkers] * 4)[..., None].repeat(3, -1))
    assert np.abs(decode_clip(only_clip(tmp_path), 32, 3).astype(int) - 127).max() <= 8


def test_grey_is_luma(tmp_path):
    colour = np.zeros((4, 32, 32, 3), np.uint8)
    colour[..., 1] = 200
    save_strip(tmp_path / "a.png", colour)
    grey = decode_clip(only_clip(tmp_path), 32, 1)
    assert grey.shape == (4, 32, 32, 1)
    np.testing.assert_array_equal(grey, round(0.587 * 200))


def test_16_bit_grey_is_scaled_and_not_clipped(tmp_path):
    strip = np.repeat(np.array([0, 0x4000, 0x8000, 0xFF00], np.uint16), 32)[None].repeat(32, 0)
    Image.fromarray(strip).save(tmp_path / "a.png")
    np.testing.assert_array_equal(decode_clip(only_clip(tmp_path), 32, 3)[:, 0, 0, 0], [0, 0x40, 0x80, 0xFF])


def test_frames_of_a_folder_come_in_natural_order(tmp_path):
    for i in (10, 9, 100, 1):
        path = tmp_path / "walk" / f"frame {i}.png"
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (32, 32), (i, i, i)).save(path)
    np.testing.assert_array_equal(decode_clip(only_clip(tmp_path), 32, 3)[:, 0, 0, 0], [1, 9, 10, 100])


def test_animated_gif_and_webp_are_clips_with_a_rate(tmp_path):
    frames = [Image.new("RGB", (32, 32), (20 * i, 0, 0)) for i in range(5)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:], duration=50)
    frames[0].save(tmp_path / "b.webp", save_all=True, append_images=frames[1:], duration=50, lossless=True)
    for source in find_clips(tmp_path).clips:
        clip = read_clip(source, OPTIONS)
        np.testing.assert_array_equal(clip.frames[:, 0, 0, 0], [0, 20, 40, 60, 80])
        assert clip.fps == 20


@pytest.mark.parametrize("suffix", ["gif", "webp", "apng"])
def test_an_animation_that_is_cut_keeps_its_rate(tmp_path, suffix):
    write_video(tmp_path / f"a.{suffix}", frames_of(6), fps=20)
    clip = read_clip(only_clip(tmp_path), dataclasses.replace(OPTIONS, max_frames=4))
    assert len(clip.frames) == 4 and clip.fps == 20


@pytest.mark.parametrize("channels", [3, 1])
def test_an_apng_that_this_project_writes_is_read_back(tmp_path, channels):
    write_video(tmp_path / "a.apng", frames_of(6, channels=channels), fps=10)
    clip = read_clip(only_clip(tmp_path), dataclasses.replace(OPTIONS, channels=channels))
    np.testing.assert_array_equal(clip.frames, frames_of(6, channels=channels))
    assert clip.fps == 10


def test_a_png_is_animated_whatever_chunks_come_first(tmp_path):
    frames = [Image.fromarray(frame) for frame in frames_of(6)]
    frames[0].save(
        tmp_path / "a.png", save_all=True, append_images=frames[1:], duration=100, icc_profile=bytes(range(256)) * 9
    )
    assert (tmp_path / "a.png").read_bytes().index(b"acTL") > 300
    np.testing.assert_array_equal(decode_clip(only_clip(tmp_path), 32, 3), frames_of(6))


def test_a_still_picture_called_apng_is_a_clip_of_one_frame(tmp_path):
    write_video(tmp_path / "a.apng", frames_of(1), fps=10)
    assert only_clip(tmp_path).kind == "animation" and len(decode_clip(only_clip(tmp_path), 32, 3)) == 1


def test_a_warning_per_reason_counts_the_files_and_names_one(tmp_path, caplog):
    save_strip(tmp_path / "clip.png", frames_of(4))
    for name in ("notes.txt", "list.csv", "index.json", "README.md", ".hidden.pdf", "a.pdf", "b.pdf", "c.psd"):
        (tmp_path / name).write_text("no clip")
    (tmp_path / "zz.mp4").symlink_to("nowhere.mp4")
    with caplog.at_level("WARNING", "absl"):
        find_clips(tmp_path)
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path}: left out, a.pdf: no image, animation, video or array, and 2 more.",
        f"{tmp_path}: left out, zz.mp4: no such file or directory.",
    ]


def test_video_files_are_clips_with_a_rate(tmp_path):
    av = pytest.importorskip("av")
    with av.open(str(tmp_path / "a.avi"), "w") as container:
        stream = container.add_stream("ffv1", rate=12)
        stream.width = stream.height = 32
        stream.pix_fmt = "bgr0"
        for frame in frames_of(6):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    clip = read_clip(only_clip(tmp_path), OPTIONS)
    np.testing.assert_array_equal(clip.frames, frames_of(6))
    assert clip.fps == 12


def test_classes_are_the_folders_in_natural_order(tmp_path):
    for name in ("10/a.png", "2/a.png", "2/b.png", "2/.hidden.png", "2/notes.txt"):
        save_strip(tmp_path / name, frames_of(4))
    (tmp_path / "2" / "notes.txt").write_text("by hand")
    assert [(clip.name, clip.category) for clip in find_clips(tmp_path).clips] == [
        ("2/a.png", "2"),
        ("2/b.png", "2"),
        ("10/a.png", "10"),
    ]


def test_folders_of_frames_in_class_folders_are_clips_of_that_class(tmp_path):
    for name in ("run/a", "run/b", "walk/a"):
        save_frames(tmp_path / name, size=(32, 32))
    assert [(clip.name, clip.category, clip.kind) for clip in find_clips(tmp_path).clips] == [
        ("run/a", "run", "frames"),
        ("run/b", "run", "frames"),
        ("walk/a", "walk", "frames"),
    ]


def test_bad_folders_are_refused_in_one_line(tmp_path):
    with pytest.raises(ValueError, match="does not exist"):
        find_clips(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="is empty"):
        find_clips(tmp_path)
    (tmp_path / "notes.txt").write_text("nothing to see")
    with pytest.raises(ValueError, match="holds no readable clip"):
        find_clips(tmp_path)
    save_strip(tmp_path / "a.png", frames_of(4))
    save_strip(tmp_path / "class" / "b.png", frames_of(4))
    with pytest.raises(ValueError, match="a.png.*class/b.png"):
        find_clips(tmp_path)


@pytest.mark.parametrize(
    "content, reason",
    [(b"", "empty"), (b"\x89PNG\r\n\x1a\nrubbish", "identify"), (None, "truncated"), (b"GIF89a", "identify")],
)
def test_broken_files_are_refused_by_name_in_one_line(tmp_path, content, reason):
    if content is None:
        whole = save_strip(tmp_path / "bad.png", np.random.default_rng(0).integers(0, 255, (4, 32, 32, 3), np.uint8))
        content = whole.read_bytes()[:2000]
    (tmp_path / "bad.png").write_bytes(content)
    with pytest.raises(ValueError, match=reason) as error:
        decode_clip(only_clip(tmp_path), 32, 3)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("size", [20_000, 4_000])
def test_a_huge_image_is_refused_before_it_is_decoded(tmp_path, size):
    save_huge_png(tmp_path / "bad.png", 20_000, size)
    with pytest.raises(ValueError, match=f"20000.{size}.* is refused|400000000 pixels"):
        decode_clip(only_clip(tmp_path), 32, 3)


@pytest.mark.skipif(not REAL_CLIPS.is_dir(), reason="no real clips beside the checkout")
@pytest.mark.parametrize(
    "folder, categories, num_clips, lengths",
    [("actions", ["0", "1", "3", "4"], 72, range(51, 147)), ("shapes", ["0", "1"], 3000, [32])],
)
def test_published_strips_are_read(folder, categories, num_clips, lengths):
    clips = find_clips(REAL_CLIPS / folder).clips
    assert len(clips) == num_clips
    assert sorted({clip.category for clip in clips}) == categories
    for clip in clips[:: num_clips // 6]:
        frames = decode_clip(clip, 64, 3)
        assert frames.shape[1:] == (64, 64, 3) and len(frames) in lengths
