"""Promises of the two numbers that show collapse."""

import itertools

import numpy as np
import pytest

from mocogan_tf.metrics import collapse

rng = np.random.default_rng(0)


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
