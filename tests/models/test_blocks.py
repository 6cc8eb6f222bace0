"""Promises of what the networks are built of."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from mocogan_tf.models.blocks import BatchNorm

pytestmark = pytest.mark.core


def both(shape, **options):
    """Ours and Keras's layer with the same weights and moving statistics, which are not those at the start."""
    layers = [kind(momentum=0.9, epsilon=1e-5, **options) for kind in (BatchNorm, keras.layers.BatchNormalization)]
    rng = np.random.default_rng(0)
    weights = [rng.uniform(0.5, 2, shape[-1]).astype("float32") for _ in range(4)]
    for layer in layers:
        layer.build(shape)
        layer.set_weights([weight for weight, _ in zip(weights, layer.weights, strict=False)])
    return layers


def step(layer, x, weights):
    """Outputs while training, the gradients of a weighted sum of them, and the moving statistics after."""
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x, training=True)
        loss = tf.reduce_sum(tf.cast(y, "float32") * weights)
    gradients = tape.gradient(loss, [x, *layer.trainable_variables])
    return [tf.cast(value, "float32").numpy() for value in (y, *gradients, *layer.non_trainable_variables)]


@pytest.mark.parametrize("shape", [(6, 5, 4, 4, 16), (6, 8, 8, 3), (32, 7)])
@pytest.mark.parametrize("center", [True, False])
def test_fused_batch_normalisation_is_keras_batch_normalisation(shape, center):
    ours, theirs = both(shape, center=center)
    rng = np.random.default_rng(1)
    x, weights = (tf.constant(rng.normal(0.5, 2, shape), "float32") for _ in range(2))
    for found, expected in zip(step(ours, x, weights), step(theirs, x, weights), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
    np.testing.assert_allclose(ours(x, training=False), theirs(x, training=False), atol=1e-5)


@pytest.mark.parametrize("channels", [16, 12])
def test_in_half_precision_it_is_as_near_as_half_precision_is(channels):
    ours, theirs = both((4, 6, 6, channels), dtype="mixed_bfloat16")
    rng = np.random.default_rng(1)
    x = tf.cast(rng.normal(0.5, 2, (4, 6, 6, channels)), "bfloat16")
    weights = tf.constant(rng.normal(size=x.shape), "float32")
    found, expected = step(ours, x, weights), step(theirs, x, weights)
    assert ours(x, training=True).dtype == "bfloat16"
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=0.02 * np.abs(other).max())


def test_a_frozen_layer_keeps_its_statistics():
    ours, _ = both((4, 6, 6, 16))
    ours.trainable = False
    before = [value.numpy() for value in ours.weights]
    ours(tf.ones((4, 6, 6, 16)), training=True)
    for value, old in zip(ours.weights, before, strict=True):
        np.testing.assert_array_equal(value.numpy(), old)
