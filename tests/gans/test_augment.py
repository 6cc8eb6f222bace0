"""Promises of the differentiable augmentation."""

import numpy as np
import pytest
import tensorflow as tf

from mocogan_tf.config import AUGMENTATIONS
from mocogan_tf.gans.augment import DRAWS, augment

pytestmark = pytest.mark.core


def random_clips(frames=3):
    return tf.constant(np.random.default_rng(0).uniform(-1, 1, (5, frames, 16, 16, 3)), "float32")


def random_draws():
    return tf.constant(np.random.default_rng(1).random((5, DRAWS)), "float32")


@pytest.mark.parametrize("name", ["translation", "cutout"])
def test_every_frame_of_a_clip_is_treated_alike(name):
    clips, draws = random_clips(), random_draws()
    whole = augment(clips, (name,), draws)
    for i in range(3):
        np.testing.assert_array_equal(whole[:, i], augment(clips[:, i], (name,), draws))


def test_a_still_clip_stays_still():
    still = tf.repeat(random_clips(frames=1), 4, axis=1)
    augmented = augment(still, AUGMENTATIONS, random_draws()).numpy()
    assert np.abs(augmented[:, 1:] - augmented[:, :-1]).max() == 0.0
    assert np.abs(augmented - still.numpy()).max() > 0.1


def test_translation_moves_pixels_by_whole_steps_and_fills_with_grey():
    clips = random_clips()
    draws = np.zeros((5, DRAWS), "float32")
    draws[:, 3:5] = 0.999  # The furthest: the window lies two pixels lower and further right.
    moved = augment(clips, ("translation",), tf.constant(draws)).numpy()
    np.testing.assert_array_equal(moved[:, :, :-2, :-2], clips.numpy()[:, :, 2:, 2:])
    assert not moved[:, :, -2:].any() and not moved[:, :, :, -2:].any()
    draws[:, 3:5] = 0.5
    np.testing.assert_array_equal(augment(clips, ("translation",), tf.constant(draws)), clips)


def test_cutout_greys_a_square_around_the_point_and_nothing_else():
    clips = tf.ones((1, 2, 16, 16, 3))
    draws = np.zeros((1, DRAWS), "float32")
    draws[:, 5:] = 0.5  # The middle, pixel 8; half of half the size is 4.
    cut = augment(clips, ("cutout",), tf.constant(draws)).numpy()
    expected = np.ones((16, 16), "float32")
    expected[5:12, 5:12] = 0.0
    np.testing.assert_array_equal(cut, np.broadcast_to(expected[None, None, :, :, None], cut.shape))


def test_colour_against_a_loop_over_clips():
    clips, draws = random_clips().numpy(), random_draws().numpy()
    augmented = augment(tf.constant(clips), ("colour",), tf.constant(draws)).numpy()
    for clip, (brightness, saturation, contrast), result in zip(clips, draws[:, :3], augmented, strict=True):
        clip = clip + brightness - 0.5
        grey = clip.mean(axis=-1, keepdims=True)
        clip = (clip - grey) * 2 * saturation + grey
        np.testing.assert_allclose(result, (clip - clip.mean()) * (contrast + 0.5) + clip.mean(), atol=1e-5)


def test_gradients_come_through():
    clips = random_clips()
    with tf.GradientTape() as tape:
        tape.watch(clips)
        total = tf.reduce_sum(augment(clips, AUGMENTATIONS, random_draws()) ** 2)
    gradient = tape.gradient(total, clips).numpy()
    assert np.isfinite(gradient).all() and (gradient != 0).mean() > 0.4
