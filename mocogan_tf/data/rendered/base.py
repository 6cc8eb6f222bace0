"""What the rendered sets have in common: a clip with its ground truth, and random numbers from (seed, index) alone."""

from __future__ import annotations

import dataclasses
import operator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mocogan_tf import IMAGE_SIZES
from mocogan_tf.latents import check_seed


@dataclasses.dataclass(frozen=True)
class Clip:
    """One rendered clip.

    Args:
        frames: uint8 `[F, H, W, 3]`.
        label: Index into the set's `CATEGORIES`.
        truth: What the clip was rendered from, by name; each set's `render_clip` lists it.
    """

    frames: NDArray[np.uint8]
    label: int
    truth: dict[str, Any]


def clip_rng(seed: int, index: int, stream: int = 0) -> np.random.Generator:
    """Returns a source of random numbers for one clip: Philox keyed by seed and index, so no clip depends on another.

    Callers draw with `random()` only: NumPy keeps its stream, but may change the distributions built upon it.
    """
    return np.random.Generator(np.random.Philox(key=np.array([seed, index], np.uint64), counter=[0, 0, 0, stream]))


def check_clip(index: int, seed: int, num_frames: int, image_size: int) -> tuple[int, int]:
    """Returns index and seed as ints.

    Raises:
        ValueError: One of the four is out of range.
    """
    seed, index = check_seed(seed), check_seed(index, "index")
    try:
        enough = operator.index(num_frames) >= 1
    except TypeError:
        enough = False
    if not enough:
        raise ValueError(f"`num_frames` must be an integer of at least 1. Received: num_frames={num_frames!r}")
    if image_size not in IMAGE_SIZES:
        raise ValueError(f"`image_size` must be one of {IMAGE_SIZES}. Received: image_size={image_size!r}")
    return index, seed
