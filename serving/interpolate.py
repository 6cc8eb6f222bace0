"""Between two latents: normal vectors move on the great circle, categories on the straight line."""

from __future__ import annotations

import numpy as np

from serving.runtime.engine import Floats


def slerp(a: Floats, b: Floats, t: float) -> Floats:
    """Great-circle interpolation of vectors `[..., D]`, `t` from 0 (`a`) to 1 (`b`).

    Between two normal vectors the norm stays that of a normal vector, which a straight line would shorten: the frames
    half-way would be those of a less likely, greyer place. Where the angle is nothing, the line is taken (Shoemake,
    "Animating rotation with quaternion curves", SIGGRAPH 1985).
    """
    norms = np.linalg.norm(a, axis=-1, keepdims=True) * np.linalg.norm(b, axis=-1, keepdims=True)
    cosine = np.sum(a * b, axis=-1, keepdims=True) / np.maximum(norms, 1e-12)
    angle = np.arccos(np.clip(cosine, -1.0, 1.0))
    sine = np.sin(angle)
    straight = sine < 1e-4
    safe = np.where(straight, 1.0, sine)
    first = np.where(straight, 1 - t, np.sin((1 - t) * angle) / safe)
    second = np.where(straight, t, np.sin(t * angle) / safe)
    mixed: Floats = (first * a + second * b).astype(np.float32)
    return mixed


def lerp(a: Floats, b: Floats, t: float) -> Floats:
    """The straight line, for categories: weights that sum to one stay so."""
    mixed: Floats = ((1 - t) * a + t * b).astype(np.float32)
    return mixed
