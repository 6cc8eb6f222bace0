"""`benchmarks.convolutions` times the layers that the video discriminator really has."""

import pytest

pytest.importorskip("torch")

import tensorflow as tf

from benchmarks import convolutions
from mocogan_tf.models.discriminators import VideoDiscriminator


def test_the_layers_are_those_of_the_video_discriminator():
    network = VideoDiscriminator(ndf=4)
    network.build((None, 16, 64, 64, 3))
    shapes = [kernel for _, kernel in convolutions.layer_shapes(4, clips=2)]
    assert shapes == [tuple(layer.layers[-1].kernel.shape) for layer in network.convolutions]


def test_all_passes_run_and_their_operations_are_those_of_the_formula():
    calls, operations = convolutions.passes((1, 5, 10, 10, 3), (4, 4, 4, 3, 2), tf.float32)
    assert calls.keys() == {"forward", "to weights", "to input"}
    assert all(isinstance(call(), float) for call in calls.values())
    assert operations == 2 * (2 * 4 * 4 * 2) * (64 * 3)
