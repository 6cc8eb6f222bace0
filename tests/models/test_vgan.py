"""Promises of VGAN's networks."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from mocogan_tf.latents import sample_latents
from mocogan_tf.models.vgan import VGANDiscriminator, VGANGenerator
from tests.support import reference

pytestmark = pytest.mark.core


@pytest.fixture(scope="module")
def generator():
    made = VGANGenerator(video_length=8, image_size=32, ngf=4)
    reference.random_weights(made)
    return made


def run(generator, num_videos=2):
    latents = sample_latents(generator.latents, num_videos, generator.latents.num_frames, seed=1)
    return {name: np.asarray(value) for name, value in generator(latents, training=False).items()}


def count(network):
    return sum(variable.numpy().size for variable in network.trainable_variables)


def test_parameter_counts_are_those_of_the_published_layers():
    hidden = [512, 256, 128, 64]
    steps = list(zip(hidden, hidden[1:], strict=False))
    background = 16 * 100 * 512 + sum(16 * i * o for i, o in steps) + 16 * 64 * 3 + 3
    foreground = 32 * 100 * 512 + sum(64 * i * o for i, o in steps) + 64 * 64 * (3 + 1) + 3 + 1
    biases_and_norms = 2 * 3 * sum(hidden)  # Of two streams: a bias, a scale and a shift per filter.
    assert count(VGANGenerator()) == background + foreground + biases_and_norms == 16_245_383

    convolutions = 64 * (3 * 64 + 64 * 128 + 128 * 256 + 256 * 512) + 64 + 128 + 256 + 512
    discriminator = VGANDiscriminator()
    discriminator.build((None, 32, 64, 64, 3))
    assert count(discriminator) == convolutions + 2 * (128 + 256 + 512) + 32 * 512 * 2 + 2 == 11_057_858


def test_the_video_is_foreground_over_background_through_the_mask(generator):
    outputs = run(generator)
    mask, foreground, background = outputs["mask"], outputs["foreground"], outputs["background"]
    assert mask.shape == (2, 8, 32, 32, 1) and background.shape == (2, 1, 32, 32, 3)
    assert 0 <= mask.min() < 0.4 and 0.6 < mask.max() <= 1  # Neither layer alone.
    np.testing.assert_allclose(outputs["video"], mask * foreground + (1 - mask) * background, atol=1e-6)
    assert np.abs(outputs["video"]).max() <= 1


def test_without_foreground_the_video_stands_still(generator):
    copy = VGANGenerator.from_config(generator.get_config())
    copy.set_weights(generator.get_weights())
    head = copy.get_layer("mask_conv")
    head.kernel.assign(np.zeros(head.kernel.shape))
    head.bias.assign([-100.0])
    outputs = run(copy)
    np.testing.assert_allclose(outputs["video"], np.broadcast_to(outputs["background"], outputs["video"].shape))
    head.bias.assign([100.0])
    np.testing.assert_allclose(run(copy)["video"], outputs["foreground"])


@pytest.mark.parametrize(
    ("image_size", "video_length", "stride"),
    [(32, 8, 1), (32, 32, 2), (32, 56, 2), (64, 16, 1), (64, 32, 2), (128, 32, 2)],
)
def test_every_size_and_length(image_size, video_length, stride):
    made = VGANGenerator(video_length=video_length, image_size=image_size, ngf=1, channels=1)
    video = run(made, num_videos=1)["video"]
    assert video.shape == (1, video_length, image_size, image_size, 1)
    assert made.frame_stride == stride
    discriminator = VGANDiscriminator(video_length=video_length, image_size=image_size, ndf=1)
    discriminator.build(video.shape)
    assert discriminator(video).shape == (1, 2)


@pytest.mark.parametrize(("image_size", "video_length"), [(64, 8), (64, 24), (128, 16), (32, 12)])
def test_other_lengths_are_refused_with_one_that_works(image_size, video_length):
    with pytest.raises(ValueError, match=r"Set --video_length=\d+.*Received: video_length"):
        VGANGenerator(video_length=video_length, image_size=image_size, ngf=1)


def test_the_discriminator_looks_at_every_frame():
    discriminator = VGANDiscriminator(video_length=8, image_size=32, ndf=4)
    discriminator.build((None, 8, 32, 32, 3))
    reference.random_weights(discriminator)
    videos = tf.constant(np.random.default_rng(0).uniform(-1, 1, (1, 8, 32, 32, 3)), tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(videos)
        logits = discriminator(videos, training=False)
    assert np.all(np.abs(tape.gradient(logits, videos)).sum(axis=(0, 2, 3, 4)) > 0)


def test_configuration_and_file_round_trips(generator, tmp_path):
    generator.save(tmp_path / "generator.keras")
    loaded = keras.saving.load_model(tmp_path / "generator.keras")
    assert isinstance(loaded, VGANGenerator) and loaded.latents == generator.latents
    np.testing.assert_array_equal(run(loaded)["video"], run(generator)["video"])
