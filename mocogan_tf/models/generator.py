"""The generator: a GRU draws a path in motion space, and an image decoder turns each point of it into a frame.

MoCoGAN (Tulyakov et al. 2018, arXiv 1707.04993): z = [z_content; z_motion(t)]. The content code is fixed over the clip;
the motion codes come from a one-layer GRU that is fed with independent noise. The decoder is DCGAN's.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops

from mocogan_tf.latents import LatentSpec
from mocogan_tf.models.blocks import KERNEL, Generator, batch_norm, normal_weights, num_halvings


@keras.saving.register_keras_serializable("mocogan_tf")
class OverTime(layers.Layer):
    """Repeats a code over the frames of another: `[B, D]` and `[B, T, E]` become `[B, T, D]`."""

    def call(self, code: tf.Tensor, frames: tf.Tensor) -> tf.Tensor:
        return ops.repeat(ops.expand_dims(code, 1), ops.shape(frames)[1], axis=1)

    def compute_output_shape(
        self, code_shape: tuple[int | None, ...], frames_shape: tuple[int | None, ...]
    ) -> tuple[int | None, ...]:
        return (code_shape[0], frames_shape[1], code_shape[-1])


@keras.saving.register_keras_serializable("mocogan_tf")
class PerFrame(layers.Layer):
    """Applies an image model to every frame: `[B, T, D]` becomes `[B, T, H, W, C]`.

    Time is folded into the batch, so batch normalisation sees all frames of the batch, as in the authors' code.
    """

    def __init__(self, decoder: keras.Model, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.decoder = decoder

    def call(self, codes: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        num_videos, num_frames = ops.shape(codes)[:2]
        frames = self.decoder(ops.reshape(codes, (-1, codes.shape[-1])), training=training)
        return ops.reshape(frames, (num_videos, num_frames, *frames.shape[1:]))

    def compute_output_shape(self, codes_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return (*codes_shape[:2], *self.decoder.output_shape[1:])


def frame_decoder(
    dim_z: int, ngf: int, image_size: int, channels: int, sync_batch_norm: bool = False, dim_modulating: int = 0
) -> keras.Model:
    """Builds the image decoder G_I.

    At 64x64 the transposed convolutions have 8, 4, 2 and 1 times `ngf` filters and then `channels`, kernel 4 and no
    biases. The first goes from 1x1 to 4x4, each of the others doubles the size. Batch normalisation and ReLU follow all
    but the last, which ends in tanh. A size of 32 has one doubling fewer, 128 one more.

    Args:
        dim_z: Size of a frame's whole code.
        ngf: Filters of the last hidden layer.
        image_size: 32, 64 or 128.
        channels: Colour channels of a frame.
        sync_batch_norm: Share batch statistics between replicas.
        dim_modulating: How many of the code's first values also scale the channels of every hidden layer, by a linear
            map plus 1 after its normalisation (self-modulation, Chen et al. 2019, arXiv 1810.01365, without their
            offset). The scales are the same everywhere in a frame. 0: none do.

    Returns:
        keras.Model from `[N, dim_z]` to float32 `[N, H, W, C]` in [-1, 1].
    """
    doublings = num_halvings(image_size)
    codes = keras.Input((dim_z,), name="codes")
    x = layers.Reshape((1, 1, dim_z), name="to_map")(codes)
    for i in range(doublings):
        filters = ngf * 2 ** (doublings - 1 - i)
        strides, padding = (1, "valid") if i == 0 else (2, "same")
        x = _conv_transpose(filters, strides, padding, name=f"conv_{i}")(x)
        x = batch_norm(f"norm_{i}", sync_batch_norm)(x)
        if dim_modulating:
            x = layers.Multiply(name=f"modulated_{i}")([x, _gains(codes[:, :dim_modulating], filters, i)])
        x = layers.ReLU(name=f"relu_{i}")(x)
    x = _conv_transpose(channels, 2, "same", name=f"conv_{doublings}")(x)
    frames = layers.Activation("tanh", dtype=keras.config.floatx(), name="tanh")(x)
    return keras.Model(codes, frames, name="decoder")


def _gains(code: tf.Tensor, filters: int, i: int) -> tf.Tensor:
    """Returns a factor for every channel, `[N, 1, 1, filters]`; untrained, they are 1 with a deviation of 1."""
    gains = layers.Dense(filters, kernel_initializer="lecun_normal", bias_initializer="ones", name=f"gains_{i}")(code)
    return layers.Reshape((1, 1, filters), name=f"gains_map_{i}")(gains)


def _conv_transpose(filters: int, strides: int, padding: str, name: str) -> keras.Layer:
    return layers.Conv2DTranspose(
        filters,
        KERNEL,
        strides=strides,
        padding=padding,
        use_bias=False,
        kernel_initializer=normal_weights(),
        name=name,
    )


@keras.saving.register_keras_serializable("mocogan_tf")
class VideoGenerator(Generator):
    """MoCoGAN's generator: motion network R_M and image decoder G_I. It is a pure function of its inputs.

    Inputs (by name; `mocogan_tf.latents` draws them): `content` [B, dim_content], `motion_init` [B, dim_motion],
    `motion_noise` [B, T, dim_motion], and one-hot `category` [B, dim_category] unless `dim_category` is 0. B and T are
    free, so one model makes clips of any length.

    Outputs: `video` float32 [B, T, H, W, C] in [-1, 1]; `motion_state` [B, dim_motion], the GRU's last state. Given as
    `motion_init` to the next call, it continues the clip.

    Attributes:
        codes: The part of the model up to the codes `[B, T, dim_z]`; training decodes single frames from it.
        decoder: The image decoder.
        motion: The GRU.
        motion_init_scale: As given.

    Args:
        dim_content: Size of the content code.
        dim_motion: Size of the motion code and of the noise.
        dim_category: Number of categories, 0 for none.
        category_to: "motion": the category enters the GRU beside the noise (the full model of the paper's Table 4);
            "image": it enters the decoder beside content and motion, as in the authors' code.
        ngf: Filters of the decoder's last hidden layer.
        image_size: 32, 64 or 128.
        channels: Colour channels.
        sync_batch_norm: Share batch statistics between replicas while training.
        update_gate_bias: Initial bias of the GRU's update gate. Above 0, motion codes change slowly from the first step
            on (Tallec and Ollivier 2018, "Can recurrent neural networks warp time?", section 2.2).
        motion_init_scale: The GRU's first state is this times `motion_init`. Its later states stay well within (-1, 1);
            with a first state of the same spread, a clip's first frames look like its later ones. `motion_state` is
            given in the units of `motion_init`.
        content_modulation: Whether the codes that are fixed over a clip (content, and with `category_to` "image" the
            category) also scale the decoder's channels. Without it they enter through the first layer only, and each
            place in a frame has to learn by itself what a content looks like there.

    Raises:
        ValueError: `image_size` or `category_to` is not one of the above, or `motion_init_scale` is not positive.
    """

    def __init__(
        self,
        *,
        dim_content: int = 50,
        dim_motion: int = 10,
        dim_category: int = 0,
        category_to: str = "motion",
        ngf: int = 64,
        image_size: int = 64,
        channels: int = 3,
        sync_batch_norm: bool = False,
        update_gate_bias: float = 0.0,
        motion_init_scale: float = 1.0,
        content_modulation: bool = False,
        name: str = "generator",
        **kwargs: Any,
    ) -> None:
        if category_to not in ("motion", "image"):
            raise ValueError(f"`category_to` must be motion or image. Received: category_to={category_to}")
        if motion_init_scale <= 0:
            raise ValueError(f"`motion_init_scale` must be positive. Received: motion_init_scale={motion_init_scale}")
        latents = LatentSpec(dim_content=dim_content, dim_motion=dim_motion, dim_category=dim_category)
        inputs = {key: keras.Input(shape[1:], name=key) for key, shape in latents.shapes(None, None).items()}

        # Codes keep full precision under mixed precision: they are tiny, and the state is carried over many calls.
        noise = inputs["motion_noise"]
        per_frame = {
            key: OverTime(dtype=keras.config.floatx(), name=f"{key}_over_time") for key in inputs if "motion" not in key
        }
        repeated = {key: layer(inputs[key], noise) for key, layer in per_frame.items()}
        joined = [repeated["category"]] if dim_category else []
        to_motion, to_image = (joined, []) if category_to == "motion" else ([], joined)
        motion = layers.GRU(
            dim_motion,
            return_sequences=True,
            return_state=True,
            # XLA cannot compile cuDNN's operation, nor can it be exported, and at ten units it gains nothing.
            use_cudnn=False,
            bias_initializer=_gate_bias(dim_motion, update_gate_bias),
            dtype=keras.config.floatx(),
            name="motion",
        )
        start = _scaled(inputs["motion_init"], motion_init_scale, "motion_start")
        z_motion, end = motion(_join([noise, *to_motion], "motion_input"), start)
        motion_state = _scaled(end, 1 / motion_init_scale, "motion_end")
        codes = _join([repeated["content"], *to_image, z_motion], "codes")

        dim_modulating = codes.shape[-1] - dim_motion if content_modulation else 0
        decoder = frame_decoder(codes.shape[-1], ngf, image_size, channels, sync_batch_norm, dim_modulating)
        video = PerFrame(decoder, name="frames")(codes)
        super().__init__(inputs=inputs, outputs={"video": video, "motion_state": motion_state}, name=name, **kwargs)
        self.latents = latents
        self.motion = motion
        self.motion_init_scale = motion_init_scale
        self.decoder = decoder
        self.codes = keras.Model(inputs, codes, name="codes_model")
        self.config = {
            "dim_content": dim_content,
            "dim_motion": dim_motion,
            "dim_category": dim_category,
            "category_to": category_to,
            "ngf": ngf,
            "image_size": image_size,
            "channels": channels,
            "sync_batch_norm": sync_batch_norm,
            "update_gate_bias": update_gate_bias,
            "motion_init_scale": motion_init_scale,
            "content_modulation": content_modulation,
        }


def _gate_bias(units: int, update: float) -> keras.initializers.Initializer:
    """Returns initial biases `[2, 3 * units]` of a GRU: update, reset and candidate parts, for input and for state."""
    biases = np.zeros((2, 3 * units))
    biases[0, :units] = update
    return keras.initializers.Constant(biases)


def _scaled(code: tf.Tensor, scale: float, name: str) -> tf.Tensor:
    return code if scale == 1 else layers.Rescaling(scale, dtype=keras.config.floatx(), name=name)(code)


def _join(codes: list[tf.Tensor], name: str) -> tf.Tensor:
    return layers.Concatenate(dtype=keras.config.floatx(), name=name)(codes) if len(codes) > 1 else codes[0]
