"""The feature network of a set of clips: trained when first asked for, then kept in the cache folder."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import pathlib
import sys
import time
import zipfile
from typing import Any

import numpy as np
import tensorflow as tf
from absl import logging
from numpy.typing import NDArray

from mocogan_tf.data.cache import VideoSet, cache_root
from mocogan_tf.metrics import kept_weights
from mocogan_tf.metrics import network as networks
from mocogan_tf.metrics.clips import Clips
from mocogan_tf.metrics.network import FeatureNetwork, Recipe

MIN_VIDEOS = 5
HASHED_VIDEOS = 4096


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
                batch = self._forward(tf.constant(networks.shrink(clips.frames[first : first + batch_size])))
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
        recipe: How to train; None: the one that all published numbers are made with.

    Raises:
        ValueError: There are fewer than `MIN_VIDEOS` videos, or the network cannot be kept.
    """
    recipe = recipe or Recipe()
    if len(videos) < MIN_VIDEOS:
        raise ValueError(
            f"Judging clips needs at least {MIN_VIDEOS} real videos to learn from; {videos.name} has {len(videos)}."
        )
    name = f"clipnet-{_digest(videos, num_frames, every_nth, recipe)}"
    path = cache_root(cache_dir) / f"{name}.npz"
    with tf.device("CPU:0"):  # Where its sums come in one order: the same network whatever else the machine has.
        if path.exists():
            try:
                return _load(path, name, videos, num_frames, recipe)
            except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
                logging.warning("%s is damaged (%s); the network is trained again.", path, error)
        print(
            f"Training the network that judges clips on {len(videos)} videos of {videos.name}, once "
            f"(about a minute); it is kept in {path}.",
            file=sys.stderr,
            flush=True,
        )
        begun = time.monotonic()
        network, accuracy = networks.train(videos, num_frames=num_frames, every_nth=every_nth, recipe=recipe)
    logging.info("Trained %s in %.0f s.", name, time.monotonic() - begun)
    kept_weights.save(path, network.get_weights(), "judges clips", accuracy=json.dumps(accuracy))
    return ClipNetwork(network, name, accuracy)


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


def _load(path: pathlib.Path, name: str, videos: VideoSet, num_frames: int, recipe: Recipe) -> ClipNetwork:
    weights, accuracy = kept_weights.load(path, "accuracy")
    network = FeatureNetwork(
        num_frames=num_frames,
        channels=videos.frames.shape[-1],
        num_categories=len(videos.categories),
        seed=recipe.seed,
    )
    network.set_weights(weights)
    return ClipNetwork(network, name, json.loads(str(accuracy)))
