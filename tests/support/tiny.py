"""The smallest configuration that trains, and random clips for it."""

import numpy as np

from mocogan_tf.config import Config

TINY = {
    "dataset": "shapes",
    "num_clips": 8,
    "image_size": 32,
    "video_length": 4,
    "dim_content": 4,
    "dim_motion": 3,
    "ngf": 4,
    "ndf": 4,
    "image_batch": 4,
    "video_batch": 4,
    "precision": "float32",
    "noise_sigma": 0.0,
}


def tiny_config(num_categories=2, **changes):
    """Returns a resolved `Config` of the tiny networks."""
    return Config(**{**TINY, **changes}, asked=changes).resolve_categories(num_categories)


def baseline_config(model, **changes):
    """Returns a resolved `Config` of a tiny VGAN or TGAN: of the shortest clips that have several frames throughout."""
    sizes = {
        name: TINY[name] for name in ("dataset", "num_clips", "image_size", "ngf", "ndf", "video_batch", "precision")
    }
    return Config(**{"model": model, "video_length": 8, **sizes, **changes}).resolve_categories(2)


def plain_descent(scaled=False):
    """Returns gradient descent without moments, whose steps show a gradient's size; with a loss scale for float16."""
    import keras  # Not at the top: many tests do without TensorFlow.

    optimizer = keras.optimizers.SGD(0.1)
    return keras.optimizers.LossScaleOptimizer(optimizer, initial_scale=256.0) if scaled else optimizer


def tiny_batch(config, seed=0):
    """Returns a batch of random pixels for a configuration."""
    rng = np.random.default_rng(seed)
    frame = (config.image_size, config.image_size, config.channels)
    return {
        "images": rng.uniform(-1, 1, (config.image_batch, *config.side_by_side, *frame)).astype(np.float32),
        "videos": rng.uniform(-1, 1, (config.video_batch, config.video_length, *frame)).astype(np.float32),
        "labels": (np.arange(config.video_batch) % max(1, config.dim_category)).astype(np.int32),
    }
