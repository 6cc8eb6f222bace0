"""Promises of TGAN's networks."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from mocogan_tf.latents import sample_latents
from mocogan_tf.models.tgan import TGANDiscriminator, TGANGenerator
from tests.support import reference

pytestmark = pytest.mark.core


@pytest.fixture(scope="module")
def generator():
    made = TGANGenerator(video_length=8, image_size=32, ngf=4)
    reference.random_weights(made)
    return made


def codes_of(generator, num_videos=2):
    return sample_latents(generator.latents, num_videos, generator.latents.num_frames, seed=1)


def count(network):
    return sum(variable.numpy().size for variable in network.trainable_variables)


def test_parameter_counts_are_those_of_the_published_layers():
    temporal = 100 * 512 + 4 * (512 * 256 + 256 * 128 + 128 * 128 + 128 * 100) + 100
    temporal_scales = 512 + 256 + 128 + 128
    image = 2 * 100 * 4096 + 16 * (512 * 256 + 256 * 128 + 128 * 64 + 64 * 32) + 9 * 32 * 3 + 3
    image_norms = 2 * (2 * 4096 + 256 + 128 + 64 + 32)
    assert count(TGANGenerator()) == temporal + temporal_scales + image + image_norms == 4_447_111

    convolutions = 64 * (3 * 64 + 64 * 128 + 128 * 256 + 256 * 512) + 64 + 128 + 256 + 512
    critic = TGANDiscriminator()
    critic.build((None, 16, 64, 64, 3))
    assert count(critic) == convolutions + 128 + 256 + 512 + 16 * 512 + 1 == 11_032_385


def test_every_frame_is_decoded_from_the_clips_code_and_its_own(generator):
    latents = codes_of(generator)
    codes = np.asarray(keras.Model(generator.input, generator.get_layer("codes").output)(latents))
    assert codes.shape == (2, 8, 200)
    np.testing.assert_array_equal(codes[..., :100], latents["z"][:, None].repeat(8, axis=1))
    path = codes[..., 100:]
    assert np.abs(path).max() <= 1 and np.abs(np.diff(path, axis=1)).max() > 1e-3
    frames = np.asarray(generator.decoder(codes.reshape(-1, 200), training=False)).reshape(2, 8, 32, 32, 3)
    video = np.asarray(generator(latents, training=False)["video"])
    np.testing.assert_allclose(video, frames, atol=1e-6)
    assert np.abs(video).max() <= 1


@pytest.mark.parametrize(("image_size", "video_length"), [(32, 4), (32, 8), (64, 16), (64, 32), (128, 16)])
def test_every_size_and_length(image_size, video_length):
    made = TGANGenerator(video_length=video_length, image_size=image_size, ngf=2, channels=1)
    video = made(codes_of(made, 1))["video"]
    assert video.shape == (1, video_length, image_size, image_size, 1)
    critic = TGANDiscriminator(video_length=video_length, image_size=image_size, ndf=1)
    critic.build(video.shape)
    assert critic(video).shape == (1, 1)


@pytest.mark.parametrize("video_length", [2, 12, 24])
def test_other_lengths_are_refused(video_length):
    with pytest.raises(ValueError, match="power of two.*Received: video_length"):
        TGANGenerator(video_length=video_length, image_size=32, ngf=2)


def test_weights_start_as_the_paper_says():
    keras.utils.set_random_seed(0)
    made = TGANGenerator(ngf=16)
    kernel = made.decoder.get_layer("conv_0").kernel.numpy()
    assert np.abs(kernel).max() <= 0.01 and kernel.std() == pytest.approx(0.01 / np.sqrt(3), rel=0.05)
    kernel = made.get_layer("temporal_conv_1").kernel.numpy()  # [k, out, in]; fan-in k times out, as in Chainer.
    assert kernel.std() == pytest.approx(np.sqrt(2 / (4 * kernel.shape[1])), rel=0.05)
    critic = TGANDiscriminator(ndf=16)
    critic.build((None, 16, 64, 64, 3))
    kernel = critic.convolutions[1].kernel.numpy()
    assert kernel.std() == pytest.approx(np.sqrt(2 / (64 * 16)), rel=0.05)


def test_the_critic_looks_at_every_frame():
    for video_length in (4, 32):  # Shorter than its layers halve, and longer.
        critic = TGANDiscriminator(video_length=video_length, image_size=32, ndf=4)
        critic.build((None, video_length, 32, 32, 3))
        reference.random_weights(critic)
        videos = tf.constant(np.random.default_rng(0).uniform(-1, 1, (1, video_length, 32, 32, 3)), tf.float32)
        with tf.GradientTape() as tape:
            tape.watch(videos)
            scores = critic(videos, training=False)
        assert np.all(np.abs(tape.gradient(scores, videos)).sum(axis=(0, 2, 3, 4)) > 0)


def test_configuration_and_file_round_trips(generator, tmp_path):
    latents = codes_of(generator)
    generator.save(tmp_path / "generator.keras")
    loaded = keras.saving.load_model(tmp_path / "generator.keras")
    assert isinstance(loaded, TGANGenerator) and loaded.latents == generator.latents
    np.testing.assert_array_equal(loaded(latents)["video"], generator(latents)["video"])
