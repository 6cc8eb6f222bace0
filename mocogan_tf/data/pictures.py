"""Pictures to animate, of people who are not in training where the set allows it."""

from __future__ import annotations

import dataclasses

import numpy as np
from absl import logging
from numpy.typing import NDArray

from mocogan_tf.config import Config
from mocogan_tf.data.cache import VideoSet
from mocogan_tf.data.datasets import is_rendered, open_videos, render_pictures

OTHER_SPLITS = ("test", "val")


@dataclasses.dataclass(frozen=True)
class Pictures:
    """First frames of clips.

    Args:
        pixels: uint8 `[N, H, W, C]`.
        held_out: Whether they are of clips that are not in training.
    """

    pixels: NDArray[np.uint8]
    held_out: bool

    @property
    def words(self) -> str:
        """What they are."""
        return "pictures of clips that are not in training" if self.held_out else "first frames of training clips"


def pictures_to_animate(config: Config, training: VideoSet, number: int) -> Pictures:
    """Returns up to `number` pictures, always the same ones.

    Of a rendered set other people in other places are rendered. Of a set that is divided they are from its test or
    validation clips; of any other set they are from training clips.

    Args:
        config: Names the set.
        training: The videos that are trained on.
        number: How many at most; a set of fewer videos gives one of each.
    """
    if is_rendered(config):
        return Pictures(render_pictures(config, number), held_out=True)
    for split in OTHER_SPLITS:
        other = _videos_of(config, split)
        if other is not None and not set(other.names) & set(training.names):
            return Pictures(_first_frames(other, number), held_out=True)
    return Pictures(_first_frames(training, number), held_out=False)


def _videos_of(config: Config, split: str) -> VideoSet | None:
    try:
        return open_videos(config, split)
    except ValueError as error:  # The set has no such clips.
        logging.debug("No pictures of %s clips: %s", split, error)
        return None


def _first_frames(videos: VideoSet, number: int) -> NDArray[np.uint8]:
    """First frames of videos that are spread evenly over the set, so over its classes."""
    chosen = np.unique(np.linspace(0, len(videos) - 1, min(number, len(videos))).astype(int))
    return np.stack([videos[i][0] for i in chosen])
