"""Promises of the discriminators."""

import keras
import numpy as np
import pytest

from mocogan_tf.models.discriminators import (
    BatchDeviation,
    FineImageDiscriminator,
    ImageDiscriminator,
    PatchImageDiscriminator,
    VideoDiscriminator,
    add_noise,
    temporal_plan,
)
from tests.support import reference

pytestmark = pytest.mark.core


def built(discriminator, *shape):
    discriminator.build((None, *shape))
    return discriminator


def num_trainable(model):
    return sum(variable.numpy().size for variable in model.trainable_variables)


def test_parameter_counts_at_64_pixels_are_those_of_the_authors_layers():
    image = 16 * (3 * 64 + 64 * 128 + 128 * 256 + 256 * 512 + 512) + 2 * (128 + 256 + 512)
    patch = 16 * (3 * 64 + 64 * 128 + 128 * 256 + 256) + 2 * (128 + 256)
    video = 64 * (3 * 64 + 64 * 128 + 128 * 256 + 256 * 512 + 512 * (1 + 4)) + 2 * (128 + 256 + 512)
    frame = (64, 64, 3)
    assert num_trainable(built(ImageDiscriminator(), *frame)) == image == 2_765_568
    assert num_trainable(built(PatchImageDiscriminator(), *frame)) == patch == 663_296
    assert num_trainable(built(VideoDiscriminator(dim_category=4), 16, *frame)) == video == 11_187_968


@pytest.mark.parametrize(
    ("video_length", "num_layers", "plan"),
    [
        (16, 4, [(4, 1)] * 4),  # The authors': 16, 13, 10, 7, 4.
        (4, 4, [(1, 1)] * 4),
        (8, 4, [(4, 1), (1, 1), (1, 1), (1, 1)]),
        (24, 4, [(4, 1), (4, 1), (4, 1), (5, 2)]),
        (33, 4, [(4, 1), (4, 1), (5, 2), (4, 2)]),
        (16, 3, [(4, 1)] * 3),
        (16, 5, [(4, 1)] * 4 + [(1, 1)]),
    ],
)
def test_depth_in_time_follows_from_the_clip_length(video_length, num_layers, plan):
    assert temporal_plan(video_length, num_layers) == plan


@pytest.mark.parametrize("num_layers", [3, 4, 5])
def test_no_frame_is_left_out_at_any_length(num_layers):
    for video_length in range(4, 130):
        frames = video_length
        for kernel, stride in temporal_plan(video_length, num_layers):
            assert (frames - kernel) % stride == 0
            frames = (frames - kernel) // stride + 1
        assert frames >= 4


def test_clips_of_fewer_than_four_frames_are_refused():
    with pytest.raises(ValueError, match="at least 4. Received: video_length=3"):
        VideoDiscriminator(video_length=3)


@pytest.mark.parametrize("image_size", [32, 64, 128])
@pytest.mark.parametrize("video_length", [4, 16, 33])
@pytest.mark.parametrize("channels", [1, 3])
def test_video_discriminator_at_every_size_and_length(image_size, video_length, channels):
    discriminator = VideoDiscriminator(ndf=2, image_size=image_size, video_length=video_length, dim_category=3)
    videos = np.zeros((2, video_length, image_size, image_size, channels), np.float32)
    logits, classes = discriminator(videos)
    assert logits.shape[0] == 2 and 1 <= logits.shape[1] <= 4
    assert classes.shape == (*logits.shape, 3)


@pytest.mark.parametrize("image_size", [32, 64, 128])
def test_image_discriminators_at_every_size(image_size):
    images = np.zeros((2, image_size, image_size, 3), np.float32)
    assert ImageDiscriminator(ndf=2, image_size=image_size)(images).shape == (2, 1)
    assert PatchImageDiscriminator(ndf=2, image_size=image_size)(images).shape == (2, 16)


@pytest.mark.parametrize("frame", range(16))
def test_every_frame_of_a_clip_reaches_the_logit(frame):
    discriminator = built(VideoDiscriminator(ndf=2, image_size=32, norm="none"), 16, 32, 32, 3)
    reference.random_weights(discriminator)
    videos = np.zeros((1, 16, 32, 32, 3), np.float32)
    before = np.asarray(discriminator(videos)[0])
    videos[0, frame] = 1.0
    assert np.abs(np.asarray(discriminator(videos)[0]) - before).max() > 1e-6


def test_noise_has_its_deviation_follows_its_seed_and_is_off_without_one():
    def added(seed):
        discriminator = built(ImageDiscriminator(ndf=2, image_size=32, noise_sigma=0.1), 32, 32, 3)
        noise, *_ = discriminator.draw_noise(16, seed)
        return np.asarray(add_noise(keras.ops.zeros((16, 32, 32, 3)), 0.1, noise))

    noise = added([1, 2])
    assert abs(noise.std() - 0.1) < 0.002 and abs(noise.mean()) < 0.002
    np.testing.assert_array_equal(noise, added([1, 2]))
    assert not np.array_equal(noise, added([1, 3]))
    zeros = np.zeros((2, 2), np.float32)
    assert add_noise(zeros, 0.1, None) is zeros and add_noise(zeros, 0.0, zeros) is zeros
    assert built(ImageDiscriminator(ndf=2, image_size=32), 32, 32, 3).draw_noise(16, [1, 2]) == []


@pytest.mark.parametrize(
    ("make", "shape", "noisy"),
    [
        (ImageDiscriminator, (32, 32, 3), 3),
        (PatchImageDiscriminator, (32, 32, 3), 3),  # Two layers and the last.
        (VideoDiscriminator, (16, 32, 32, 3), 3),
    ],
)
def test_noise_enters_before_every_convolution_but_a_full_size_last_one(make, shape, noisy, monkeypatch):
    discriminator = built(make(ndf=2, image_size=32, noise_sigma=0.5), *shape)
    added = []

    def record(x, sigma, noise):
        assert x.shape == noise.shape and x.dtype == noise.dtype
        added.append(float(noise[0, 0, 0, 0, 0] if len(shape) == 4 else noise[0, 0, 0, 0]))
        return x

    monkeypatch.setattr("mocogan_tf.models.discriminators.add_noise", record)
    discriminator(np.zeros((1, *shape), np.float32), noise=discriminator.draw_noise(1, [1, 2]))
    assert len(added) == len(set(added)) == noisy


def test_without_normalisation_there_are_biases_and_no_statistics():
    plain = built(VideoDiscriminator(ndf=2, norm="none"), 16, 64, 64, 3)
    assert not plain.non_trainable_variables
    assert sum("bias" in variable.path for variable in plain.weights) == 5


@pytest.mark.parametrize("make", [ImageDiscriminator, PatchImageDiscriminator, VideoDiscriminator])
@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_spectral_normalisation_divides_by_the_largest_singular_value(make, policy):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        keras.utils.set_random_seed(0)
        shape = (4, 32, 32, 3) if make is VideoDiscriminator else (32, 32, 3)
        sizes = {"video_length": 4} if make is VideoDiscriminator else {}
        discriminator = built(make(ndf=4, image_size=32, norm="spectral", **sizes), *shape)
    finally:
        keras.config.set_dtype_policy(before)
    clips = np.random.default_rng(0).uniform(-1, 1, (2, *shape)).astype("float32")
    layer = discriminator.convolutions[0]
    layer.bias.assign(np.arange(4, dtype="float32"))
    for _ in range(60):  # The power iteration converges.
        discriminator(clips, training=True)
    kernel = layer.convolution.kernel.numpy()
    sigma = np.linalg.svd(kernel.reshape(-1, kernel.shape[-1]), compute_uv=False)[0]
    expected = np.array(layer.layer(clips), "float32") / sigma + np.arange(4)
    tolerance = 1e-4 if policy == "float32" else 3e-2
    np.testing.assert_allclose(np.array(layer(clips), "float32"), expected, rtol=tolerance, atol=tolerance)
    left = layer.left.numpy()
    discriminator(clips, training=False)
    np.testing.assert_array_equal(layer.left.numpy(), left)


@pytest.mark.parametrize("image_size", [32, 64, 128])
@pytest.mark.parametrize("channels", [1, 3, 6])
def test_the_fine_image_discriminator_at_every_size(image_size, channels):
    discriminator = built(FineImageDiscriminator(ndf=4, image_size=image_size), image_size, image_size, channels)
    logits = discriminator(np.zeros((3, image_size, image_size, channels), np.float32))
    assert logits.shape == (3, 1)
    first, *others = [layer.kernel.shape for layer in (discriminator.first, *discriminator.convolutions)]
    assert first == (3, 3, channels, 2)
    assert [shape[-1] for shape in others] == [4 * 2**i for i in range(len(others))]


def test_the_batch_s_deviation_is_what_a_channel_of_it_would_add():
    layer = BatchDeviation(5)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(8, 4, 4, 3)).astype(np.float32)
    layer.build(x.shape)
    deviation = np.sqrt(x.var(axis=0) + 1e-8).mean()
    np.testing.assert_allclose(np.asarray(layer(x)), deviation * layer.kernel.numpy(), rtol=1e-5)
    # Under a convolution a constant channel is its constant times the sum of the kernel, away from the border.
    kernel = rng.normal(size=(3, 3, 4, 5)).astype(np.float32)
    beside = np.concatenate([x, np.full((8, 4, 4, 1), deviation, np.float32)], axis=-1)
    layer.kernel.assign(kernel[:, :, 3].sum(axis=(0, 1)))
    expected = np.asarray(keras.ops.conv(beside, kernel)) - np.asarray(keras.ops.conv(x, kernel[:, :, :3]))
    np.testing.assert_allclose(expected, np.broadcast_to(np.asarray(layer(x)), expected.shape), atol=1e-4)


def test_a_batch_of_one_picture_has_no_deviation():
    layer = BatchDeviation(2)
    x = np.repeat(np.random.default_rng(0).normal(size=(1, 4, 4, 3)), 4, axis=0).astype(np.float32)
    assert np.abs(np.asarray(layer(x))).max() < 1e-5


def test_signals_keep_their_size_through_layers_that_start_as_he_s():
    rng = np.random.default_rng(0)
    sizes = {}
    for he_start in (False, True):
        keras.utils.set_random_seed(0)
        discriminator = VideoDiscriminator(ndf=24, image_size=32, norm="none", he_start=he_start)
        features = discriminator.features(rng.normal(size=(2, 16, 32, 32, 3)).astype(np.float32))
        sizes[he_start] = np.sqrt(np.mean(np.square(features)))
    assert 0.4 < sizes[True] < 2.0
    assert sizes[False] < 0.3 * sizes[True]
