"""Reads joints and colours off frames like those of `taichi`: a small CNN, trained on frames rendered for it.

Every frame comes from a clip of its own, so performer, place, form and phase all differ. On generated frames the
reading is an estimate, as good as they look.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import pathlib
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers
from numpy.typing import NDArray

from mocogan_tf.data import parallel
from mocogan_tf.data.rendered import taichi, taichi_drawing, taichi_motion
from mocogan_tf.data.rendered.base import clip_rng
from mocogan_tf.metrics import pose_examples
from mocogan_tf.metrics.kept import open_kept
from mocogan_tf.metrics.network import SIDE, shrink

PARTS = ("jacket", "trousers", "wall")
NUM_JOINTS = len(taichi.JOINTS)
_RENDERERS = (taichi, taichi_drawing, taichi_motion)  # What they draw is part of the name under which it is kept.


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How the network is trained: part of the name under which it is kept."""

    version: int = 1
    frames: int = 6000
    held_out: int = 500
    steps: int = 1200
    batch: int = 64
    learning_rate: float = 2e-3


class PoseNetwork:
    """A trained network with its name and its errors.

    Args:
        model: Keras model from uint8 `[B, 32, 32, 3]` to `[B, 2 * joints + 3 * parts]`.
        name: `posenet-` and a hash of what it was trained with.
        joint_error: Mean distance of a joint on frames held out, in pixels of 64.
        colour_error: Mean distance of a colour on frames held out, 0 to 255.
    """

    def __init__(self, model: keras.Model, name: str, joint_error: float, colour_error: float) -> None:
        self.model, self.name = model, name
        self.joint_error, self.colour_error = joint_error, colour_error

    def __call__(self, frames: NDArray[np.uint8]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Reads uint8 `[N, T, H, W, 3]`.

        Returns:
            Joints `[N, T, J, 2]`, x and y as shares of the frame, and colours of the parts `[N, T, K, 3]`, 0 to 255.
        """
        number, length = frames.shape[:2]
        small = shrink(frames).reshape(-1, SIDE, SIDE, 3)
        with tf.device("CPU:0"):
            outputs = [self.model(small[first : first + 256]).numpy() for first in range(0, len(small), 256)]
        joints, colours = _split(np.concatenate(outputs))
        return joints.reshape(number, length, NUM_JOINTS, 2), colours.reshape(number, length, len(PARTS), 3)


def open_pose_network(cache_dir: str = "", recipe: Recipe | None = None) -> PoseNetwork:
    """Returns the network, training and keeping it first if it is not there.

    Raises:
        ValueError: It cannot be kept.
    """
    recipe = recipe or Recipe()
    source = b"".join(pathlib.Path(str(module.__file__)).read_bytes() for module in _RENDERERS)
    name = f"posenet-{hashlib.sha256(json.dumps(dataclasses.asdict(recipe)).encode() + source).hexdigest()[:16]}"
    model, about = open_kept(
        name,
        doing="reads poses",
        cache_dir=cache_dir,
        build=lambda: build(seed=0),
        train=lambda model: {"errors": np.array(train(model, recipe))},
    )
    joint_error, colour_error = about["errors"].tolist()
    return PoseNetwork(model, name, joint_error, colour_error)


def build(seed: int) -> keras.Model:
    """Builds the untrained network; the initial weights follow from the seed."""
    seeds = iter(np.random.default_rng(seed).integers(2**31, size=8).tolist())

    def options() -> dict[str, Any]:
        return {"kernel_initializer": keras.initializers.HeNormal(next(seeds)), "dtype": "float32"}

    frames = keras.Input((SIDE, SIDE, 3), dtype="uint8")
    x: Any = layers.Rescaling(1 / 127.5, offset=-1.0, dtype="float32")(frames)
    for filters, kernel in ((24, 5), (48, 3), (64, 3)):
        x = layers.Conv2D(filters, kernel, strides=2, padding="same", activation="relu", **options())(x)
    x = layers.Dense(192, activation="relu", **options())(layers.Flatten(dtype="float32")(x))
    return keras.Model(frames, layers.Dense(2 * NUM_JOINTS + 3 * len(PARTS), **options())(x))


def train(model: keras.Model, recipe: Recipe) -> tuple[float, float]:
    """Trains it; returns the errors on frames held out, of joints (pixels of 64) and of colours (0 to 255)."""
    render = functools.partial(pose_examples.render, image_size=SIDE)
    rendered = [outcome.value for outcome in parallel.map_in_processes(render, range(recipe.frames + recipe.held_out))]
    frames = np.stack([frame for frame, _ in rendered])
    truth = np.stack([values for _, values in rendered])
    optimizer = keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(recipe.learning_rate, recipe.steps))
    optimizer.build(model.trainable_variables)

    @tf.function
    def step(inputs: Any, wanted: Any) -> None:
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(wanted - model(inputs)))
        optimizer.apply(tape.gradient(loss, model.trainable_variables), model.trainable_variables)

    rng = clip_rng(pose_examples.SEED, 0, 1)
    for _ in range(recipe.steps):
        chosen = (rng.random(recipe.batch) * recipe.frames).astype(np.int64)
        step(frames[chosen], truth[chosen])
    held_out = model(frames[recipe.frames :]).numpy()
    (joints, colours), (true_joints, true_colours) = _split(held_out), _split(truth[recipe.frames :])
    joint_error = float(np.linalg.norm(joints - true_joints, axis=-1).mean() * 64)
    return joint_error, float(np.linalg.norm(colours - true_colours, axis=-1).mean())


def _split(values: NDArray[np.floating]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Network outputs, in units of its own, as joints (shares of the frame) and colours (0 to 255)."""
    scaled = np.asarray(values, np.float64) / 4.0 + 0.5
    joints, colours = scaled[:, : 2 * NUM_JOINTS], scaled[:, 2 * NUM_JOINTS :]
    return joints.reshape(len(values), NUM_JOINTS, 2), 255.0 * colours.reshape(len(values), len(PARTS), 3)
