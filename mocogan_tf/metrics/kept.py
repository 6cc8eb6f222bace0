"""Networks that judge clips are trained once and kept in the cache folder."""

from __future__ import annotations

import os
import pathlib
import sys
import time
import uuid
import zipfile
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from absl import logging
from numpy.typing import NDArray

from mocogan_tf.data.cache import cache_root

About = dict[str, Any]  # Arrays or strings that are kept beside the weights, by name.


def open_kept(
    name: str, *, doing: str, cache_dir: str, build: Callable[[], keras.Model], train: Callable[[keras.Model], About]
) -> tuple[keras.Model, About]:
    """Returns the network of a name, training and keeping it first if it is not there.

    All of it happens on the CPU, where sums come in one order: the same network whatever else the machine has.

    Args:
        name: File name, which says everything that decides the weights.
        doing: What the network does, for messages: "judges clips".
        cache_dir: Where to keep it; see `mocogan_tf.data.cache.cache_root`.
        build: Makes the untrained network.
        train: Trains it, and returns what is to be kept beside its weights.

    Raises:
        ValueError: It cannot be trained, or cannot be kept.
    """
    path = cache_root(cache_dir) / f"{name}.npz"
    with tf.device("CPU:0"):
        network = build()
        if path.exists():
            try:
                weights, about = _load(path)
                network.set_weights(weights)
                return network, about
            except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
                logging.warning("%s is damaged (%s); the network is trained again.", path, error)
                network = build()
        print(f"Training the network that {doing}, once (about a minute); it is kept in {path}.", file=sys.stderr)
        begun = time.monotonic()
        about = train(network)
    logging.info("Trained %s in %.0f s.", name, time.monotonic() - begun)
    _save(path, network.get_weights(), about, doing)
    return network, about


def _save(path: pathlib.Path, weights: list[NDArray[Any]], about: About, doing: str) -> None:
    arrays = {**about, **{f"weight_{i}": weight for i, weight in enumerate(weights)}}
    temporary = path.with_name(f".partial-{uuid.uuid4().hex[:8]}.npz")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(temporary, **arrays)
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise ValueError(
            f"Cannot keep the network that {doing} in {path.parent}: {error.strerror or error}. Free some space "
            "there, or choose another folder with --cache_dir."
        ) from error


def _load(path: pathlib.Path) -> tuple[list[NDArray[Any]], About]:
    try:
        with np.load(path, allow_pickle=False) as stored:
            about = {name: stored[name] for name in stored.files if not name.startswith("weight_")}
            return [stored[f"weight_{i}"] for i in range(len(stored.files) - len(about))], about
    except EOFError as error:
        raise ValueError("it is empty") from error
