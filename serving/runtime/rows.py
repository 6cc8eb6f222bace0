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


def same_clip(rows: Mapping[str, Floats]) -> list[slice]:
    """Cuts rows wherever anything but the motion changes: every part can be computed as frames of one clip.

    A model does once per clip what does not move, such as a background's whole decoder.
    """
    fixed = [values for name, values in rows.items() if name != "motion"]
    changes = np.any([np.any(values[1:] != values[:-1], axis=1) for values in fixed], axis=0)
    edges = [0, *(np.flatnonzero(changes) + 1).tolist(), len(rows["motion"])]
    return [slice(start, stop) for start, stop in zip(edges, edges[1:], strict=False)]


def padded_feeds(
    rows: Mapping[str, Floats], widths: Mapping[str, int], size: int, one_clip: bool = False
) -> dict[str, Floats]:
    """Returns a frame model's inputs for rows `[n, D]`, n at most `size`; zeros fill the rest.

    Args:
        rows: By input name.
        widths: D by input name.
        size: Frames that the model makes.
        one_clip: The rows are frames of one clip, motion `[1, size, D]` and the rest `[1, D]`; otherwise each is a clip
            of one frame, `[size, 1, D]` and `[size, D]`.
    """
    feeds = {}
    for name, width in widths.items():
        moves = name == "motion"
        number = 1 if one_clip and not moves else size
        values = rows[name][:number]
        if len(values) < number:
            padded = np.zeros((number, width), np.float32)
            padded[: len(values)] = values
            values = padded
        shape = ((1, size) if one_clip else (size, 1)) if moves else (number,)
        feeds[name] = np.ascontiguousarray(values).reshape(*shape, width)
    return feeds
