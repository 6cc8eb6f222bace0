"""Bundles of generators that no run has trained, for timing."""

import pathlib
from typing import Any

import numpy as np

from export.contract import Contract
from export.source import library_versions
from export.write import write_bundle
from mocogan_tf.models.generator import VideoGenerator


def make_generator(contract: Contract, ngf: int) -> VideoGenerator:
    """Builds a generator whose clips use the whole range of values; its random weights cost as much as trained ones."""
    names = ("dim_content", "dim_category", "dim_motion", "category_to", "image_size", "channels")
    generator = VideoGenerator(ngf=ngf, **{name: getattr(contract, name) for name in names})
    rng = np.random.default_rng(0)
    for layer in generator.decoder.layers:
        if layer.name.startswith("conv"):
            # Products that one output adds up: all of the 1x1 map, a quarter of the kernel where it doubles the size.
            taps = layer.kernel.shape[-1] * (1 if layer.padding == "valid" else 4)
            layer.kernel.assign(rng.normal(0, np.sqrt(2 / taps), layer.kernel.shape))
        if layer.name.startswith("norm"):
            layer.beta.assign(rng.normal(0, 0.3, layer.beta.shape))
            layer.moving_mean.assign(rng.normal(0, 0.3, layer.moving_mean.shape))
            layer.moving_variance.assign(rng.uniform(0.5, 2, layer.moving_variance.shape))
    return generator


def make_contract(**sizes: Any) -> Contract:
    """Returns the contract of a model of the paper's sizes, except for the sizes given."""
    fields: dict[str, Any] = {
        "name": "benchmark",
        "version": 1,
        "model": "mocogan",
        "dim_content": 50,
        "dim_category": 4,
        "dim_motion": 10,
        "category_to": "motion",
        "categories": (),
        "fps": 16.0,
        "image_size": 64,
        "channels": 3,
        "video_length": 16,
        "frame_buckets": (16, 64),
    }
    return Contract(**{**fields, **sizes})


def make_bundle(generator: VideoGenerator, contract: Contract, folder: pathlib.Path) -> None:
    """Writes the bundle of a generator that no run has trained."""
    provenance = {
        "step": 0,
        "metrics": {},
        "data": {"name": "none"},
        "generator": generator.get_config(),
        "config": {},
        "libraries": library_versions(),
    }
    write_bundle(generator, contract, provenance, folder)
