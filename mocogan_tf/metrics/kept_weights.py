"""Weights of the networks that are trained once per set and kept in the cache folder."""

from __future__ import annotations

import os
import pathlib
import uuid
from typing import Any

import numpy as np
from numpy.typing import NDArray


def save(path: pathlib.Path, weights: list[NDArray[Any]], doing: str, **about: Any) -> None:
    """Writes weights beside `path` and renames them.

    Args:
        path: An .npz file; its folder is made if missing.
        weights: As of Keras's `get_weights`.
        doing: What the network does, in the message: "judges clips".
        **about: Arrays or strings to keep beside them.

    Raises:
        ValueError: They cannot be written.
    """
    arrays: dict[str, Any] = {**about, **{f"weight_{i}": weight for i, weight in enumerate(weights)}}
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


def load(path: pathlib.Path, name: str) -> tuple[list[NDArray[Any]], NDArray[Any]]:
    """Returns the weights, and what was kept beside them under a name.

    Raises:
        OSError, ValueError, KeyError, zipfile.BadZipFile: The file is damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            return [stored[f"weight_{i}"] for i in range(len(stored.files) - 1)], stored[name]
    except EOFError as error:
        raise ValueError("it is empty") from error
