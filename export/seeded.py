"""The draw of latents from a seed (`mocogan_tf.latents`) as TensorFlow operations, for a signature that takes a seed.

The words are Philox4x32-10's, bit for bit. They are computed in int64, because every server has kernels for it:
products wrap around, and only their low and high 32 bits are used.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from mocogan_tf import latents
from mocogan_tf.latents import CodeSpec, LatentSpec

_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_MASK = 0xFFFFFFFF


def draw_latents(seeds: Any, spec: LatentSpec | CodeSpec, num_frames: int) -> dict[str, Any]:
    """Draws the first clip of each seed, as `sample_latents(spec, 1, num_frames, seed=seed)` does.

    Args:
        seeds: int64 `[B]`; a seed of 2^63 or more is given as itself minus 2^64.
        spec: Sizes of the latents.
        num_frames: Frames per clip, T.

    Returns:
        dict of float32 tensors: `content` [B, dim_content], `motion_init` [B, dim_motion], `motion_noise`
        [B, T, dim_motion] and, if there are categories, one-hot `category` [B, dim_category]; of a `CodeSpec` `z`
        [B, dim_z].
    """
    if isinstance(spec, CodeSpec):
        blocks = _counters(latents.STREAM_CODE, spec.dim_z)
        words = tf.reshape(philox4x32(blocks, seeds), (tf.size(seeds), blocks.size))  # Four per block.
        draw = _uniforms if spec.distribution == "uniform" else _normals
        return {"z": draw(words)[:, : spec.dim_z]}
    streams = {
        "content": (latents.STREAM_CONTENT, (spec.dim_content,)),
        "motion_init": (latents.STREAM_MOTION_INIT, (spec.dim_motion,)),
        "motion_noise": (latents.STREAM_MOTION_NOISE, (num_frames, spec.dim_motion)),
    }
    sizes = {name: int(np.prod(shape)) for name, (_, shape) in streams.items()}
    counters = {name: _counters(stream, sizes[name]) for name, (stream, _) in streams.items()}
    if spec.dim_category:
        counters["category"] = _counters(latents.STREAM_CATEGORY, 1)
    # All streams in one pass, since the rounds are unrolled in the graph.
    words = philox4x32(np.concatenate(list(counters.values())), seeds)
    parts = tf.split(words, [len(counter) for counter in counters.values()], axis=1)
    of_stream = {name: tf.reshape(part, (tf.size(seeds), -1)) for name, part in zip(counters, parts, strict=True)}
    drawn = {}
    for name, (_, shape) in streams.items():
        drawn[name] = tf.reshape(_normals(of_stream[name])[:, : sizes[name]], (-1, *shape))
    if spec.dim_category:
        chosen = of_stream["category"][:, 0] % spec.dim_category
        drawn["category"] = tf.one_hot(chosen, spec.dim_category, dtype=tf.float32)
    return drawn


def philox4x32(counters: NDArray[np.int64], seeds: Any) -> Any:
    """Philox4x32 with ten rounds, as `mocogan_tf.latents.philox4x32`, under the key of each seed.

    Args:
        counters: `[N, 4]`, words in [0, 2^32).
        seeds: int64 `[B]`.

    Returns:
        int64 `[B, N, 4]`, words in [0, 2^32).
    """
    zero = tf.zeros((tf.size(seeds), len(counters)), tf.int64)
    x0, x1, x2, x3 = (zero + counters[:, i] for i in range(4))
    k0, k1 = seeds[:, None] & _MASK, _high(seeds[:, None])
    for _ in range(10):
        product0, product1 = x0 * _MULTIPLIERS[0], x2 * _MULTIPLIERS[1]
        x0, x1, x2, x3 = _high(product1) ^ x1 ^ k0, product1 & _MASK, _high(product0) ^ x3 ^ k1, product0 & _MASK
        k0, k1 = (k0 + _WEYL[0]) & _MASK, (k1 + _WEYL[1]) & _MASK
    return tf.stack([x0, x1, x2, x3], axis=-1)


def _counters(stream: int, size: int) -> NDArray[np.int64]:
    """Counters of the blocks that hold a stream's first `size` numbers, for clip 0: `[N, 4]`."""
    counters = np.zeros((-(-size // 4), 4), np.int64)
    counters[:, 0] = np.arange(len(counters))
    counters[:, 2] = stream
    return counters


def _high(x: Any) -> Any:
    return tf.bitwise.right_shift(x, tf.constant(32, tf.int64)) & _MASK


def _normals(words: Any) -> Any:
    """Box-Muller on pairs of words: int64 `[B, 2 N]` to float32 `[B, 2 N]`."""
    pairs = (tf.cast(tf.reshape(words, (tf.shape(words)[0], -1, 2)), tf.float64) + 0.5) / 2.0**32
    radius, angle = tf.sqrt(-2.0 * tf.math.log(pairs[..., 0])), 2.0 * np.pi * pairs[..., 1]
    normals = tf.stack([radius * tf.cos(angle), radius * tf.sin(angle)], axis=-1)
    return tf.cast(tf.reshape(normals, tf.shape(words)), tf.float32)


def _uniforms(words: Any) -> Any:
    """Numbers on (-1, 1), one per word: int64 `[B, N]` to float32 `[B, N]`."""
    return tf.cast(2.0 * (tf.cast(words, tf.float64) + 0.5) / 2.0**32 - 1.0, tf.float32)
