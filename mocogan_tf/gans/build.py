"""A configuration becomes networks, optimizers and a compiled model."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from mocogan_tf.config import Config
from mocogan_tf.gans.base import AdversarialModel, dtype_policy
from mocogan_tf.gans.mocogan import MoCoGAN
from mocogan_tf.gans.optimizers import make_optimizer
from mocogan_tf.gans.tgan import TGAN
from mocogan_tf.gans.vgan import VGAN
from mocogan_tf.models.blocks import Generator
from mocogan_tf.models.discriminators import (
    FineImageDiscriminator,
    ImageDiscriminator,
    PatchImageDiscriminator,
    VideoDiscriminator,
)
from mocogan_tf.models.generator import VideoGenerator
from mocogan_tf.models.tgan import TGANDiscriminator, TGANGenerator
from mocogan_tf.models.vgan import VGANDiscriminator, VGANGenerator

GENERATORS: dict[str, type[Generator]] = {"mocogan": VideoGenerator, "vgan": VGANGenerator, "tgan": TGANGenerator}


def build_generator(config: Config, name: str = "generator", sync_batch_norm: bool = False) -> Generator:
    """Builds the generator of a resolved configuration."""
    shared: dict[str, Any] = {
        "ngf": config.ngf,
        "image_size": config.image_size,
        "channels": config.channels,
        "sync_batch_norm": sync_batch_norm,
        "name": name,
    }
    if config.model != "mocogan":
        return GENERATORS[config.model](video_length=config.video_length, **shared)
    return VideoGenerator(
        dim_content=config.dim_content,
        dim_motion=config.dim_motion,
        dim_category=config.dim_category,
        category_to=config.category_to,
        update_gate_bias=config.update_gate_bias,
        motion_init_scale=config.motion_init_scale,
        rotating_start=config.rotating_start,
        content_modulation=config.content_modulation,
        modulate_from=config.modulate_from,
        decoder=config.decoder,
        still_background=config.still_background,
        palette=config.palette,
        task=config.task,
        **shared,
    )


def build_gan(config: Config, policy: str | None = None) -> AdversarialModel:
    """Builds and compiles the networks of a resolved configuration, in the current strategy.

    Args:
        config: `Config`.
        policy: Keras's dtype policy of the networks; None takes the global one.
    """
    with dtype_policy(policy):
        return _build_gan(config)


def _build_gan(config: Config) -> AdversarialModel:
    sync = config.sync_batch_norm and tf.distribute.get_strategy().num_replicas_in_sync > 1
    build = {"mocogan": _build_mocogan, "vgan": _build_vgan, "tgan": _build_tgan}[config.model]
    gan = build(
        config,
        sync,
        generator=build_generator(config, "generator", sync),
        average=build_generator(config, "average") if config.ema_decay else None,
        seed=config.seed,
        weight_decay=config.weight_decay if config.weight_decay_mode == "coupled" else 0.0,
        ema_decay=config.ema_decay,
    )
    gan.compile(
        g_optimizer=make_optimizer(config, config.learning_rate),
        d_image_optimizer=None if gan.image_discriminator is None else make_optimizer(config, config.learning_rate_d),
        d_video_optimizer=make_optimizer(config, config.learning_rate_d * config.d_video_rate),
        xla=uses_xla(config),
        steps_per_execution=config.steps_per_execution,
    )
    return gan


def _build_mocogan(config: Config, sync_batch_norm: bool, **shared: Any) -> MoCoGAN:
    sizes: dict[str, Any] = {
        "ndf": config.ndf,
        "image_size": config.image_size,
        "norm": config.discriminator_norm,
        "noise_sigma": config.noise_sigma,
        "sync_batch_norm": sync_batch_norm,
    }
    height, width, channels = _frame(config)
    image_discriminator: keras.Model | None = None
    if config.image_discriminator == "fine":
        image_discriminator = FineImageDiscriminator(ndf=config.ndf, image_size=config.image_size)
    elif config.image_discriminator != "none":
        make_image_discriminator = {"patch": PatchImageDiscriminator, "full": ImageDiscriminator}
        image_discriminator = make_image_discriminator[config.image_discriminator](**sizes)
    if image_discriminator is not None:
        image_discriminator.build((None, height, width, config.image_frames * channels))
    shrink = {"full": 1, "half": 2}[config.video_size]
    video_discriminator = VideoDiscriminator(
        video_length=config.video_length,
        dim_category=config.dim_category,
        conditional=config.conditional_video,
        he_start=config.he_start,
        **{**sizes, "image_size": height // shrink},
    )
    video_discriminator.build((None, config.video_length, height // shrink, width // shrink, channels))
    return MoCoGAN(
        image_discriminator=image_discriminator,
        video_discriminator=video_discriminator,
        category_loss=config.category_loss,
        category_weight=config.category_weight,
        r1_image=config.r1_image,
        r1_video=config.r1_video,
        r1_every=config.r1_every,
        label_smoothing=config.label_smoothing,
        augmentations=config.augmentations,
        image_frames=config.image_frames,
        share_fakes=config.share_fakes,
        video_size=config.video_size,
        early_frames=config.early_frames,
        mask_weight=config.mask_weight,
        mask_steps=config.mask_steps,
        mask_allowance=config.mask_allowance,
        reconstruct_weight=config.reconstruct_weight,
        **shared,
    )


def _build_vgan(config: Config, sync_batch_norm: bool, **shared: Any) -> VGAN:
    discriminator = _clip_discriminator(VGANDiscriminator, config, sync_batch_norm)
    return VGAN(video_discriminator=discriminator, mask_weight=config.mask_weight, **shared)


def _build_tgan(config: Config, sync_batch_norm: bool, **shared: Any) -> TGAN:
    discriminator = _clip_discriminator(TGANDiscriminator, config, sync_batch_norm)
    return TGAN(video_discriminator=discriminator, clip_every=config.clip_every, **shared)


def _clip_discriminator(
    make: type[VGANDiscriminator] | type[TGANDiscriminator], config: Config, sync_batch_norm: bool
) -> keras.Model:
    """Builds a baseline's discriminator."""
    discriminator = make(
        video_length=config.video_length,
        ndf=config.ndf,
        image_size=config.image_size,
        sync_batch_norm=sync_batch_norm,
    )
    discriminator.build((None, config.video_length, *_frame(config)))
    return discriminator


def _frame(config: Config) -> tuple[int, int, int]:
    return config.image_size, config.image_size, config.channels


def uses_xla(config: Config) -> bool:
    """Decides whether XLA compiles the losses and gradients.

    Raises:
        ValueError: `jit_compile` is on, and the run is deterministic or its replicas share batch statistics.
    """
    replicas = tf.distribute.get_strategy().num_replicas_in_sync
    shares_statistics = replicas > 1 and config.sync_batch_norm
    if config.jit_compile == "on" and shares_statistics:
        raise ValueError(
            f"`jit_compile=on` needs --nosync_batch_norm on several devices: XLA cannot share statistics between them. "
            f"This run has {replicas} devices. Set --nosync_batch_norm, or --jit_compile=auto."
        )
    if config.jit_compile == "on" and config.deterministic:
        raise ValueError("`jit_compile=on` does not promise bit-identical results. Set --jit_compile=off.")
    # XLA compiles once per shape, which training has one of; on CPUs oneDNN's convolutions are faster.
    helps = bool(tf.config.list_physical_devices("GPU")) and not shares_statistics and not config.deterministic
    return {"on": True, "off": False, "auto": helps}[config.jit_compile]
