"""Moving shapes: what a clip promises, and how its statistics compare with the authors' strips."""

import pathlib

import numpy as np
import pytest

from mocogan_tf.data.rendered import shapes

pytestmark = pytest.mark.core

REAL = pathlib.Path(__file__).parents[4] / "shared" / "data" / "shapes"
UP, LEFT = shapes.CATEGORIES.index("up"), shapes.CATEGORIES.index("left")


@pytest.fixture(scope="module")
def clips():
    return [shapes.render_clip(i, seed=7) for i in range(400)]


def corners(frames):
    """Upper left corner (x, y) of what is not black, `[F, 2]`, measured on the pixels."""
    mask = frames.max(-1) > 0
    return np.stack([mask.any(1).argmax(1), mask.any(2).argmax(1)], axis=1)


def main_and_other(frames, label):
    """The corner's coordinate along the class's direction and across it, each `[F]`."""
    x, y = corners(frames).T.astype(float)
    return (y, x) if label == UP else (x, y)


def test_a_clip_is_a_function_of_seed_and_index():
    first = shapes.render_clip(5, seed=1)
    shapes.render_clip(99, seed=3)
    np.testing.assert_array_equal(shapes.render_clip(5, seed=1).frames, first.frames)
    assert not np.array_equal(shapes.render_clip(6, seed=1).frames, first.frames)
    assert not np.array_equal(shapes.render_clip(5, seed=2).frames, first.frames)
    assert not np.array_equal(shapes.render_clip(1, seed=5).frames, first.frames)


def test_clips_are_32_frames_of_64_pixels(clips):
    assert all(clip.frames.shape == (32, 64, 64, 3) and clip.frames.dtype == np.uint8 for clip in clips)


def test_every_frame_is_black_and_one_colour(clips):
    for clip in clips:
        coloured = (clip.frames == clip.truth["colour"]).all(-1)
        black = (clip.frames == 0).all(-1)
        assert (coloured ^ black).all()
        assert coloured.any((1, 2)).all() and black.any((1, 2)).all()


def test_the_shape_is_found_by_brightness_and_its_mean_colour_never_changes(clips):
    for clip in clips:
        mask = clip.frames.max(-1) >= shapes.MIN_BRIGHTEST
        means = [frame[inside].mean(0) for frame, inside in zip(clip.frames, mask, strict=True)]
        assert np.ptp(means, axis=0).max() == 0
        counts = mask.sum((1, 2))
        assert (counts == counts[0]).all() and counts[0] > 40


def test_a_nearly_black_colour_is_drawn_again(monkeypatch):
    class Dark:
        """Numbers that begin with a black shape."""

        def __init__(self):
            self.colours = [np.array([0.01, 0.02, 0.03]), np.array([0.5, 0.25, 0.0])]

        def random(self, size=None):
            return 0.5 if size is None else self.colours.pop(0) if size == 3 else np.full(size, 0.5)

    monkeypatch.setattr(shapes, "clip_rng", lambda seed, index: Dark())
    np.testing.assert_array_equal(shapes.render_clip(0, seed=0).truth["colour"], [128, 64, 0])


def test_paths_start_and_end_where_the_class_says(clips):
    for clip in clips:
        main, other = main_and_other(clip.frames, clip.label)
        assert main[0] == 64 - clip.truth["diameter"] - 2
        assert main[-1] == 1
        assert other[0] == other[-1]


def test_centres_are_those_of_the_pixels(clips):
    for clip in clips:
        np.testing.assert_array_equal(corners(clip.frames) + clip.truth["diameter"] / 2, clip.truth["centres"])


def test_classes_kinds_and_sizes_are_balanced():
    truths = [shapes.render_clip(i, seed=11, num_frames=1) for i in range(2000)]
    # Five standard deviations of a binomial proportion with n = 2000.
    assert abs(np.mean([clip.label for clip in truths]) - 1 / 2) < 0.056
    assert abs(np.mean([clip.truth["kind"] == "circle" for clip in truths]) - 1 / 2) < 0.056
    for diameter in shapes.DIAMETERS:
        assert abs(np.mean([clip.truth["diameter"] == diameter for clip in truths]) - 1 / 4) < 0.049
    colours = np.array([clip.truth["colour"] for clip in truths])
    assert np.abs(colours.mean(0) - 127.5).max() < 5 * 74 / np.sqrt(2000) + 0.1
    assert colours.min() <= 1 and colours.max() >= 254


def test_a_square_fills_its_box_and_a_circle_its_disc(clips):
    for clip in clips:
        diameter = clip.truth["diameter"]
        area = (clip.frames[0].max(-1) > 0).sum()
        expected = diameter**2 if clip.truth["kind"] == "square" else np.pi * diameter**2 / 4
        assert abs(area - expected) <= 0.04 * expected


@pytest.mark.parametrize("image_size", [32, 128])
def test_other_sizes_show_the_same_clip(image_size):
    for index in range(20):
        small, other = shapes.render_clip(index, seed=4), shapes.render_clip(index, seed=4, image_size=image_size)
        assert other.frames.shape == (32, image_size, image_size, 3)
        assert (other.label, other.truth["kind"]) == (small.label, small.truth["kind"])
        assert np.abs(other.truth["centres"] * 64 / image_size - small.truth["centres"]).max() <= 1.0


@pytest.mark.parametrize("num_frames", [1, 2, 16, 50])
def test_the_path_spans_clips_of_any_length(num_frames):
    clip = shapes.render_clip(0, seed=0, num_frames=num_frames)
    main, _ = main_and_other(clip.frames, clip.label)
    assert len(main) == num_frames
    assert main[0] == 64 - clip.truth["diameter"] - 2
    assert num_frames == 1 or main[-1] == 1


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"num_frames": 0}, "num_frames=0"),
        ({"num_frames": 2.5}, "num_frames=2.5"),
        ({"image_size": 48}, "image_size=48"),
        ({"seed": -1}, "seed=-1"),
        ({"index": -1}, "index=-1"),
    ],
)
def test_bad_arguments_are_named(bad, message):
    with pytest.raises(ValueError, match=message):
        shapes.render_clip(**{"index": 0, "seed": 0, **bad})


def test_excursion_and_speed_are_those_recorded_from_the_authors_strips(clips):
    paths = [main_and_other(clip.frames, clip.label) for clip in clips]
    main, other = (np.array(axis) for axis in zip(*paths, strict=True))
    excursion = np.abs(other - other[:, :1]).max(1)
    assert abs(excursion.mean() - 14.17) < 4 * 7.57 / np.sqrt(len(clips))  # Mean and deviation over 3,000 strips.
    speed = -np.diff(main, axis=1)
    assert speed.min() >= -1 and speed.max() <= 7
    shares = [(speed == pixels).mean() for pixels in (0, 1, 2, 3, 4)]
    np.testing.assert_allclose(shares, [0.134, 0.385, 0.293, 0.105, 0.047], atol=0.04)


@pytest.mark.skipif(not REAL.is_dir(), reason="needs the authors' strips in ../shared/data/shapes")
def test_motion_has_the_statistics_of_the_authors_strips(clips):
    from PIL import Image

    def statistics(videos):
        paths = [main_and_other(frames, label) for frames, label in videos]
        main, other = (np.array(axis) for axis in zip(*paths, strict=True))
        speeds = np.clip(-np.diff(main, axis=1), -1, 7)
        histogram = np.histogram(speeds, np.arange(-1.5, 8))[0] / speeds.size
        return histogram, np.abs(other - other[:, :1]).max(1), main

    def read(path):
        strip = np.asarray(Image.open(path).convert("RGB"))
        return strip.reshape(64, -1, 64, 3).swapaxes(0, 1), int(path.parent.name)

    real = [read(path) for label in "01" for path in sorted((REAL / label).glob("*.png"))[:200]]
    ours_speed, ours_excursion, ours_main = statistics([(clip.frames, clip.label) for clip in clips])
    real_speed, real_excursion, real_main = statistics(real)
    # Each pair of tolerances is about four standard errors for two samples of 400 clips.
    assert np.abs(ours_speed - real_speed).max() < 0.05
    assert abs(ours_excursion.mean() - real_excursion.mean()) < 2.2
    assert abs(ours_excursion.std() - real_excursion.std()) < 1.6
    assert np.abs(ours_main.mean(0) - real_main.mean(0)).max() < 3.2
