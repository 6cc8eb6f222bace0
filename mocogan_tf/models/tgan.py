"""TGAN: a temporal generator draws a path of codes, an image generator turns each into a frame, a critic scores clips.

Saito, Matsumoto and Saito, "Temporal Generative Adversarial Nets with Singular Value Clipping", ICCV 2017 (arXiv
1611.06624), layer for layer as their published code at 64x64 and 16 frames, with the paper's initial weights. Other
sizes and lengths have fewer or more doublings.
"""

from __future__ import annotations

import functools
from typing import Any

import keras
import tensorflow as tf
from keras import layers, ops

from mocogan_tf.latents import CodeSpec
from mocogan_tf.models.blocks import KERNEL, SMALLEST_MAP, BatchNorm, Generator, num_halvings
from mocogan_tf.models.discriminators import Discriminator
from mocogan_tf.models.generator import OverTime, PerFrame


def _he_normal() -> keras.initializers.Initializer:
    return keras.initializers.VarianceScaling(2.0, "fan_in", "untruncated_normal")


def _small_uniform() -> keras.initializers.Initializer:
    return keras.initializers.RandomUniform(-0.01, 0.01)


def _batch_norm(name: str, synchronized: bool, center: bool = False) -> BatchNorm:
    """Returns batch normalisation with Chainer's momentum and epsilon; only the image generator's maps have a shift."""
    return BatchNorm(momentum=0.9, epsilon=2e-5, center=center, synchronized=synchronized, name=name)


def _temporal_generator(z: tf.Tensor, video_length: int, ngf: int, sync_batch_norm: bool) -> tf.Tensor:
    """Applies G0, transposed convolutions along time: `[B, dim_z]` becomes the path `[B, T, dim_z]` in [-1, 1].

    At T = 16 and the published width they have 512, 256, 128, 128 and then `dim_z` filters.
    """
    doublings = video_length.bit_length() - 1
    dim_z = z.shape[-1]
    x = layers.Reshape((1, dim_z), name="to_signal")(z)
    for i, width in enumerate([8, 4, *[2] * doublings][:doublings]):
        kernel, strides = (1, 1) if i == 0 else (KERNEL, 2)
        x = layers.Conv1DTranspose(
            ngf * width,
            kernel,
            strides=strides,
            padding="same",
            use_bias=False,
            kernel_initializer=_he_normal(),
            name=f"temporal_conv_{i}",
        )(x)
        x = _batch_norm(f"temporal_norm_{i}", sync_batch_norm)(x)
        x = layers.ReLU(name=f"temporal_relu_{i}")(x)
    x = layers.Conv1DTranspose(
        dim_z, KERNEL, strides=2, padding="same", kernel_initializer=_he_normal(), name=f"temporal_conv_{doublings}"
    )(x)
    return layers.Activation("tanh", dtype=keras.config.floatx(), name="temporal_tanh")(x)


def _image_generator(dim_z: int, ngf: int, image_size: int, channels: int, sync_batch_norm: bool) -> keras.Model:
    """Builds G1: codes `[N, 2 dim_z]`, the clip's z0 and the frame's z_t, become frames `[N, H, W, C]` in [-1, 1]."""
    doublings = num_halvings(image_size)
    maps = ngf * 2 ** (doublings - 2)  # Feature maps of each of the two codes: 256 in the published network.
    codes = keras.Input((2 * dim_z,), name="codes")
    parts = []
    for part, name in ((codes[:, :dim_z], "slow"), (codes[:, dim_z:], "fast")):
        x = layers.Dense(
            maps * SMALLEST_MAP**2, use_bias=False, kernel_initializer=_small_uniform(), name=f"{name}_dense"
        )(part)
        x = _batch_norm(f"{name}_norm", sync_batch_norm, center=True)(x)
        x = layers.ReLU(name=f"{name}_relu")(x)
        parts.append(layers.Reshape((SMALLEST_MAP, SMALLEST_MAP, maps), name=f"{name}_map")(x))
    x = layers.Concatenate(name="maps")(parts)
    for i in range(doublings):
        x = layers.Conv2DTranspose(
            max(1, maps // 2**i),
            KERNEL,
            strides=2,
            padding="same",
            use_bias=False,
            kernel_initializer=_small_uniform(),
            name=f"conv_{i}",
        )(x)
        x = _batch_norm(f"norm_{i}", sync_batch_norm, center=True)(x)
        x = layers.ReLU(name=f"relu_{i}")(x)
    x = layers.Conv2DTranspose(
        channels, 3, padding="same", kernel_initializer=_small_uniform(), name=f"conv_{doublings}"
    )(x)
    frames = layers.Activation("tanh", dtype=keras.config.floatx(), name="tanh")(x)
    return keras.Model(codes, frames, name="decoder")


@keras.saving.register_keras_serializable("mocogan_tf")
class TGANGenerator(Generator):
    """TGAN's generator: temporal generator G0 and image generator G1. It is a pure function of its input.

    Input: `z` [B, dim_z], uniform on (-1, 1). Output: `video` float32 [B, T, H, W, C] in [-1, 1].

    Args:
        video_length: T, a power of two, at least 4.
        dim_z: Size of the clip's code and of every frame's code.
        ngf: Filters of the image generator's last hidden layer but one.
        image_size: 32, 64 or 128.
        channels: Colour channels.
        sync_batch_norm: Share batch statistics between replicas while training.

    Raises:
        ValueError: `image_size` or `video_length` is not one of the above.
    """

    def __init__(
        self,
        *,
        video_length: int = 16,
        dim_z: int = 100,
        ngf: int = 64,
        image_size: int = 64,
        channels: int = 3,
        sync_batch_norm: bool = False,
        name: str = "generator",
        **kwargs: Any,
    ) -> None:
        if video_length < 4 or video_length.bit_count() != 1:
            raise ValueError(
                "TGAN makes clips of a power of two of frames, at least 4. Set --video_length=16, for example. "
                f"Received: video_length={video_length}"
            )
        z = keras.Input((dim_z,), name="z")
        path = _temporal_generator(z, video_length, ngf, sync_batch_norm)
        repeated = OverTime(dtype=keras.config.floatx(), name="z_over_time")(z, path)
        codes = layers.Concatenate(dtype=keras.config.floatx(), name="codes")([repeated, path])
        decoder = _image_generator(dim_z, ngf, image_size, channels, sync_batch_norm)
        video = PerFrame(decoder, name="frames")(codes)
        super().__init__(inputs={"z": z}, outputs={"video": video}, name=name, **kwargs)
        self.latents = CodeSpec(num_frames=video_length, dim_z=dim_z, distribution="uniform")
        self.decoder = decoder
        self.config = {
            "video_length": video_length,
            "dim_z": dim_z,
            "ngf": ngf,
            "image_size": image_size,
            "channels": channels,
            "sync_batch_norm": sync_batch_norm,
        }


@keras.saving.register_keras_serializable("mocogan_tf")
class TGANDiscriminator(Discriminator):
    """TGAN's critic: `[B, T, H, W, C]` becomes a score per clip, `[B, 1]`.

    At 64x64 and T = 16 it has 3D convolutions with biases, kernel 4 and stride 2 in space and time, 1, 2, 4 and 8 times
    `ndf` filters, leaky ReLU 0.2, and batch normalisation without shift in all but the first. The last convolution sees
    the one frame that is left, 4x4. A shorter clip is reduced to one frame sooner, and the deeper layers do not look
    along time; of a longer clip, the last convolution sees all frames that are left.

    Args:
        video_length: T, a power of two.
        ndf: Filters of the first layer.
        image_size: 32, 64 or 128.
        sync_batch_norm: Share batch statistics between replicas.
    """

    def __init__(
        self,
        *,
        video_length: int = 16,
        ndf: int = 64,
        image_size: int = 64,
        sync_batch_norm: bool = False,
        name: str = "video_discriminator",
    ) -> None:
        halvings = num_halvings(image_size)
        convolutions, frames = [], video_length
        for i in range(halvings):
            kernel, stride = (KERNEL, 2) if frames > 1 else (1, 1)
            frames = max(1, frames // 2)
            convolutions.append(
                layers.Conv3D(
                    ndf * 2**i,
                    (kernel, KERNEL, KERNEL),
                    strides=(stride, 2, 2),
                    padding="same",
                    kernel_initializer=_he_normal(),
                    name=f"conv_{i}",
                )
            )
        last_kernel = (frames, SMALLEST_MAP, SMALLEST_MAP)
        last = layers.Conv3D(1, last_kernel, kernel_initializer=_he_normal(), name=f"conv_{halvings}")
        norm = functools.partial(_batch_norm, synchronized=sync_batch_norm)
        super().__init__(convolutions, last, norm=norm, name=name)
        self.video_length = video_length

    def call(self, videos: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """Returns unbounded scores `[B, 1]`."""
        return ops.reshape(self.last(self.features(videos, training=training)), (-1, 1))
