"""Promises of the numbers that show collapse, in clips and in what follows when they go on."""

import itertools

import numpy as np
import pytest

from mocogan_tf.metrics import collapse
from mocogan_tf.metrics.collapse import continuation

rng = np.random.default_rng(0)
WINDOW = 8


def test_diversity_is_the_loop_over_pairs_of_clips_at_16_pixels():
    clips = rng.integers(0, 256, (4, 3, 32, 32, 3)).astype(np.uint8)
    small = clips.reshape(4, 3, 16, 2, 16, 2, 3).mean(axis=(3, 5))
    expected = np.mean([np.sqrt(np.mean((a - b) ** 2)) for a, b in itertools.combinations(small, 2)])
    assert collapse.diversity(clips) == pytest.approx(expected, rel=1e-9)
    assert collapse.diversity(clips[:1].repeat(4, axis=0)) == 0.0


def test_motion_is_the_mean_absolute_change_in_levels():
    clips = np.zeros((2, 4, 8, 8, 3), np.uint8)
    clips[:, 1::2] = 200  # 0, 200, 0, 200: no wrapping around at 255.
    assert collapse.motion(clips) == 200.0
    assert collapse.motion(clips[:, :1]) == 0.0


@pytest.mark.parametrize("size", [5, 16, 50])
def test_frames_of_any_size_have_thumbnails(size):
    frames = np.full((2, 3, size, size, 1), 70, np.uint8)
    assert collapse.thumbnails(frames).shape == (2, 3, min(size, 16), min(size, 16), 1)
    assert (collapse.thumbnails(frames) == 70).all()


def noise(number=4, length=32):
    return rng.integers(0, 256, (number, length, 16, 16, 3)).astype(np.uint8)


def test_a_clip_that_starts_over_loops_wholly():
    once = noise(length=WINDOW)
    found = continuation(np.concatenate([once] * 4, axis=1), WINDOW)
    assert found.loop.value == 1.0 and found.drift.value == 0.0 and found.freeze.value == 0.0


def test_a_clip_that_stops_freezes_and_loops():
    clips = noise()
    clips[:, WINDOW:] = clips[:, WINDOW - 1 : WINDOW]
    found = continuation(clips, WINDOW)
    assert found.freeze.value == 1.0
    assert found.loop.value > 0.8  # Only the first half window after the stop has no twin half a window earlier.


def test_a_clip_that_always_shows_something_new_does_neither():
    found = continuation(noise(), WINDOW)
    assert abs(found.loop.value) < 0.1 and found.freeze.value == 0.0


def test_loop_is_the_loop_over_frames():
    clip = noise(2, 24)
    small = clip.astype(float).reshape(2, 24, -1)
    expected = []
    for frames in small:

        def far(a, b, frames=frames):
            return np.sqrt(np.mean((frames[a] - frames[b]) ** 2))

        usual = np.mean([far(a, b) for a in range(WINDOW) for b in range(a - WINDOW // 2 + 1)])
        nearest = [min(far(a, b) for b in range(a - WINDOW // 2 + 1)) for a in range(WINDOW, 24)]
        expected.append(np.mean(1 - np.array(nearest) / usual))
    assert continuation(clip, WINDOW).loop.value == pytest.approx(np.mean(expected), rel=1e-9)


def test_drift_is_1_when_a_clip_becomes_another():
    flat = rng.integers(0, 256, (6, 1, 16, 16, 3)).astype(np.uint8)
    clips = np.concatenate([flat.repeat(WINDOW, axis=1), np.roll(flat, 1, axis=0).repeat(WINDOW, axis=1)], axis=1)
    assert continuation(clips, WINDOW).drift.value == pytest.approx(1.0, abs=0.2)


def test_standing_still_from_the_beginning_counts_as_both():
    found = continuation(noise(length=1).repeat(16, axis=1), WINDOW)
    assert found.loop.value == 1.0 and found.freeze.value == 1.0 and found.drift.value == 0.0


def test_clips_that_are_not_longer_than_trained_are_refused():
    with pytest.raises(ValueError, match="at least 16 frames"):
        continuation(noise(length=15), WINDOW)
