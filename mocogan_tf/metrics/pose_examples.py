"""Frames of `taichi` with their poses and colours, for the network of `pose`. Its workers need no TensorFlow."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mocogan_tf.data.rendered import taichi

SEED = 2**40  # Far from those of training sets.


def render(index: int, image_size: int) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Renders the first frame of a clip of its own.

    Returns:
        uint8 `[H, W, 3]`, and what the network is to read off it, in the network's units.
    """
    clip = taichi.render_clip(index, seed=SEED, num_frames=1, image_size=image_size)
    look, scene = clip.truth["look"], clip.truth["scene"]
    wall = 0.5 * (scene.wall_top + scene.wall_bottom)
    joints = clip.truth["joints"][0] / image_size
    shares = np.concatenate([joints.ravel(), look.jacket, look.trousers, wall])
    return clip.frames[0], (4.0 * (shares - 0.5)).astype(np.float32)
