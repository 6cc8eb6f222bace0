"""VGAN: a moving foreground over a still background, and the discriminator of whole clips.

Vondrick, Pirsiavash and Torralba, "Generating Videos with Scene Dynamics", NIPS 2016 (arXiv 1609.02612), layer for
layer as their published code at 64x64 and 32 frames. Other sizes have one doubling fewer or more, other lengths have
another first kernel.
"""

from __future__ import annotations

import functools
from typing import Any

import keras
import tensorflow as tf
from keras import layers, ops

from mocogan_tf.latents import CodeSpec
from mocogan_tf.models.blocks import KERNEL, SMALLEST_MAP, Generator, batch_norm, normal_weights, num_halvings
from mocogan_tf.models.discriminators import Discriminator

WEIGHTS_STDDEV = 0.01  # Of the initial weights of every convolution.


def smallest_length(video_length: int, image_size: int) -> int:
    """Returns the frames of the smallest feature map: `video_length` halved as often as the image.

    Raises:
        ValueError: That is not a whole number.
    """
    halvings = num_halvings(image_size)
    if video_length < 2**halvings or video_length % 2**halvings:
        raise ValueError(
            f"VGAN at image_size={image_size} makes clips of a multiple of {2**halvings} frames. "
            f"Set --video_length={2**halvings}, or a multiple of it. Received: video_length={video_length}"
        )
    return video_length // 2**halvings


@keras.saving.register_keras_serializable("mocogan_tf")
class VGANGenerator(Generator):
    """VGAN's generator of two streams, `m * f + (1 - m) * b`. It is a pure function of its input.

    Input: `z` [B, dim_z], N(0, 1). Outputs, all float32: `video` [B, T, H, W, C] in [-1, 1], and its parts:
    `foreground` [B, T, H, W, C] and `background` [B, 1, H, W, C] in [-1, 1], `mask` [B, T, H, W, 1] in [0, 1].

    Each stream has transposed convolutions with biases; batch normalisation and ReLU follow each but the heads. The
    first goes from one point to a map of 4x4 (in time to T / 16, 2 in the published network), the others have kernel 4
    and stride 2, with 8, 4, 2 and 1 times `ngf` filters at 64x64. The foreground's last map has two heads: tanh
    gives f, a sigmoid gives m.

    Attributes:
        frame_stride: 2 at 32 frames, so that 16 remain.

    Args:
        video_length: T; at 64x64 a multiple of 16.
        dim_z: Size of the code.
        ngf: Filters of the last hidden layer of both streams.
        image_size: 32, 64 or 128.
        channels: Colour channels.
        sync_batch_norm: Share batch statistics between replicas while training.

    Raises:
        ValueError: `image_size` or `video_length` is not one of the above.
    """

    def __init__(
        self,
        *,
        video_length: int = 32,
        dim_z: int = 100,
        ngf: int = 64,
        image_size: int = 64,
        channels: int = 3,
        sync_batch_norm: bool = False,
        name: str = "generator",
        **kwargs: Any,
    ) -> None:
        doublings = num_halvings(image_size)
        filters = [ngf * 2 ** (doublings - 1 - i) for i in range(doublings)]
        first_kernel = (smallest_length(video_length, image_size), SMALLEST_MAP, SMALLEST_MAP)
        z = keras.Input((dim_z,), name="z")
        shared: dict[str, Any] = {"filters": filters, "sync_batch_norm": sync_batch_norm}

        still = layers.Reshape((1, 1, dim_z), name="to_map")(z)
        still = _stream(layers.Conv2DTranspose, still, first_kernel[1:], name="background", **shared)
        still = _head(layers.Conv2DTranspose, still, channels, "tanh", name="background_head")
        background = layers.Reshape(
            (1, image_size, image_size, channels), dtype=keras.config.floatx(), name="background"
        )(still)

        moving = layers.Reshape((1, 1, 1, dim_z), name="to_volume")(z)
        moving = _stream(layers.Conv3DTranspose, moving, first_kernel, name="foreground", **shared)
        foreground = _head(layers.Conv3DTranspose, moving, channels, "tanh", name="foreground")
        mask = _head(layers.Conv3DTranspose, moving, 1, "sigmoid", name="mask")

        video = mask * foreground + (1.0 - mask) * background
        outputs = {"video": video, "foreground": foreground, "background": background, "mask": mask}
        super().__init__(inputs={"z": z}, outputs=outputs, name=name, **kwargs)
        self.latents = CodeSpec(num_frames=video_length, dim_z=dim_z)
        # The largest step that leaves 16 frames or more and divides the clip.
        self.frame_stride = max(i for i in range(1, max(2, video_length // 16 + 1)) if video_length % i == 0)
        self.config = {
            "video_length": video_length,
            "dim_z": dim_z,
            "ngf": ngf,
            "image_size": image_size,
            "channels": channels,
            "sync_batch_norm": sync_batch_norm,
        }


def _stream(
    convolution: type[keras.Layer],
    x: tf.Tensor,
    first_kernel: tuple[int, ...],
    *,
    filters: list[int],
    sync_batch_norm: bool,
    name: str,
) -> tf.Tensor:
    """Applies transposed convolutions from a point to half the size, in two or three dimensions."""
    for i, width in enumerate(filters):
        kernel, strides, padding = (first_kernel, 1, "valid") if i == 0 else (KERNEL, 2, "same")
        x = convolution(
            width,
            kernel,
            strides=strides,
            padding=padding,
            kernel_initializer=normal_weights(WEIGHTS_STDDEV),
            name=f"{name}_conv_{i}",
        )(x)
        x = batch_norm(f"{name}_norm_{i}", sync_batch_norm)(x)
        x = layers.ReLU(name=f"{name}_relu_{i}")(x)
    return x


def _head(convolution: type[keras.Layer], x: tf.Tensor, channels: int, activation: str, name: str) -> tf.Tensor:
    initial = normal_weights(WEIGHTS_STDDEV)
    x = convolution(channels, KERNEL, strides=2, padding="same", kernel_initializer=initial, name=f"{name}_conv")(x)
    # In full precision: bfloat16 cannot resolve half a pixel level.
    return layers.Activation(activation, dtype=keras.config.floatx(), name=f"{name}_{activation}")(x)


@keras.saving.register_keras_serializable("mocogan_tf")
class VGANDiscriminator(Discriminator):
    """VGAN's discriminator: `[B, T, H, W, C]` becomes logits `[B, 2]` of the classes generated and real.

    At 64x64 it has 3D convolutions with biases, kernel 4 and stride 2 in space and time, 1, 2, 4 and 8 times `ndf`
    filters, leaky ReLU 0.2, and batch normalisation in all but the first. The last convolution sees the whole map that
    is left, 2x4x4.

    Args:
        video_length: T; at 64x64 a multiple of 16.
        ndf: Filters of the first layer.
        image_size: 32, 64 or 128.
        sync_batch_norm: Share batch statistics between replicas.
    """

    def __init__(
        self,
        *,
        video_length: int = 32,
        ndf: int = 64,
        image_size: int = 64,
        sync_batch_norm: bool = False,
        name: str = "video_discriminator",
    ) -> None:
        halvings = num_halvings(image_size)
        convolutions = [
            layers.Conv3D(
                ndf * 2**i,
                KERNEL,
                strides=2,
                padding="same",
                kernel_initializer=normal_weights(WEIGHTS_STDDEV),
                name=f"conv_{i}",
            )
            for i in range(halvings)
        ]
        last_kernel = (smallest_length(video_length, image_size), SMALLEST_MAP, SMALLEST_MAP)
        last = layers.Conv3D(2, last_kernel, kernel_initializer=normal_weights(WEIGHTS_STDDEV), name=f"conv_{halvings}")
        norm = functools.partial(batch_norm, epsilon=1e-3, synchronized=sync_batch_norm)
        super().__init__(convolutions, last, norm=norm, name=name)
        self.video_length = video_length

    def call(self, videos: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """Returns logits `[B, 2]`: generated, real."""
        return ops.reshape(self.last(self.features(videos, training=training)), (-1, 2))
