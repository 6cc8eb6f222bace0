"""How the rows of a batch are cut into the few sizes that a frame model sees."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from serving.runtime.options import Floats


def frame_buckets(max_batch_frames: int) -> tuple[int, ...]:
    """Powers of two below the largest bucket, and that bucket."""
    powers = [1 << i for i in range(max_batch_frames.bit_length()) if 1 << i < max_batch_frames]
    return (*powers, max_batch_frames)


def plan_buckets(num_frames: int, buckets: Sequence[int], *, pad: bool) -> list[int]:
    """Returns the buckets to run for a number of frames, in order.

    On a GPU a launch costs more than some empty rows, so the last frames are padded to the next bucket (`pad`). On a
    CPU every row costs the same, so frames are cut into buckets that fit, and only the smallest one is ever padded.
    """
    plan = []
    while num_frames >= buckets[-1]:
        plan.append(buckets[-1])
        num_frames -= buckets[-1]
    while num_frames > 0:
        fitting = [size for size in buckets if size <= num_frames]
        size = next(size for size in buckets if size >= num_frames) if pad or not fitting else fitting[-1]
        plan.append(size)
        num_frames -= size
    return plan


def padded_feeds(rows: Mapping[str, Floats], widths: Mapping[str, int], size: int) -> dict[str, Floats]:
    """Returns a frame model's inputs for rows `[n, D]`, n at most `size`; zeros fill the rest. Each row is one frame.

    Args:
        rows: By input name.
        widths: D by input name.
        size: Rows that the model takes.
    """
    feeds = {}
    for name, width in widths.items():
        padded = rows[name]
        if len(padded) < size:
            padded = np.zeros((size, width), np.float32)
            padded[: len(rows[name])] = rows[name]
        feeds[name] = np.ascontiguousarray(padded).reshape((size, 1, width) if name == "motion" else (size, width))
    return feeds
