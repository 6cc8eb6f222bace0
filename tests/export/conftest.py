"""Small generators with weights of realistic size, and one bundle made of such a generator."""

import dataclasses
import json

import keras
import numpy as np
import pytest

from export.contract import Contract
from export.source import library_versions
from mocogan_tf.config import Config
from mocogan_tf.gans.build import build_gan
from mocogan_tf.models.generator import VideoGenerator
from mocogan_tf.models.resampling import UpConv2D
from mocogan_tf.training import checkpoints
from tests.support.reference import random_weights

CATEGORIES = ("push", "wave", "turn")


def make_contract(**changes):
    """A contract that fits `make_generator` with the same changes."""
    fields = {
        "name": "mocogan-test",
        "version": 1,
        "model": "mocogan",
        "dim_content": 6,
        "dim_category": 3,
        "dim_motion": 5,
        "category_to": "motion",
        "categories": (),
        "fps": 8.0,
        "image_size": 32,
        "channels": 3,
        "video_length": 4,
        "frame_buckets": (4, 8),
    }
    return Contract(**{**fields, **changes})


def make_generator(contract, ngf=4, seed=0, **changes):
    """A generator of the contract's sizes whose clips use the whole range of values."""
    names = ("dim_content", "dim_category", "dim_motion", "category_to", "image_size", "channels")
    generator = VideoGenerator(ngf=ngf, **{name: getattr(contract, name) for name in names}, **changes)
    set_realistic_weights(generator, seed)
    return generator


def set_realistic_weights(generator, seed):
    """Weights under which clips use the whole range of values; with fresh ones, nearly zero, any error is small."""
    random_weights(generator, seed)
    rng = np.random.default_rng(seed)
    for layer in [*generator.decoder.layers, *getattr(getattr(generator, "background", None), "layers", ())]:
        if isinstance(layer, keras.layers.Conv2DTranspose):
            # Products that one output adds up: all of the 1x1 map, a quarter of the kernel where it doubles the size.
            taps = layer.kernel.shape[-1] * (1 if layer.padding == "valid" else 4)
            layer.kernel.assign(rng.normal(0, np.sqrt(2 / taps), layer.kernel.shape))
        if isinstance(layer, UpConv2D) or type(layer) is keras.layers.Conv2D:
            layer.kernel.assign(rng.normal(0, np.sqrt(2 / np.prod(layer.kernel.shape[:3])), layer.kernel.shape))
        if isinstance(layer, keras.layers.Dense):
            layer.kernel.assign(0.3 * layer.kernel)
            layer.bias.assign(np.ones(layer.bias.shape))


def run_keras(generator, latents):
    """The generator's outputs as arrays."""
    return {name: np.asarray(value) for name, value in generator(latents, training=False).items()}


def provenance_of(generator):
    """As `export.source` writes it, of a generator that no run has trained."""
    return {
        "step": 0,
        "metrics": {},
        "data": {"name": "test"},
        "generator": generator.get_config(),
        "config": {},
        "libraries": library_versions(),
    }


@pytest.fixture(scope="session")
def run_dir(tmp_path_factory):
    """A run directory with one checkpoint, its weights of realistic size."""
    folder = tmp_path_factory.mktemp("runs") / "test"
    folder.mkdir()
    config = Config(
        dim_content=6,
        dim_motion=5,
        dim_category=3,
        ngf=4,
        ndf=4,
        image_size=32,
        video_length=4,
        precision="float32",
        category_loss="supervised",
        image_batch=1,
        video_batch=1,
    )
    gan = build_gan(config)
    for seed, network in enumerate((gan.generator, gan.average)):
        set_realistic_weights(network, seed)
    checkpoints.save(gan, folder, keep=1)
    (folder / "config.json").write_text(config.to_json())
    data = {"name": "shapes", "categories": list(CATEGORIES), "num_clips": 8, "fps": 8.0}
    (folder / "data.json").write_text(json.dumps(data))
    return folder


@pytest.fixture(scope="session")
def exported(tmp_path_factory):
    """A proven bundle: (folder, generator, contract, findings)."""
    from export.write import write_bundle

    contract = make_contract(categories=CATEGORIES)
    generator = make_generator(contract)
    folder = tmp_path_factory.mktemp("bundles") / "test"
    checks = write_bundle(generator, contract, provenance_of(generator), folder, uint8=True)
    return folder, generator, contract, checks


def replaced(contract, **changes):
    """A contract with some fields changed."""
    return dataclasses.replace(contract, **changes)
