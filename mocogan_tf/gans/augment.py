"""Differentiable augmentation of the discriminators' inputs, the same over a clip's frames (Zhao et al. 2020).

Real and generated clips are augmented alike, so the generator does not learn to make augmented clips; its gradient
passes through. Each clip has one draw: an augmentation that changed from frame to frame would itself be motion.
"""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

DRAWS = 7  # Random numbers per clip: three for the colours, two for the shift, two for the hole.
_SHIFT = 0.125  # Largest shift to each side, as a share of the frame's size.
_HOLE = 0.5  # Size of the hole, as a share of the frame's size.


def augment(clips: tf.Tensor, policy: Sequence[str], draws: tf.Tensor) -> tf.Tensor:
    """Augments clips.

    Args:
        clips: `[B, ..., H, W, C]` in [-1, 1]: frames, or clips whose frames are all treated alike.
        policy: Names out of `mocogan_tf.config.AUGMENTATIONS`.
        draws: `[B, DRAWS]`, uniform in [0, 1); they decide each clip's augmentation.

    Returns:
        Clips of the same shape, which may exceed [-1, 1]. Shifts and holes are filled with 0, mid-grey.
    """
    shape = clips.shape
    clips = tf.reshape(clips, (shape[0], -1, *shape[-3:]))
    colour, shift, hole = draws[:, :3], draws[:, 3:5], draws[:, 5:]
    if "colour" in policy:
        clips = _colour(clips, *tf.split(tf.cast(colour, clips.dtype)[..., None, None, None], 3, axis=1))
    if "translation" in policy:
        clips = _translation(clips, *tf.unstack(shift, axis=1))
    if "cutout" in policy:
        clips = _cutout(clips, *tf.unstack(hole, axis=1))
    return tf.reshape(clips, shape)


def _colour(clips: tf.Tensor, brightness: tf.Tensor, saturation: tf.Tensor, contrast: tf.Tensor) -> tf.Tensor:
    """Changes brightness by up to 0.5, saturation by 0 to 2 times, contrast by 0.5 to 1.5 times."""
    clips = clips + (brightness - 0.5)
    grey = tf.reduce_mean(clips, axis=-1, keepdims=True)
    clips = (clips - grey) * (2.0 * saturation) + grey
    mean = tf.reduce_mean(clips, axis=(1, 2, 3, 4), keepdims=True)
    return (clips - mean) * (contrast + 0.5) + mean


def _translation(clips: tf.Tensor, down: tf.Tensor, right: tf.Tensor) -> tf.Tensor:
    """Shifts by up to an eighth of the frame."""
    height, width = clips.shape[2:4]
    margin = int(height * _SHIFT)
    padded = tf.pad(clips, [[0, 0], [0, 0], [margin, margin], [margin, margin], [0, 0]])
    rows = tf.cast(down * (2 * margin + 1), tf.int32)[:, None] + tf.range(height)
    columns = tf.cast(right * (2 * margin + 1), tf.int32)[:, None] + tf.range(width)
    padded = tf.transpose(padded, (0, 2, 3, 1, 4))  # Rows and columns first, for the gathers.
    moved = tf.gather(tf.gather(padded, rows, axis=1, batch_dims=1), columns, axis=2, batch_dims=1)
    return tf.transpose(moved, (0, 3, 1, 2, 4))


def _cutout(clips: tf.Tensor, down: tf.Tensor, right: tf.Tensor) -> tf.Tensor:
    """Greys out a square of half the frame's size around a random point."""
    height, width = clips.shape[2:4]
    half = int(height * _HOLE) // 2
    in_rows = tf.abs(tf.range(height) - tf.cast(down * height, tf.int32)[:, None]) < half
    in_columns = tf.abs(tf.range(width) - tf.cast(right * width, tf.int32)[:, None]) < half
    hole = in_rows[:, None, :, None, None] & in_columns[:, None, None, :, None]
    return tf.where(hole, tf.zeros((), clips.dtype), clips)
