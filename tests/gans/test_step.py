"""Promises of one optimizer step, on networks of a few weights under plain gradient descent."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from mocogan_tf.gans import base, build
from tests.support.tiny import tiny_batch, tiny_config

pytestmark = pytest.mark.core


def pair(make_optimizer=lambda: keras.optimizers.SGD(0.5), **changes):
    """A model of two networks with three weights each."""

    def network():
        made = keras.Sequential([keras.layers.Dense(1)])
        made.build((None, 2))
        made.set_weights([np.array([[1.0], [-2.0]]), np.array([0.5])])
        return made

    average = network() if changes else None
    model = base.AdversarialModel(generator=network(), video_discriminator=network(), average=average, **changes)
    model.compile(g_optimizer=make_optimizer(), d_video_optimizer=make_optimizer())
    return model


def losses(model):
    """A loss per network: the mean square of its outputs, times two for the discriminator."""

    def compute(inputs):
        return {
            name: (factor * tf.reduce_mean(tf.square(getattr(model, name)(inputs["x"]))), {f"loss_{name}": factor})
            for name, factor in (("generator", 1.0), ("video_discriminator", 2.0))
        }

    return compute


X = np.array([[1.0, 0.0], [0.0, 1.0]], np.float32)  # Outputs 1.5 and -1.5.
GRADIENT = [np.array([[1.5], [-1.5]]), np.array([0.0])]


@pytest.mark.parametrize(
    "make_optimizer",
    [
        lambda: keras.optimizers.SGD(0.5),
        lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.5), initial_scale=1024.0),
        lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.5)),
    ],
    ids=["plain", "loss scale", "Keras's loss scale"],
)
def test_a_step_is_the_rate_times_the_gradient_whatever_the_loss_scale(make_optimizer):
    model = pair(make_optimizer)
    model._descend(losses(model), {"x": tf.constant(X)})
    for name, factor in (("generator", 1.0), ("video_discriminator", 2.0)):
        kernel, bias = getattr(model, name).get_weights()
        np.testing.assert_allclose(kernel, np.array([[1.0], [-2.0]]) - 0.5 * factor * GRADIENT[0], rtol=1e-6)
        np.testing.assert_allclose(bias, 0.5 - 0.5 * factor * GRADIENT[1], rtol=1e-6)


def test_the_average_follows_fast_at_first_and_by_its_decay_later():
    kept = {}
    for step in (1, 9, 100, 10_000, 1_000_000):
        model = pair(ema_decay=0.99)
        model.generator.set_weights([value + 1.0 for value in model.generator.get_weights()])
        model.step.assign(step)
        model._update_average()
        (kept[step],) = np.unique(
            [
                np.round(value - average, 5)
                for value, average in zip(
                    np.concatenate([w.ravel() for w in model.generator.get_weights()]),
                    np.concatenate([w.ravel() for w in model.average.get_weights()]),
                    strict=True,
                )
            ]
        )
    expected = {1: 2 / 11, 9: 10 / 19, 100: 101 / 110, 10_000: 0.99, 1_000_000: 0.99}
    assert kept == pytest.approx(expected, abs=2e-5)


@pytest.mark.parametrize("share_fakes", [False, True])
def test_real_and_generated_examples_are_augmented_by_draws_of_their_own(share_fakes):
    config = tiny_config(augment="colour,translation", share_fakes=share_fakes)
    gan = build.build_gan(config)
    inputs = gan._draw({name: tf.constant(value) for name, value in tiny_batch(config).items()})
    draws = {name: inputs[name] for name in ("augment_videos", "augment_images")}
    draws |= {name: value["augment"] for name, value in inputs.items() if name.startswith("fake_")}
    assert len(draws) == (4 if share_fakes else 6)
    seen = [float(value) for draw in draws.values() for value in np.ravel(draw)]
    assert len(set(seen)) == len(seen)
    again = gan._draw({name: tf.constant(value) for name, value in tiny_batch(config).items()})
    np.testing.assert_array_equal(again["augment_videos"], draws["augment_videos"])
