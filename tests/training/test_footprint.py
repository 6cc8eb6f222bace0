"""Promises of the estimates that a dry run prints."""

import dataclasses

import pytest
import tensorflow as tf

from mocogan_tf.gans.build import build_gan
from mocogan_tf.training import checkpoints, footprint
from tests.support.tiny import tiny_batch, tiny_config

pytestmark = pytest.mark.core


def test_variables_are_counted_exactly():
    config = tiny_config()
    gan = build_gan(config)
    counted = footprint.memory(gan)
    trained = [v for network in gan.networks.values() for v in network.trainable_variables]
    parameters = sum(int(tf.size(v.value)) for v in trained)
    assert 4 * parameters <= counted.weights <= 4.2 * parameters
    assert 8 * parameters <= counted.optimizers <= 8.2 * parameters
    assert counted.average == footprint.variable_bytes(gan.generator.weights)
    assert counted.total == footprint.variable_bytes(gan.state)
    assert footprint.gradient_bytes(gan) == 4 * parameters
    assert footprint.memory(build_gan(dataclasses.replace(config, ema_decay=0.0))).average == 0


def test_frames_side_by_side_are_counted():
    one, two = (footprint.memory(build_gan(tiny_config(image_frames=number))) for number in (1, 2))
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
