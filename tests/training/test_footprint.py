"""Promises of the estimates that a dry run prints."""

import dataclasses

import pytest
import tensorflow as tf

from mocogan_tf.gans.build import build_gan
from mocogan_tf.training import checkpoints, footprint
from tests.support.tiny import tiny_batch, tiny_config

pytestmark = pytest.mark.core
KB = 4000  # Bytes of the vectors below.


def peak_of(function):
    return footprint.peak_of(tf.function(function).get_concrete_function(tf.TensorSpec((1000,), tf.float32)).graph)


def test_the_peak_of_a_graph_counts_what_is_alive_at_once():
    assert peak_of(tf.sin) == KB
    assert peak_of(lambda x: tf.sin(tf.cos(tf.sin(x)))) == 2 * KB  # One goes in, one comes out.
    assert peak_of(lambda x: tf.nn.relu(tf.sin(x))) == KB  # Written over its input.
    assert peak_of(lambda x: tf.reshape(tf.sin(x), (10, 100))) == KB + 8  # The same memory, and the shape.

    def with_gradient(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = tf.sin(tf.exp(tf.cos(x)))  # exp(.) is kept for both gradients.
        return tape.gradient(y, x)

    assert peak_of(with_gradient) >= 3 * KB


def test_memory_is_that_of_the_variables_and_activations_shrink_with_a_devices_share():
    config = tiny_config(image_batch=16, video_batch=16)
    gan = build_gan(config)
    one, four = footprint.memory(config, 1), footprint.memory(config, 4)
    parameters = sum(int(tf.size(v.value)) for network in gan.networks.values() for v in network.trainable_variables)
    assert 4 * parameters <= one.weights <= 4.2 * parameters
    assert 8 * parameters <= one.optimizers <= 8.2 * parameters
    assert (one.weights, one.average, one.optimizers) == (four.weights, four.average, four.optimizers)
    assert one.activations / 5 < four.activations < one.activations / 2
    assert footprint.gradient_bytes(gan) == 4 * parameters
    assert footprint.memory(dataclasses.replace(config, ema_decay=0.0), 1).average == 0


def test_the_penalty_on_gradients_is_counted_although_few_steps_have_it():
    without = tiny_config(discriminator_norm="none", video_batch=16)
    with_penalty = dataclasses.replace(without, r1_video=1.0)
    assert footprint.memory(with_penalty, 1).activations > 1.2 * footprint.memory(without, 1).activations


def test_frames_side_by_side_are_counted():
    one, two = (footprint.memory(tiny_config(image_frames=number), 1) for number in (1, 2))
    assert two.weights > one.weights


def test_the_checkpoint_is_as_large_as_said(tmp_path):
    config = tiny_config(ngf=32, ndf=32)
    gan = build_gan(config)
    gan.train_step(tiny_batch(config))
    checkpoints.save(gan, tmp_path, keep=1)
    size = checkpoints.paths(tmp_path, 1)[0].stat().st_size
    said = footprint.disk(config, footprint.variable_bytes(gan.state))
    assert said.checkpoint == pytest.approx(size, rel=0.1)
    assert said.kept == config.keep_checkpoints + 2
    more = dataclasses.replace(config, keep_every=100)
    assert footprint.disk(more, said.checkpoint).growth == pytest.approx(said.growth + 10 * said.checkpoint, abs=2)


@pytest.mark.parametrize(("number", "words"), [(0, "0 B"), (999, "999 B"), (1234, "1.23 kB"), (5e9, "5 GB")])
def test_bytes_in_words(number, words):
    assert footprint.in_words(number) == words
