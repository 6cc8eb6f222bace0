"""The generator: a GRU draws a path in motion space, and an image decoder turns each point of it into a frame.

MoCoGAN (Tulyakov et al. 2018, arXiv 1707.04993): z = [z_content; z_motion(t)]. The content code is fixed over the clip;
the motion codes come from a one-layer GRU that is fed with independent noise.
"""

from __future__ import annotations

from typing import Any, cast

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops
from numpy.typing import NDArray

from mocogan_tf.latents import LatentSpec
from mocogan_tf.models.blocks import SMALLEST_MAP, Generator, num_halvings
from mocogan_tf.models.decoders import background_decoder, fine_decoder, frame_decoder
from mocogan_tf.models.encoder import ContentLayout, picture_encoder
from mocogan_tf.models.motion import motion_network

ENCODE_BATCH = 64  # Pictures per call of the encoder.


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
class StatesBefore(layers.Layer):
    """Makes of a first state `[B, D]` and the states after each of T frames, `[B, T, D]`, those before each."""

    def call(self, start: tf.Tensor, states: tf.Tensor) -> tf.Tensor:
        return ops.concatenate([ops.expand_dims(start, 1), states[:, :-1]], axis=1)

    def compute_output_shape(
        self, start_shape: tuple[int | None, ...], states_shape: tuple[int | None, ...]
    ) -> tuple[int | None, ...]:
        return states_shape


@keras.saving.register_keras_serializable("mocogan_tf")
class PerFrame(layers.Layer):
    """Applies an image model to every frame: `[B, T, D]` becomes `[B, T, H, W, C]`.

    Time is folded into the batch, so batch normalisation sees all frames of the batch, as in the authors' code.

    Args:
        decoder: From codes `[N, D]` to frames; with a background, to figures and masks, `[N, H, W, C + 1]`.
        background: From the code that is fixed over a clip, `[B, dim_fixed]`, to the picture behind its figures. It has
            their height and width, or twice that and is then averaged. None: the decoder draws whole frames.
    """

    def __init__(self, decoder: keras.Model, background: keras.Model | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.decoder, self.background = decoder, cast(Any, background)

    def call(self, codes: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        if self.background is None:
            return self.decoded(codes, training)
        return compose(*self.parts(codes, training))

    def decoded(self, codes: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """Decodes every frame's code: to frames, or to figures and masks, `[B, T, H, W, ...]`."""
        num_videos, num_frames = ops.shape(codes)[:2]
        frames = self.decoder(ops.reshape(codes, (-1, codes.shape[-1])), training=training)
        return ops.reshape(frames, (num_videos, num_frames, *frames.shape[1:]))

    def parts(self, codes: tf.Tensor, training: bool | None = None) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns figures with masks `[B, T, H, W, C + 1]` and backgrounds `[B, H, W, C]`, as `compose` takes them."""
        figures = self.decoded(codes, training)
        background = self.background(codes[:, 0, : self.background.input_shape[-1]], training=training)
        return figures, halved(background) if background.shape[1] != figures.shape[2] else background

    def compute_output_shape(self, codes_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        *size, channels = self.decoder.output_shape[1:]
        return (*codes_shape[:2], *size, channels - (self.background is not None))


def halved(pictures: tf.Tensor) -> tf.Tensor:
    """Averages 2x2 pixels: `[..., H, W, C]` becomes `[..., H/2, W/2, C]`."""
    *some, height, width, channels = pictures.shape
    pairs = ops.reshape(pictures, (*ops.shape(pictures)[: len(some)], height // 2, 2, width // 2, 2, channels))
    return ops.mean(pairs, axis=(-4, -2))


def compose(figures: tf.Tensor, background: tf.Tensor) -> tf.Tensor:
    """Puts figures before a still background, `m f + (1 - m) b` (VGAN, Vondrick et al. 2016, equation 2).

    Args:
        figures: `[B, T, H, W, C + 1]`: colours f, and in the last channel the mask m in [0, 1].
        background: `[B, H, W, C]`, the background b.

    Returns:
        `[B, T, H, W, C]`.
    """
    colours, mask = ops.split(figures, [figures.shape[-1] - 1], axis=-1)
    background = ops.expand_dims(background, 1)
    return background + mask * (colours - background)


@keras.saving.register_keras_serializable("mocogan_tf")
class VideoGenerator(Generator):
    """MoCoGAN's generator: motion network R_M and image decoder G_I. It is a pure function of its inputs.

    Inputs (by name; `mocogan_tf.latents` draws them): `content` [B, dim_content], `motion_init` [B, dim_motion],
    `motion_noise` [B, T, dim_motion], and one-hot `category` [B, dim_category] unless `dim_category` is 0. B and T are
    free, so one model makes clips of any length.

    Outputs: `video` float32 [B, T, H, W, C] in [-1, 1]; `motion_state` [B, dim_motion], where the motion stands, in the
    units of `motion_init`. Given as `motion_init` to the next call, it continues the clip.

    Attributes:
        codes: The part of the model up to the codes `[B, T, dim_z]`; training decodes single frames from it.
        motion: The GRU.
        motion_init_scale: As given.
        decoder: The frame decoder, from codes `[N, D]`.
        background: The decoder of still backgrounds, from the code that is fixed over a clip; None without.
        frames: The layer from codes `[B, T, D]` to clips `[B, T, H, W, C]`.
        half_frames: The same at half the height and width, without the decoder's last layers; None for "dcgan".
        encoder: From pictures float32 `[B, H, W, C]` in [-1, 1] to `content`; None for the task "generate".
        pictures: uint8 `[N, H, W, C]`, what a seed chooses from where content comes from pictures; None until set.

    Args:
        dim_content: Size of the content code. Of "image_to_video", `content` holds more than the code: see `task`.
        dim_motion: Size of the motion code and of the noise.
        dim_category: Number of categories, 0 for none.
        category_to: "motion": the category enters the GRU beside the noise (the full model of the paper's Table 4);
            "image": it enters the decoder beside content and motion, as in the authors' code; "both": a clip's first
            frame can then show its category, which the GRU alone needs some frames for.
        ngf: Filters of the decoder's last hidden layer; of the fine decoder, of the last but one.
        image_size: 32, 64 or 128.
        channels: Colour channels.
        sync_batch_norm: Share batch statistics between replicas while training.
        update_gate_bias: Initial bias of the GRU's update gate. Above 0, motion codes change slowly from the first step
            on (Tallec and Ollivier 2018, "Can recurrent neural networks warp time?", section 2.2).
        motion_init_scale: The GRU's first state is this times `motion_init`. Its later states stay well within (-1, 1);
            with a first state of the same spread, a clip's first frames look like its later ones. For the task
            "image_to_video" choose a small one, such as 0.1: noise moves the picture's pose by it.
        rotating_start: Whether the GRU starts as slow oscillators that its noise hardly moves (`models.motion`).
            Otherwise the noise is what moves untrained clips, and movement is learnt as a jitter.
        decoder: "dcgan", the paper's (`frame_decoder`), or "fine" (`fine_decoder`).
        still_background: Whether each clip has one background, drawn once from the code that scales the channels
            (`background_decoder`), behind the figures of the fine decoder (`compose`).
        palette: The number of colours that the fine decoder mixes a clip's figures from. They are a function of the
            code that scales the channels (`fine_decoder`). 0: every pixel has a colour of its own.
        content_modulation: Whether the code that is fixed over a clip also scales the decoder's channels: the content,
            and with `category_to` "image" the category. Without it they enter through the first layer only, and each
            place in a frame has to learn by itself what a content looks like there.
        modulate_from: Height of the smallest maps that it scales. Coarse maps decide on the pose: scaled by the
            content, they give every content poses of its own, which it has to learn by itself.
        task: "generate": `content` is drawn. "image_to_video": it is an encoded picture, the first frame of the clip
            (`picture_encoder`). Its parts (`ContentLayout`) are the code, and the pose: the GRU's first state, to which
            `motion_init` adds a little, and the motion code of the first frame. It needs the fine decoder and
            `content_modulation`.

    Raises:
        ValueError: `image_size`, `category_to`, `decoder` or `task` is not one of the above, `motion_init_scale` is not
            positive, `modulate_from` is not the height of a map, or `still_background`, `palette` or `task` is set
            without what it needs.
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
        rotating_start: bool = False,
        content_modulation: bool = False,
        modulate_from: int = SMALLEST_MAP,
        decoder: str = "dcgan",
        still_background: bool = False,
        palette: int = 0,
        task: str = "generate",
        name: str = "generator",
        **kwargs: Any,
    ) -> None:
        _check(category_to, motion_init_scale, content_modulation, decoder, still_background, palette, task)
        _check_modulate_from(modulate_from, image_size, decoder)
        layout = ContentLayout(dim_content, dim_motion) if task == "image_to_video" else None
        latents = LatentSpec(
            dim_content=layout.size if layout else dim_content,
            dim_motion=dim_motion,
            dim_category=dim_category,
            content_from="pictures" if layout else "noise",
        )
        inputs = {key: keras.Input(shape[1:], name=key) for key, shape in latents.shapes(None, None).items()}

        # Codes keep full precision under mixed precision: they are tiny, and the state is carried over many calls.
        noise = inputs["motion_noise"]
        per_frame = {
            key: OverTime(dtype=keras.config.floatx(), name=f"{key}_over_time") for key in inputs if "motion" not in key
        }
        repeated = {key: layer(inputs[key], noise) for key, layer in per_frame.items()}
        joined = [repeated["category"]] if dim_category else []
        to_motion = joined if category_to in ("motion", "both") else []
        to_image = joined if category_to in ("image", "both") else []
        motion = motion_network(dim_motion, update_gate_bias, rotating_start)
        start = _scaled(inputs["motion_init"], motion_init_scale, "motion_start")
        pose = layout.pose(inputs["content"]) if layout else None
        if pose is not None:
            start = layers.Add(dtype=keras.config.floatx(), name="pose_start")([start, pose])
        z_motion, end = motion(_join([noise, *to_motion], "motion_input"), start)
        if pose is not None:
            # The first frame stands as the picture does.
            z_motion = StatesBefore(dtype=keras.config.floatx(), name="states_before")(start, z_motion)
            end = layers.Subtract(dtype=keras.config.floatx(), name="pose_end")([end, pose])
        motion_state = _scaled(end, 1 / motion_init_scale, "motion_end")
        codes = _join([repeated["content"], *to_image, z_motion], "codes")

        # With both, the decoder's first layer alone has the category: one person looks the same in all categories.
        dim_fixed = codes.shape[-1] - dim_motion if category_to == "image" else latents.dim_content
        dim_modulating = (dim_content if layout else dim_fixed) if content_modulation else 0
        sizes = (codes.shape[-1], ngf, image_size, channels, sync_batch_norm, dim_modulating, modulate_from)
        half_frames, background = None, None
        if decoder == "fine":
            decode, half_decoder = fine_decoder(*sizes, with_mask=still_background, palette=palette, layout=layout)
            if still_background:
                background = background_decoder(
                    dim_fixed, max(ngf // 2, 1), image_size, channels, sync_batch_norm, layout
                )
            half_frames = PerFrame(half_decoder, background, name="half_frames")
        else:
            decode = frame_decoder(*sizes)
        frames = PerFrame(decode, background, name="frames")
        video = frames(codes)
        super().__init__(inputs=inputs, outputs={"video": video, "motion_state": motion_state}, name=name, **kwargs)
        self.latents = latents
        self.motion = motion
        self.motion_init_scale = motion_init_scale
        self.decoder, self.background = decode, background
        self.frames, self.half_frames = frames, half_frames
        self.codes = keras.Model(inputs, codes, name="codes_model")
        self.layout = cast(Any, layout)
        self.encoder: Any = picture_encoder(layout, ngf, image_size, channels) if layout else None
        self.pictures: NDArray[np.uint8] | None = None
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
            "rotating_start": rotating_start,
            "content_modulation": content_modulation,
            "modulate_from": modulate_from,
            "decoder": decoder,
            "still_background": still_background,
            "palette": palette,
            "task": task,
        }

    def posed(self, content: tf.Tensor, poses: tf.Tensor, category: tf.Tensor | None = None) -> tf.Tensor:
        """Returns the codes of frames whose poses are those of pictures, and not the GRU's: what `frames` takes.

        Args:
            content: `[N, dim_content]`, encoded pictures of whom to show.
            poses: `[N, T, dim_content]`, encoded pictures of how to stand.
            category: float32 `[N, dim_category]`, if the decoder takes it (`category_to` is "image" or "both").
        """
        fixed = [content] if category is None else [content, category]
        fixed = ops.repeat(ops.concatenate(fixed, axis=-1)[:, None], poses.shape[1], axis=1)
        return ops.concatenate([fixed, poses[..., -self.config["dim_motion"] :]], axis=-1)

    @property
    def contents(self) -> NDArray[np.float32] | None:
        """The encoded `pictures`, `[N, dim_content]`; None without."""
        return None if self.pictures is None else self.encode(self.pictures)

    def encode(self, pictures: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Returns `content` `[N, dim_content]` of pictures uint8 `[N, H, W, C]`.

        Raises:
            ValueError: This generator's content is drawn and not encoded, or the pictures have another shape.
        """
        if self.encoder is None:
            raise ValueError("This generator makes up its contents: it takes no pictures (task=generate).")
        shape = self.encoder.input_shape[1:]
        if pictures.dtype != np.uint8 or pictures.shape[1:] != shape:
            wanted = " x ".join(map(str, shape))
            raise ValueError(
                f"Pictures must be uint8 of [N, {wanted}]. Received: {pictures.dtype} {list(pictures.shape)}"
            )
        batches = [pictures[i : i + ENCODE_BATCH] for i in range(0, len(pictures), ENCODE_BATCH)]
        encoded = [self.encoder(batch.astype(np.float32) / 127.5 - 1.0, training=False) for batch in batches]
        return np.concatenate([np.asarray(content, np.float32) for content in encoded])


def _check(
    category_to: str,
    motion_init_scale: float,
    content_modulation: bool,
    decoder: str,
    still_background: bool,
    palette: int,
    task: str,
) -> None:
    """Raises ValueError for arguments that no generator has."""
    if category_to not in ("motion", "image", "both"):
        raise ValueError(f"`category_to` must be motion, image or both. Received: category_to={category_to}")
    if motion_init_scale <= 0:
        raise ValueError(f"`motion_init_scale` must be positive. Received: motion_init_scale={motion_init_scale}")
    if decoder not in ("dcgan", "fine") or (still_background and decoder != "fine"):
        raise ValueError(
            "`decoder` must be dcgan, or fine, which alone has a still background. "
            f"Received: decoder={decoder}, still_background={still_background}"
        )
    if palette and not (decoder == "fine" and content_modulation):
        raise ValueError(
            "`palette` needs the fine decoder and content modulation. "
            f"Received: palette={palette}, decoder={decoder}, content_modulation={content_modulation}"
        )
    able = task == "generate" or (decoder == "fine" and content_modulation)
    if task not in ("generate", "image_to_video") or not able:
        raise ValueError(
            "`task` must be generate, or image_to_video, which needs the fine decoder and content modulation. "
            f"Received: task={task}, decoder={decoder}, content_modulation={content_modulation}"
        )


def _check_modulate_from(modulate_from: int, image_size: int, decoder: str) -> None:
    """Raises ValueError for a height that none of the decoder's hidden maps has."""
    heights = [SMALLEST_MAP * 2**i for i in range(num_halvings(image_size) + (decoder == "fine"))]
    if modulate_from not in heights:
        raise ValueError(
            f"`modulate_from` must be the height of a map: {', '.join(map(str, heights))}. Received: {modulate_from}"
        )


def _scaled(code: tf.Tensor, scale: float, name: str) -> tf.Tensor:
    return code if scale == 1 else layers.Rescaling(scale, dtype=keras.config.floatx(), name=name)(code)


def _join(codes: list[tf.Tensor], name: str) -> tf.Tensor:
    return layers.Concatenate(dtype=keras.config.floatx(), name=name)(codes) if len(codes) > 1 else codes[0]
