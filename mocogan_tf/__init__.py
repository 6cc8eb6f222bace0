"""mocogan_tf: MoCoGAN video generation in Keras 3 on TensorFlow.

Axes: B batch, T time (frames), F frames of a whole source video, H height, W width, C channels.
Videos are `[B, T, H, W, C]`, float32 in [-1, 1] inside the library, uint8 in 0..255 on disk and on the wire.

Importing this package does not import TensorFlow: the public names below are looked up when first used. It does ask
TensorFlow for oneDNN's convolutions (`TF_ENABLE_ONEDNN_OPTS`), which only counts if TensorFlow is imported later.
"""

import importlib
import os
import platform
from typing import Any

__version__ = "0.2.0"

# TensorFlow turns oneDNN off by itself on processors without AVX512-VNNI. There a training step takes 16 times as long
# without it (docs/training.md). Whoever sets the variable has the last word.
if platform.machine() in ("x86_64", "AMD64"):
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

IMAGE_SIZES = (32, 64, 128)  # Heights and widths of the frames that the networks are built for.

_PUBLIC = {
    "Config": "mocogan_tf.config",
    "LatentSpec": "mocogan_tf.latents",
    "CodeSpec": "mocogan_tf.latents",
    "sample_latents": "mocogan_tf.latents",
    "VideoGenerator": "mocogan_tf.models.generator",
    "ImageDiscriminator": "mocogan_tf.models.discriminators",
    "PatchImageDiscriminator": "mocogan_tf.models.discriminators",
    "VideoDiscriminator": "mocogan_tf.models.discriminators",
    "MoCoGAN": "mocogan_tf.gans.mocogan",
    "VGANGenerator": "mocogan_tf.models.vgan",
    "VGANDiscriminator": "mocogan_tf.models.vgan",
    "VGAN": "mocogan_tf.gans.vgan",
    "TGANGenerator": "mocogan_tf.models.tgan",
    "TGANDiscriminator": "mocogan_tf.models.tgan",
    "TGAN": "mocogan_tf.gans.tgan",
    "train": "mocogan_tf.training.loop",
    "load_generator": "mocogan_tf.training.trained",
}

__all__ = ["IMAGE_SIZES", "__version__", *_PUBLIC]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
