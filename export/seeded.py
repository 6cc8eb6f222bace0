"""The draw of latents from a seed (`mocogan_tf.latents`) as TensorFlow operations, for a signature that takes a seed.

The words are Philox4x32-10's, bit for bit. They are computed in int64, because every server has kernels for it:
products wrap around, and only their low and high 32 bits are used.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from mocogan_tf import latents
from mocogan_tf.latents import LatentSpec

_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_MASK = 0xFFFFFFFF


def draw_latents(seeds: Any, spec: LatentSpec, num_frames: int) -> dict[str, Any]:
    """Draws the first clip of each seed, as `sample_latents(spec, 1, num_frames, seed=seed)` does.

    Args:
        seeds: int64 `[B]`; a seed of 2^63 or more is given as itself minus 2^64.
        spec: Sizes of the latents.
        num_frames: Frames per clip, T.

    Returns:
        dict of float32 tensors: `content` [B, dim_content], `motion_init` [B, dim_motion], `motion_noise`
        [B, T, dim_motion] and, if there are categories, one-hot `category` [B, dim_category].
    """
    streams = {
        "content": (latents.STREAM_CONTENT, (spec.dim_content,)),
        "motion_init": (latents.STREAM_MOTION_INIT, (spec.dim_motion,)),
        "motion_noise": (latents.STREAM_MOTION_NOISE, (num_frames, spec.dim_motion)),
    }
    drawn = {}
    for name, (stream, shape) in streams.items():
        size = int(np.prod(shape))
        words = philox_words(seeds, stream, num_blocks=-(-size // 4))
        drawn[name] = tf.reshape(_normals(words)[:, :size], (-1, *shape))
    if spec.dim_category:
        first_word = philox_words(seeds, latents.STREAM_CATEGORY, num_blocks=1)[:, 0]
        drawn["category"] = tf.one_hot(first_word % spec.dim_category, spec.dim_category, dtype=tf.float32)
    return drawn


def philox_words(seeds: Any, stream: int, num_blocks: int) -> Any:
    """Returns the first words of one stream for clip 0 of each seed.

    Args:
        seeds: int64 `[B]`.
        stream: The counter's third word.
        num_blocks: Blocks of four words.

    Returns:
        int64 `[B, 4 * num_blocks]`, each in [0, 2^32).
    """
    zero = tf.zeros((tf.size(seeds), num_blocks), tf.int64)
    x0, x1, x2, x3 = zero + tf.range(num_blocks, dtype=tf.int64), zero, zero + stream, zero
    k0, k1 = seeds[:, None] & _MASK, _high(seeds[:, None])
    for _ in range(10):
        product0, product1 = x0 * _MULTIPLIERS[0], x2 * _MULTIPLIERS[1]
        x0, x1, x2, x3 = _high(product1) ^ x1 ^ k0, product1 & _MASK, _high(product0) ^ x3 ^ k1, product0 & _MASK
        k0, k1 = (k0 + _WEYL[0]) & _MASK, (k1 + _WEYL[1]) & _MASK
    words = tf.stack([x0, x1, x2, x3], axis=-1)
    return tf.reshape(words, (-1, 4 * num_blocks))


def _high(x: Any) -> Any:
    return tf.bitwise.right_shift(x, tf.constant(32, tf.int64)) & _MASK


def _normals(words: Any) -> Any:
    """Box-Muller on pairs of words: int64 `[B, 2 N]` to float32 `[B, 2 N]`."""
    pairs = (tf.cast(tf.reshape(words, (tf.shape(words)[0], -1, 2)), tf.float64) + 0.5) / 2.0**32
    radius, angle = tf.sqrt(-2.0 * tf.math.log(pairs[..., 0])), 2.0 * np.pi * pairs[..., 1]
    normals = tf.stack([radius * tf.cos(angle), radius * tf.sin(angle)], axis=-1)
    return tf.cast(tf.reshape(normals, tf.shape(words)), tf.float32)
