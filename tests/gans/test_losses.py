"""Losses against NumPy in float64, by their definitions."""

import numpy as np
import pytest

from mocogan_tf.gans import losses
from tests.support import reference

pytestmark = pytest.mark.core
RNG = np.random.default_rng(0)
REAL, FAKE = RNG.normal(size=(2, 5, 16)) * 3
CLASSES, LABELS = RNG.normal(size=(5, 2, 4)) * 3, np.array([0, 3, 1, 1, 2])


def f32(x):
    return np.asarray(x, np.float32)


def test_discriminator_loss():
    expected = reference.discriminator_loss(REAL, FAKE)
    np.testing.assert_allclose(losses.discriminator_loss(f32(REAL), f32(FAKE)), expected, rtol=1e-6)


def test_smoothed_labels_move_part_of_the_weight_of_real_clips():
    real = np.mean(0.8 * np.logaddexp(0, -REAL) + 0.2 * np.logaddexp(0, REAL))
    expected = real + np.mean(np.logaddexp(0, FAKE))
    np.testing.assert_allclose(losses.discriminator_loss(f32(REAL), f32(FAKE), 0.2), expected, rtol=1e-6)


def test_generator_loss_is_the_non_saturating_one():
    np.testing.assert_allclose(losses.generator_loss(f32(FAKE)), reference.generator_loss(FAKE), rtol=1e-6)


def test_category_loss():
    expected = reference.category_loss(CLASSES, LABELS)
    np.testing.assert_allclose(losses.category_loss(f32(CLASSES), np.eye(4)[LABELS]), expected, rtol=1e-6)


def test_r1_is_half_the_mean_squared_norm_of_the_gradient():
    gradients = RNG.normal(size=(3, 4, 5))
    expected = 0.5 * np.mean([np.sum(g**2) for g in gradients])
    np.testing.assert_allclose(losses.r1_penalty(f32(gradients)), expected, rtol=1e-6)


@pytest.mark.parametrize("logit", [-1e4, 1e4])
def test_losses_stay_finite_at_any_logit(logit):
    logits = np.full((2, 3), logit, np.float32)
    assert np.isfinite(losses.discriminator_loss(logits, logits))
    assert np.isfinite(losses.category_loss(np.stack([logits, -logits], axis=-1), np.eye(2)))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_logits_give_float32_losses(dtype):
    import tensorflow as tf

    logits = tf.cast(REAL, dtype)
    assert losses.discriminator_loss(logits, logits).dtype == "float32"
    assert losses.category_loss(tf.cast(CLASSES, dtype), np.eye(4)[LABELS]).dtype == "float32"
