"""Average content distance: how much the content of a clip changes over its frames (0: not at all).

MoCoGAN (Tulyakov et al. 2018), section 4: per frame a description of the content, the mean colour of the shape or the
embedding of a face network; a clip's distance is the mean Euclidean distance over all pairs of its frames; ACD is the
mean over clips. How the paper finds the shape is not published: here it is every pixel whose largest channel exceeds
`THRESHOLD`.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mocogan_tf.metrics.statistics import Estimate, Floats, mean_and_error, mean_pairwise_distance

THRESHOLD = 15  # Of 255; `mocogan_tf.data.rendered.shapes` draws no colour whose largest channel is lower.


@dataclasses.dataclass(frozen=True)
class ColourACD:
    """ACD by colour with what keeps an empty or constant output from looking good.

    Args:
        acd: Mean over clips with at least two frames that have a shape, on the scale 0 to 255; None without any.
        coverage: Share of clips in which every frame has a shape.
        diversity: Mean distance of the clips' mean colours over all pairs of clips that have a shape, 0 to 255.
    """

    acd: Estimate | None
    coverage: Estimate
    diversity: float


def shape_colours(frames: Any, threshold: int = THRESHOLD) -> tuple[Floats, NDArray[np.bool_]]:
    """Mean colour of the shape in every frame.

    Args:
        frames: uint8 `[N, T, H, W, C]`.
        threshold: The shape is the pixels whose largest channel exceeds it.

    Returns:
        float64 `[N, T, C]`, zeros where there is no shape, and bool `[N, T]`, where there is one.
    """
    pixels = np.asarray(frames)
    mask = pixels.max(axis=-1) > threshold
    number = mask.sum(axis=(2, 3))
    # Integers until the one division: a shape of one colour gives that colour exactly, in every frame.
    totals = np.where(mask[..., None], pixels, 0).sum(axis=(2, 3), dtype=np.int64)
    return totals / np.maximum(number, 1)[..., None], number > 0


def acd_color(frames: Any, threshold: int = THRESHOLD) -> ColourACD:
    """Average content distance by the colour of the shape; see `ColourACD`.

    Args:
        frames: uint8 `[N, T, H, W, C]`, a bright shape before black.
        threshold: As of `shape_colours`.
    """
    colours, present = shape_colours(frames, threshold)
    distances = [
        mean_pairwise_distance(colour[seen]) for colour, seen in zip(colours, present, strict=True) if seen.sum() >= 2
    ]
    of_clips = [colour[seen].mean(axis=0) for colour, seen in zip(colours, present, strict=True) if seen.any()]
    return ColourACD(
        acd=mean_and_error(distances) if distances else None,
        coverage=mean_and_error(present.all(axis=1)),
        diversity=float(mean_pairwise_distance(of_clips)) if of_clips else 0.0,
    )


def has_shapes_on_black(frames: Any, threshold: int = THRESHOLD) -> bool:
    """Whether the colour of a shape means something here: nearly every frame has one, and it is the smaller part."""
    mask = np.asarray(frames).max(axis=-1) > threshold
    return bool(mask.any(axis=(2, 3)).mean() > 0.99 and mask.mean() < 0.5)


def acd_of_embeddings(embeddings: Any) -> Estimate:
    """Average content distance by an embedding of every frame, `[N, T, D]`."""
    return mean_and_error(mean_pairwise_distance(embeddings))
