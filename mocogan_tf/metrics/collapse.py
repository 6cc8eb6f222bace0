"""Two cheap numbers of raw pixels that show at once when a generator makes one clip only, or clips that stand still."""

from __future__ import annotations

from typing import Any

import numpy as np

from mocogan_tf.metrics.statistics import Floats, mean_pairwise_distance


def thumbnails(frames: Any, side: int = 16) -> Floats:
    """Clips `[N, T, H, W, C]` at `side` x `side` pixels (or fewer, where they have fewer) by averaging, 0 to 255."""
    pixels = np.asarray(frames)
    for axis in (2, 3):
        size = pixels.shape[axis]
        edges = np.linspace(0, size, min(side, size) + 1).astype(int)
        widths = np.diff(edges).reshape([-1 if i == axis else 1 for i in range(5)])
        pixels = np.add.reduceat(pixels, edges[:-1], axis=axis, dtype=np.float64) / widths
    return np.asarray(pixels)


def diversity(frames: Any) -> float:
    """Mean distance of clips: rms difference per pixel, at 16x16, over all pairs of uint8 `[N, T, H, W, C]`."""
    flat = thumbnails(frames).reshape(len(frames), -1)
    return float(mean_pairwise_distance(flat / np.sqrt(flat.shape[1])))


def motion(frames: Any) -> float:
    """Mean absolute change of a pixel from one frame to the next, 0 to 255, of uint8 `[N, T, H, W, C]`."""
    pixels = np.asarray(frames).astype(np.int16)
    return float(np.abs(np.diff(pixels, axis=1)).mean()) if pixels.shape[1] > 1 else 0.0
