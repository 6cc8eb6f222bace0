"""How clips collapse, seen in raw pixels: all alike, standing still, or repeating themselves when they go on.

Clips are compared at 16x16 pixels, by the root mean square difference of a pixel.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from mocogan_tf.metrics.statistics import Estimate, Floats, mean_and_error, mean_pairwise_distance

FROZEN = 0.1  # Of the change between frames within the trained length: below it two frames count as alike.


def thumbnails(frames: Any, side: int = 16) -> Floats:
    """Clips `[N, T, H, W, C]` at `side` x `side` pixels (or fewer, where they have fewer) by averaging, 0 to 255."""
    sums, area = np.asarray(frames), np.ones((1, 1, 1), np.int64)
    for axis in (2, 3):
        size = sums.shape[axis]
        edges = np.linspace(0, size, min(side, size) + 1).astype(int)
        area = area * np.diff(edges).reshape([-1 if i == axis else 1 for i in (2, 3, 4)])
        sums = np.add.reduceat(sums, edges[:-1], axis=axis, dtype=np.uint32)
    return np.asarray(sums / area)


def diversity(frames: Any) -> float:
    """Mean rms difference of a pixel between two clips, over all pairs of uint8 `[N, T, H, W, C]`."""
    flat = thumbnails(frames).reshape(len(frames), -1)
    return float(mean_pairwise_distance(flat / np.sqrt(flat.shape[1])))


def motion(frames: Any) -> float:
    """Mean absolute change of a pixel from one frame to the next, 0 to 255, of uint8 `[N, T, H, W, C]`."""
    if frames.shape[1] < 2:
        return 0.0
    return float(np.mean([np.abs(np.diff(clip.astype(np.int16), axis=0)).mean() for clip in frames]))


@dataclasses.dataclass(frozen=True)
class Continuation:
    """How clips go on after their first `window` frames; means over clips.

    Args:
        loop: How closely later frames repeat earlier ones. For every frame after the window the nearest frame at least
            half a window earlier is looked up; 1 minus its distance over the mean distance of frames half a window or
            more apart within the window. 1: every later frame was there before; 0 or less: they are all new.
        freeze: Share of later frames that differ from the one before by less than a tenth of what is usual within the
            window.
        drift: Distance of the mean frames of the first and the last window, over that of the first windows of two
            different clips. 0: the content stays; 1: it has become another clip's.
    """

    loop: Estimate
    freeze: Estimate
    drift: Estimate


def continuation(frames: Any, window: int) -> Continuation:
    """Looks at what follows the first `window` frames.

    Args:
        frames: uint8 `[N, L, H, W, C]`, N >= 2, L >= 2 * window.
        window: The length trained on, at least 4.

    Raises:
        ValueError: The clips are too short or too few.
    """
    number, length = np.shape(frames)[:2]
    if window < 4 or length < 2 * window or number < 2:
        raise ValueError(
            f"At least 2 clips of at least {2 * max(window, 4)} frames are needed (twice the length trained on). "
            f"Received: {number} clips of {length} frames, window={window}"
        )
    small = thumbnails(frames).reshape(number, length, -1)
    small = small / np.sqrt(small.shape[-1])
    means_first, means_last = small[:, :window].mean(axis=1), small[:, -window:].mean(axis=1)
    between_clips = float(mean_pairwise_distance(means_first))
    moved = np.linalg.norm(means_last - means_first, axis=-1)
    return Continuation(
        loop=mean_and_error([_repetition(clip, window) for clip in small]),
        freeze=mean_and_error([_frozen_share(clip, window) for clip in small]),
        drift=mean_and_error(moved / between_clips if between_clips else np.zeros(number)),
    )


def _repetition(clip: Floats, window: int) -> float:
    """1 minus (distance to the nearest earlier frame / usual distance), mean over the frames after the window."""
    length, lag = len(clip), window // 2
    distance = np.linalg.norm(clip[:, None] - clip[None], axis=-1)
    apart = np.arange(length)[:, None] - np.arange(length)[None]
    within = distance[:window, :window]
    usual = within[apart[:window, :window] >= lag].mean()
    if usual == 0.0:  # It stands still from the beginning.
        return float((distance[window:, :window].min(axis=1) == 0.0).mean())
    nearest = np.where(apart >= lag, distance, np.inf)[window:].min(axis=1)
    return float(np.mean(1.0 - nearest / usual))


def _frozen_share(clip: Floats, window: int) -> float:
    change = np.linalg.norm(np.diff(clip, axis=0), axis=-1)
    usual = change[: window - 1].mean()
    return float((change[window - 1 :] <= FROZEN * usual).mean())
