"""The feature network: a small spatio-temporal CNN, trained on the real clips of a set, which judges generated ones.

Published video networks (I3D, C3D) cannot be shipped, and know nothing of rendered figures. This one is trained in
about a minute on the clips at hand, and its accuracy on clips held out says what it is worth. It learns three things:

* the class, where clips have labels: what `mcs` asks for;
* which damage was done to a clip (`DAMAGES`), a task that needs no labels, after Jenni et al., "Video representation
  learning by recognizing temporal transformations" (ECCV 2020), with damages in space beside those in time: so the
  features must hold what makes a clip coherent and sharp;
* the clip's mean frame at 4x4 pixels: so content stays visible in the features, and a generator that makes only one is
  found out.

All three are read from the 64 features of a clip. Features of a frame are the channel means of the frame trunk's maps.
Both are divided by their standard deviation over the real clips, so that distances have the same scale for every set.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops
from numpy.typing import NDArray

from mocogan_tf.data.cache import VideoSet
from mocogan_tf.data.rendered.base import clip_rng
from mocogan_tf.metrics.clips import Clips
from mocogan_tf.metrics.kept import open_kept

SIDE = 32  # Height and width at which clips are looked at.
NUM_FEATURES = 64
COARSE = 4  # Side of the mean frame that the features must tell.
MIN_VIDEOS = 5  # To learn from.
HASHED_VIDEOS = 4096  # Of which one frame is part of the network's name.
DAMAGES = ("none", "shuffled", "frozen", "spliced", "blended", "tiles", "blurred")


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How the network is trained: part of the name under which it is kept.

    Args:
        version: Raised when the program changes what a recipe means.
        epochs: Passes over the training part, as long as the steps stay between `min_steps` and `max_steps`.
        min_steps: Fewest steps.
        max_steps: Most steps.
        batch: Clips per step.
        learning_rate: Adam's, decayed to zero along a cosine.
        held_out: Share of the videos that are never trained on.
        undamaged: Share of the clips in a batch that are left whole.
        seed: Seed of weights, order, starts and damages.
    """

    version: int = 1
    epochs: int = 12
    min_steps: int = 200
    max_steps: int = 600
    batch: int = 32
    learning_rate: float = 2e-3
    held_out: float = 0.2
    undamaged: float = 0.4
    seed: int = 0

    def num_steps(self, num_videos: int) -> int:
        """Steps for a training part of that many videos."""
        return int(np.clip(self.epochs * num_videos // self.batch, self.min_steps, self.max_steps))


class FeatureNetwork(keras.Model):
    """The network. Reads uint8 `[B, T, 32, 32, C]`.

    Returns a dict: `features` [B, 64], `frame_features` [B, T, 64], `damage` [B, 7] logits, `mean_frame` [B, 16 * C] in
    [-1, 1], and `category` [B, K] logits unless `num_categories` is 0.

    Args:
        num_frames: T, at least 4.
        channels: C.
        num_categories: K, 0 for none.
        seed: Seed of the initial weights.
    """

    def __init__(self, *, num_frames: int, channels: int, num_categories: int, seed: int = 0) -> None:
        super().__init__(name="feature_network", dtype="float32")
        seeds = iter(np.random.default_rng(seed).integers(2**31, size=16).tolist())

        def options() -> dict[str, Any]:  # Seeds of their own: the global random state stays as it is.
            return {"kernel_initializer": keras.initializers.HeNormal(next(seeds)), "dtype": "float32"}

        same: dict[str, Any] = {"padding": "same", "activation": "relu"}
        self.trunk = [
            layers.Conv2D(filters, kernel, strides=2, name=f"frame_conv_{i}", **same, **options())
            for i, (filters, kernel) in enumerate(((24, 5), (40, 3), (NUM_FEATURES, 3)))
        ]
        self.over_time = [
            layers.Conv3D(NUM_FEATURES, kernel, strides=(2, 1, 1), name=f"time_conv_{i}", **same, **options())
            for i, kernel in enumerate(((3, 1, 1), (3, 3, 3)))
        ]
        self.flatten = layers.Flatten(dtype="float32")
        self.to_features = layers.Dense(NUM_FEATURES, name="features", **options())
        self.heads = {
            "damage": layers.Dense(len(DAMAGES), name="damage", **options()),
            "mean_frame": layers.Dense(COARSE * COARSE * channels, name="mean_frame", **options()),
        }
        if num_categories:
            self.heads["category"] = layers.Dense(num_categories, name="category", **options())
        self.scales = {
            name: self.add_weight(shape=(NUM_FEATURES,), initializer="ones", trainable=False, name=f"{name}_scale")
            for name in ("features", "frame_features")
        }
        self(np.zeros((1, num_frames, SIDE, SIDE, channels), np.uint8))

    def call(self, clips: Any) -> dict[str, Any]:
        num_frames, *frame_shape = clips.shape[1:]
        x = ops.reshape(ops.cast(clips, "float32") / 127.5 - 1.0, (-1, *frame_shape))
        for layer in self.trunk:
            x = layer(x)
        frame_features = ops.reshape(ops.mean(x, axis=(1, 2)), (-1, num_frames, NUM_FEATURES))
        x = ops.reshape(x, (-1, num_frames, *x.shape[1:]))
        for layer in self.over_time:
            x = layer(x)
        features = self.to_features(self.flatten(x))
        hidden = ops.relu(features)
        return {
            "features": features / self.scales["features"],
            "frame_features": frame_features / self.scales["frame_features"],
            **{name: head(hidden) for name, head in self.heads.items()},
        }


def shrink(frames: NDArray[np.uint8], side: int = SIDE) -> NDArray[np.uint8]:
    """Averages 2x2 pixels until `[..., H, W, C]` is `side` pixels high and wide.

    Raises:
        ValueError: The frames are not square, or `side` times a power of two.
    """
    height, width = frames.shape[-3:-1]
    if height != width or height < side or height % side or (height // side) & (height // side - 1):
        raise ValueError(f"Frames must be square, {side} pixels times a power of two. Received: {height}x{width}")
    while frames.shape[-2] > side:
        rows = frames[..., ::2, :, :].astype(np.uint16) + frames[..., 1::2, :, :]
        frames = ((rows[..., ::2, :] + rows[..., 1::2, :] + 2) >> 2).astype(np.uint8)
    return frames


def coarse_mean(clips: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Mean frame at 4x4 pixels, `[B, 16 * C]` in [-1, 1], of uint8 `[B, T, 32, 32, C]`."""
    number, length, side, _, channels = clips.shape
    blocks = clips.reshape(number, length, COARSE, side // COARSE, COARSE, side // COARSE, channels)
    return np.asarray(blocks.mean(axis=(1, 3, 5), dtype=np.float32).reshape(number, -1) / 127.5 - 1.0, np.float32)


def damage(clips: NDArray[np.uint8], kinds: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Damages clips, each as its entry in `kinds` (index into `DAMAGES`) says.

    `shuffled`: frames in random order; `frozen`: one frame throughout; `spliced`: goes on as the next clip of the batch
    from a random frame on; `blended`: half this clip, half the next; `tiles`: the 16 tiles of the picture in another
    order, the same in all frames; `blurred`: blocks of 4x4 pixels averaged.

    Args:
        clips: uint8 `[B, T, 32, 32, C]`.
        kinds: int `[B]`.
        rng: Only its `random()` is used.
    """
    out = clips.copy()
    number, length, side, _, channels = clips.shape
    tile = side // 4
    for i, kind in enumerate(kinds):
        clip, other = clips[i], clips[(i + 1) % number]
        match DAMAGES[kind]:
            case "shuffled":
                out[i] = clip[np.argsort(rng.random(length))]
            case "frozen":
                out[i] = clip[int(rng.random() * length)]
            case "spliced":
                start = 1 + int(rng.random() * (length - 1))
                out[i, start:] = other[start:]
            case "blended":
                out[i] = (clip.astype(np.uint16) + other) // 2
            case "tiles":
                tiles = clip.reshape(length, 4, tile, 4, tile, channels).swapaxes(2, 3)
                tiles = tiles.reshape(length, 16, tile, tile, channels)[:, np.argsort(rng.random(16))]
                out[i] = tiles.reshape(length, 4, 4, tile, tile, channels).swapaxes(2, 3).reshape(clip.shape)
            case "blurred":
                blocks = clip.reshape(length, side // 4, 4, side // 4, 4, channels).mean(axis=(2, 4), dtype=np.float32)
                out[i] = blocks.astype(np.uint8).repeat(4, axis=1).repeat(4, axis=2)
    return out


class _Cutter:
    """Random training clips of some videos, shrunk, with their labels."""

    def __init__(self, videos: VideoSet, indices: NDArray[np.int64], num_frames: int, every_nth: int) -> None:
        self.videos, self.indices = videos, indices
        self.span = every_nth * np.arange(num_frames)

    def __call__(self, chosen: NDArray[np.int64], rng: np.random.Generator) -> tuple[NDArray[Any], NDArray[Any]]:
        """Returns uint8 `[B, T, 32, 32, C]` and int32 `[B]` of those of `indices`, each from a random start."""
        picked = self.indices[chosen]
        starts = (rng.random(len(picked)) * (self.videos.lengths[picked] - self.span[-1])).astype(np.int64)
        clips = [shrink(self.videos[i][start + self.span]) for i, start in zip(picked, starts, strict=True)]
        return np.stack(clips), self.videos.labels[picked]


def _train(
    network: FeatureNetwork, videos: VideoSet, num_frames: int, every_nth: int, recipe: Recipe
) -> dict[str, float]:
    """Trains the network; returns its accuracies on the videos held out: `damage`, and `category` with labels."""
    order = np.argsort(clip_rng(recipe.seed, 0).random(len(videos)), kind="stable")
    num_held = max(1, round(recipe.held_out * len(videos)))
    held_out = _Cutter(videos, order[:num_held], num_frames, every_nth)
    training = _Cutter(videos, order[num_held:], num_frames, every_nth)
    num_steps = recipe.num_steps(len(training.indices))
    optimizer = keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(recipe.learning_rate, num_steps))
    optimizer.build(network.trainable_variables)
    step = tf.function(lambda *batch: _step(network, optimizer, *batch))
    rng = clip_rng(recipe.seed, 1)
    waiting = np.zeros(0, np.int64)
    for _ in range(num_steps):
        while len(waiting) < recipe.batch:
            waiting = np.concatenate([waiting, np.argsort(rng.random(len(training.indices)))])
        chosen, waiting = waiting[: recipe.batch], waiting[recipe.batch :]
        clips, labels = training(chosen, rng)
        kinds = _draw_damages(len(clips), recipe.undamaged, rng)
        damaged = damage(clips, kinds, rng)
        step(damaged, coarse_mean(damaged), kinds.astype(np.int32), labels.astype(np.int32))
    _set_scales(network, training, recipe)
    return _accuracies(network, held_out, recipe)


def _draw_damages(number: int, undamaged: float, rng: np.random.Generator) -> NDArray[np.int64]:
    whole = rng.random(number) < undamaged
    return np.where(whole, 0, 1 + (rng.random(number) * (len(DAMAGES) - 1)).astype(np.int64))


def _step(network: FeatureNetwork, optimizer: Any, clips: Any, mean_frame: Any, kinds: Any, labels: Any) -> None:
    cross_entropy = tf.nn.sparse_softmax_cross_entropy_with_logits
    with tf.GradientTape() as tape:
        outputs = network(clips)
        loss = tf.reduce_mean(cross_entropy(kinds, outputs["damage"]))
        loss += 4.0 * tf.reduce_mean(tf.square(mean_frame - outputs["mean_frame"]))
        if "category" in outputs:
            # A damaged clip may have lost its class: it is not asked for it.
            whole = tf.cast(kinds == 0, tf.float32)
            wrong = cross_entropy(labels, outputs["category"])
            loss += tf.reduce_sum(whole * wrong) / tf.maximum(tf.reduce_sum(whole), 1.0)
    variables = network.trainable_variables
    optimizer.apply(tape.gradient(loss, variables), variables)


def _set_scales(network: FeatureNetwork, training: _Cutter, recipe: Recipe) -> None:
    """Divides features by their standard deviation over real clips from now on."""
    rng = clip_rng(recipe.seed, 3)
    number = len(training.indices)
    batches = [np.arange(number)[first : first + 64] for first in range(0, min(number, 512), 64)]
    outputs = [network(training(chosen, rng)[0]) for chosen in batches]
    for name, scale in network.scales.items():
        values = np.concatenate([batch[name].numpy().reshape(-1, NUM_FEATURES) for batch in outputs])
        deviation = values.std(axis=0, dtype=np.float64)
        scale.assign(np.where(deviation > 1e-6, deviation, 1.0))  # A feature that is always the same stays so.


def _accuracies(network: FeatureNetwork, held_out: _Cutter, recipe: Recipe) -> dict[str, float]:
    """Shares of held-out clips that are told right; small sets are gone through several times, from other starts."""
    rng = clip_rng(recipe.seed, 2)
    number = len(held_out.indices)
    everyone = np.tile(np.arange(number), max(1, 200 // number))
    right: dict[str, list[NDArray[np.bool_]]] = {"damage": [], "category": []}
    for first in range(0, len(everyone), 64):
        clips, labels = held_out(everyone[first : first + 64], rng)
        kinds = _draw_damages(len(clips), 1.0 / len(DAMAGES), rng)
        right["damage"].append(network(damage(clips, kinds, rng))["damage"].numpy().argmax(axis=1) == kinds)
        outputs = network(clips)
        if "category" in outputs:
            right["category"].append(outputs["category"].numpy().argmax(axis=1) == labels)
    return {name: float(np.concatenate(found).mean()) for name, found in right.items() if found}


@dataclasses.dataclass(frozen=True)
class Judgement:
    """What the network says of clips.

    Args:
        features: float32 `[N, 64]`.
        frame_features: float32 `[N, T, 64]`.
        categories: int64 `[N]`, the class that each clip is taken for; None without classes.
    """

    features: NDArray[np.float32]
    frame_features: NDArray[np.float32]
    categories: NDArray[np.int64] | None


class ClipNetwork:
    """A trained feature network with its name and its accuracies on clips held out.

    Args:
        network: The network.
        name: `clipnet-` and a hash of the clips and the recipe that it was trained with.
        accuracy: Shares of held-out clips told right: `damage`, and `category` where there are labels.
    """

    def __init__(self, network: FeatureNetwork, name: str, accuracy: dict[str, float]) -> None:
        self.network, self.name, self.accuracy = network, name, accuracy
        self._forward = tf.function(network, reduce_retracing=True)

    def __call__(self, clips: Clips, batch_size: int = 64) -> Judgement:
        """Looks at clips of the size and length it was trained on."""
        outputs: dict[str, list[NDArray[Any]]] = {"features": [], "frame_features": [], "category": []}
        with tf.device("CPU:0"):
            for first in range(0, len(clips), batch_size):
                batch = self._forward(tf.constant(shrink(clips.frames[first : first + batch_size])))
                for name, values in outputs.items():
                    if name in batch:
                        values.append(batch[name].numpy())
        joined = {name: np.concatenate(values) for name, values in outputs.items() if values}
        categories = joined["category"].argmax(axis=1) if "category" in joined else None
        return Judgement(joined["features"], joined["frame_features"], categories)


def open_network(
    videos: VideoSet, *, num_frames: int, every_nth: int, cache_dir: str = "", recipe: Recipe | None = None
) -> ClipNetwork:
    """Returns the feature network of a set, training and keeping it first if it is not there.

    The same clips, labels and recipe give the same network on one machine.

    Args:
        videos: The real videos.
        num_frames: T.
        every_nth: Source frames per kept frame.
        cache_dir: Where to keep it; see `mocogan_tf.data.cache.cache_root`.
        recipe: How to train; None: the recipe of all published numbers.

    Raises:
        ValueError: There are fewer than `MIN_VIDEOS` videos, or the network cannot be kept.
    """
    recipe = recipe or Recipe()
    if len(videos) < MIN_VIDEOS:
        raise ValueError(
            f"Judging clips needs at least {MIN_VIDEOS} real videos to learn from; {videos.name} has {len(videos)}."
        )
    name = f"clipnet-{_digest(videos, num_frames, every_nth, recipe)}"

    def build() -> FeatureNetwork:
        channels, num_categories = videos.frames.shape[-1], len(videos.categories)
        return FeatureNetwork(num_frames=num_frames, channels=channels, num_categories=num_categories, seed=recipe.seed)

    def train(network: FeatureNetwork) -> dict[str, str]:
        return {"accuracy": json.dumps(_train(network, videos, num_frames, every_nth, recipe))}

    network, about = open_kept(
        name, doing=f"judges clips of {videos.name}", cache_dir=cache_dir, build=build, train=train
    )
    return ClipNetwork(network, name, json.loads(str(about["accuracy"])))


def _digest(videos: VideoSet, num_frames: int, every_nth: int, recipe: Recipe) -> str:
    """Hash of recipe, labels, lengths and one frame of every video (of the first few thousand)."""
    about = {
        "recipe": dataclasses.asdict(recipe),
        "num_frames": num_frames,
        "every_nth": every_nth,
        "categories": list(videos.categories),
        "labels": videos.labels.tolist(),
        "lengths": videos.lengths.tolist(),
        "frame_shape": list(videos.frames.shape[1:]),
    }
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for i in range(min(len(videos), HASHED_VIDEOS)):
        digest.update(np.ascontiguousarray(videos[i][videos.lengths[i] // 2]).data)
    return digest.hexdigest()[:16]
