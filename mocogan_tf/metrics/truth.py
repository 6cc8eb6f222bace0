"""Numbers for the rendered sets, whose truth is known: where the figure is and which colours it wears, frame by frame.

Of `shapes` both are read off the pixels. Of `taichi` a small CNN reads them, trained on frames rendered for it with
their joints and colours; its error on frames held out goes with every number. From colours and paths follow:

* whether a clip keeps its colours (`colour_change`),
* whether paths are smooth (`jerkiness`),
* whether the motion code alone decides the motion and the content code alone the content (`disentanglement`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mocogan_tf import sampling
from mocogan_tf.config import Config
from mocogan_tf.metrics import acd, pose
from mocogan_tf.metrics.statistics import Floats, mean_pairwise_distance


@dataclasses.dataclass(frozen=True)
class Sight:
    """What is seen in clips.

    Args:
        paths: float64 `[N, T, J, 2]`, x and y of J points as shares of the frame; NaN where nothing is seen.
        colours: float64 `[N, T, K, C]`, colours of K parts, 0 to 255; NaN where nothing is seen.
    """

    paths: Floats
    colours: Floats


@dataclasses.dataclass(frozen=True)
class Reader:
    """Sees what is in the clips of one set: `reader(frames)` gives a `Sight` of uint8 `[N, T, H, W, C]`.

    Args:
        read: The function that sees.
        motion: What moves, in words.
        content: What has the colours, in words.
        words: How well it sees, in words for the protocol.
        name: Name of the network, None if there is none.
    """

    read: Callable[[NDArray[np.uint8]], Sight]
    motion: str
    content: str
    words: str
    name: str | None = None

    def __call__(self, frames: NDArray[np.uint8]) -> Sight:
        return self.read(frames)


@dataclasses.dataclass(frozen=True)
class Disentanglement:
    """1 where the code alone decides, 0 where it has no say."""

    motion: float
    content: float


def is_known(config: Config) -> bool:
    """Whether the truth of a configuration's clips is known: they are rendered by this project, in colour."""
    return config.dataset in ("shapes", "taichi") and not config.data_dir and config.channels == 3


def open_reader(config: Config | None) -> Reader:
    """Returns the reader of a configuration's set; that of `taichi` is trained and kept when first asked for.

    Raises:
        ValueError: The truth of the set is not known.
    """
    if config is None or not is_known(config):
        raise ValueError("`identity` and its like need a set whose truth is known: rendered `shapes` or `taichi`.")
    if config.dataset == "shapes":
        return Reader(
            see_shapes,
            motion="paths of the shape's centre",
            content="the shape's colour",
            words=f"the shape: pixels whose largest channel exceeds {acd.THRESHOLD}",
        )
    network = pose.open_pose_network(config.cache_dir)
    return Reader(
        lambda frames: Sight(*network(frames)),
        motion="paths of the joints about their middle",
        content="the colours of jacket, trousers and wall",
        words=f"read by a CNN that is off by {network.joint_error:.1f} of 64 pixels and {network.colour_error:.0f} of "
        "255 on rendered frames held out",
        name=network.name,
    )


def see_shapes(frames: NDArray[np.uint8]) -> Sight:
    """Centre and mean colour of the bright pixels in every frame."""
    colours, present = acd.shape_colours(frames)
    mask = frames.max(axis=-1) > acd.THRESHOLD
    height, width = mask.shape[2:]
    number = np.maximum(mask.sum(axis=(2, 3)), 1)
    x = (mask * (np.arange(width) + 0.5)).sum(axis=(2, 3)) / number / width
    y = (mask * (np.arange(height) + 0.5)[:, None]).sum(axis=(2, 3)) / number / height
    gone = ~present[..., None]
    paths = np.where(gone, np.nan, np.stack([x, y], axis=-1))
    return Sight(paths[:, :, None], np.where(gone, np.nan, colours)[:, :, None])


def colour_change(sight: Sight) -> Floats:
    """Mean distance of a part's colours over all pairs of frames, `[M]`, of the clips in which something is seen."""
    clips = [clip[~np.isnan(clip).any(axis=(1, 2))] for clip in sight.colours]
    return np.array(
        [mean_pairwise_distance(clip.swapaxes(0, 1)).mean() for clip in clips if len(clip) >= 2] or [np.nan]
    )


def jerkiness(sight: Sight) -> Floats:
    """Mean acceleration over mean speed, `[M]`, of the clips in which something is seen throughout and moves.

    0: even movement in straight lines; about 1.7: every frame goes its own way.
    """
    seen = sight.paths[~np.isnan(sight.paths).any(axis=(1, 2, 3))]
    speed = np.linalg.norm(np.diff(seen, axis=1), axis=-1).mean(axis=(1, 2))
    acceleration = np.linalg.norm(np.diff(seen, 2, axis=1), axis=-1).mean(axis=(1, 2))
    moving = speed > 1e-6
    return acceleration[moving] / speed[moving] if moving.any() else np.array([np.nan])


def swapped_clips(generator: Any, number: int, num_frames: int, *, seed: int) -> NDArray[np.uint8]:
    """Every content under every motion: uint8 `[contents, motions, T, H, W, C]`."""
    clips = sampling.content_motion_grid(generator, number, number, num_frames, seed=seed)
    return clips.reshape(number, number, *clips.shape[1:])


def disentanglement(sight: Sight, number: int) -> Disentanglement:
    """Reads off a grid of contents (rows) by motions (columns) what each code decides.

    With d the distance of two clips' motion: 1 minus (mean d of clips with the same motion code and other contents)
    over (mean d of clips that share neither). The same with content and the other way round.

    Args:
        sight: Of `number * number` clips, row by row.
        number: Rows and columns.
    """
    paths = np.nan_to_num(sight.paths - (sight.paths.mean(axis=2, keepdims=True) if sight.paths.shape[2] > 1 else 0.0))
    colours = np.nan_to_num(sight.colours).mean(axis=1)
    motion = _share_kept(paths.reshape(number, number, -1))
    return Disentanglement(motion, _share_kept(colours.reshape(number, number, -1).swapaxes(0, 1)))


def _share_kept(values: Floats) -> float:
    """1 - mean distance within columns / mean distance of entries in other rows and columns, of `[R, S, D]`."""
    rows, columns, size = values.shape
    flat = values.reshape(-1, size)
    distance = np.linalg.norm(flat[:, None] - flat[None], axis=-1)
    row, column = np.divmod(np.arange(rows * columns), columns)
    other_row, same_column = row[:, None] != row, column[:, None] == column
    apart = distance[other_row & ~same_column].mean()
    return float(1.0 - distance[other_row & same_column].mean() / apart) if apart > 0 else 0.0
