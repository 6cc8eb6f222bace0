"""Two cheap numbers of raw pixels that show at once when a generator makes one clip only, or clips that stand still."""

from __future__ import annotations

from typing import Any

import numpy as np

from mocogan_tf.metrics.statistics import mean_pairwise_distance


def thumbnails(frames: Any, side: int = 16) -> np.ndarray:
    """Clips at `side` x `side` pixels by averaging, float64 `[N, T, side, side, C]`, 0 to 255."""
    pixels = np.asarray(frames)
    number, length, height, width, channels = pixels.shape
    blocks = pixels.reshape(number, length, side, height // side, side, width // side, channels)
    return np.asarray(blocks.mean(axis=(3, 5)))


def diversity(frames: Any) -> float:
    """Mean distance of clips: rms difference per pixel, at 16x16, over all pairs of uint8 `[N, T, H, W, C]`."""
    flat = thumbnails(frames).reshape(len(frames), -1)
    return float(mean_pairwise_distance(flat / np.sqrt(flat.shape[1])))


def motion(frames: Any) -> float:
    """Mean absolute change of a pixel from one frame to the next, 0 to 255, of uint8 `[N, T, H, W, C]`."""
    pixels = np.asarray(frames).astype(np.int16)
    return float(np.abs(np.diff(pixels, axis=1)).mean()) if pixels.shape[1] > 1 else 0.0
