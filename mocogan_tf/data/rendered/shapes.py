"""Moving shapes: a coloured circle or square on black travels upwards or to the left along a random Bezier curve.

The set follows the published description and statistics of the authors' strips; it has no pixel of theirs. In pixels at
64x64, with w the shape's width:

* half of the shapes are circles, half squares; w is 8, 10, 12 or 14; each colour channel is uniform in 0..255;
* the corner of the bounding box starts at 64 - w - 2 and ends at 1 on the main axis (class 0: y, class 1: x); on the
  other axis it ends where it started;
* in between it follows a Bezier curve of degree four, rounded to pixels, whose three inner control points are uniform
  over the frame. Fitted to 3,000 of the authors' strips, degree three leaves an rms error of 0.95 px and degree four
  one of 0.28 px (rounding alone: 0.29), with uniform and uncorrelated control points. Over 3,000 of their strips and
  3,000 of our clips, the excursion across the main axis is 14.2 +- 7.6 and 14.1 +- 7.5 px, and the shares of each speed
  along it (-1 to 7 px per frame, most often 1) differ by at most 0.004.

Nothing is antialiased, so every frame has exactly two colours. A colour whose largest channel is below `MIN_BRIGHTEST`
is drawn again (1 clip in 4,096), so that `frame.max(-1) >= MIN_BRIGHTEST` is exactly the shape.

Source: Tulyakov et al., "MoCoGAN: Decomposing Motion and Content for Video Generation", CVPR 2018, "shape motion".
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from mocogan_tf.data.rendered.base import Clip, check_clip, clip_rng

CATEGORIES = ("up", "left")
FPS = 16.0
NUM_FRAMES = 32
KINDS = ("circle", "square")
DIAMETERS = (8, 10, 12, 14)
MIN_BRIGHTEST = 16

_DEGREE = 4
_FIRST = 1  # The corner's smallest coordinate, in pixels at 64x64.
_MARGIN = 2  # Pixels at 64x64 that the path keeps clear at the far side.


def _bezier(points: NDArray[np.float64], num_frames: int) -> NDArray[np.float64]:
    """Returns positions `[F, 2]` along a Bezier curve with control points `[degree + 1, 2]`."""
    t = np.linspace(0.0, 1.0, num_frames)[:, None]
    degree = len(points) - 1
    weights = np.concatenate([math.comb(degree, k) * t**k * (1 - t) ** (degree - k) for k in range(degree + 1)], axis=1)
    return np.asarray(weights @ points)


def _mask(kind: str, diameter: int) -> NDArray[np.bool_]:
    """Returns which pixels are the shape's, bool `[diameter, diameter]`."""
    if kind == "square":
        return np.ones((diameter, diameter), bool)
    offset = np.arange(diameter) - (diameter - 1) / 2
    return offset[:, None] ** 2 + offset**2 <= (diameter / 2) ** 2


def render_clip(index: int, *, seed: int, num_frames: int = NUM_FRAMES, image_size: int = 64) -> Clip:
    """Renders clip `index` of a seed.

    The path spans the clip: with more frames the shape is slower on the same path. At other image sizes shape and path
    are scaled and rounded again.

    Args:
        index: Which clip, in [0, 2^64).
        seed: Which set, in [0, 2^64).
        num_frames: F, at least 1.
        image_size: H = W, one of 32, 64, 128.

    Returns:
        `Clip`; its truth holds `colour` (uint8 `[3]`), `kind` ("circle" or "square"), `diameter` (int, pixels) and
        `centres` (float64 `[F, 2]`, x and y in pixels, where pixel i covers i to i + 1).

    Raises:
        ValueError: An argument is out of range.
    """
    index, seed = check_clip(index, seed, num_frames, image_size)
    rng = clip_rng(seed, index)
    label, kind = int(rng.random() * 2), KINDS[int(rng.random() * 2)]
    diameter = DIAMETERS[int(rng.random() * len(DIAMETERS))]
    last = 64 - diameter - _MARGIN
    start = _FIRST + rng.random() * (last - _FIRST)
    inner = _FIRST + rng.random((_DEGREE - 1, 2)) * (last - _FIRST)
    colour = (rng.random(3) * 256).astype(np.uint8)
    while colour.max() < MIN_BRIGHTEST:
        colour = (rng.random(3) * 256).astype(np.uint8)

    path = _bezier(np.concatenate([[[last, start]], inner, [[_FIRST, start]]]), num_frames)  # Main axis, other axis.
    scale = image_size / 64
    corners = np.floor(path * scale + 0.5).astype(int)
    corners = corners if CATEGORIES[label] == "left" else corners[:, ::-1]  # x, y
    diameter = int(diameter * scale)

    frames = np.zeros((num_frames, image_size, image_size, 3), np.uint8)
    mask = _mask(kind, diameter)
    for frame, (x, y) in zip(frames, corners, strict=True):
        frame[y : y + diameter, x : x + diameter][mask] = colour
    truth = {"colour": colour, "kind": kind, "diameter": diameter, "centres": corners + diameter / 2}
    return Clip(frames, label, truth)
