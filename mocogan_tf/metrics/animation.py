"""Scores of clips that begin with a given picture, and two baselines that need no model.

The baselines say what a number is worth: a clip that stands still has a perfect first frame and identity, and the
training clip whose first frame is nearest moves perfectly, but shows another person.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mocogan_tf.data.cache import VideoSet
from mocogan_tf.metrics.clips import Clips
from mocogan_tf.metrics.statistics import Floats

SIDE = 16  # Height and width at which first frames are compared to find the nearest.
_SMALLEST_ERROR = 1 / 12  # Mean squared error of rounding to whole numbers, below which there is nothing to tell apart.


def first_frame_l1(frames: NDArray[np.uint8], pictures: NDArray[np.uint8]) -> Floats:
    """Mean absolute difference of first frames and their pictures, 0 to 255, `[N]`."""
    return np.abs(frames[:, 0].astype(np.float64) - pictures).mean(axis=(1, 2, 3))


def first_frame_psnr(frames: NDArray[np.uint8], pictures: NDArray[np.uint8]) -> Floats:
    """Peak signal-to-noise ratio of first frames against their pictures in dB, `[N]`."""
    errors = np.square(frames[:, 0].astype(np.float64) - pictures).mean(axis=(1, 2, 3))
    return 10 * np.log10(255.0**2 / np.maximum(errors, _SMALLEST_ERROR))


def still_clips(pictures: NDArray[np.uint8], clips: Clips) -> Clips:
    """The pictures `[N, H, W, C]` as clips in which nothing moves, with length and labels of others."""
    return Clips(np.repeat(pictures[:, None], clips.frames.shape[1], axis=1), clips.labels, clips.categories)


def nearest_clips(pictures: NDArray[np.uint8], clips: Clips, videos: VideoSet, every_nth: int) -> Clips:
    """The real clips whose first frames are nearest to pictures, at 16x16 pixels, of the class that is asked for.

    Args:
        pictures: uint8 `[N, H, W, C]`.
        clips: N clips, whose length and labels the result has.
        videos: Where the real clips are cut from, at any start.
        every_nth: Source frames per kept frame.
    """
    num_frames = clips.frames.shape[1]
    starts_left = np.clip(videos.lengths - (num_frames - 1) * every_nth, 0, None)
    wanted, rows = _small(pictures), np.arange(len(pictures))
    nearest = np.full(len(pictures), np.inf)
    video, start = np.zeros(len(pictures), int), np.zeros(len(pictures), int)
    for i, left in enumerate(starts_left):  # One video at a time: a large set has millions of starts.
        if not left:
            continue
        candidates = _small(videos[i][:left])
        distance = np.square(candidates).sum(axis=1) - 2 * wanted @ candidates.T  # Up to the wanted ones' own squares.
        best = distance.argmin(axis=1)
        closer = distance[rows, best] < nearest
        if clips.labels is not None and videos.categories:
            closer &= clips.labels == videos.labels[i]
        nearest[closer], video[closer], start[closer] = distance[rows, best][closer], i, best[closer]
    span = every_nth * np.arange(num_frames)
    frames = np.stack([videos[i][first + span] for i, first in zip(video, start, strict=True)])
    return Clips(frames, clips.labels, clips.categories)


def _small(frames: NDArray[np.uint8]) -> NDArray[np.float32]:
    number, height, width, channels = frames.shape
    blocks = frames.reshape(number, SIDE, height // SIDE, SIDE, width // SIDE, channels)
    return blocks.mean(axis=(2, 4), dtype=np.float32).reshape(number, -1)
