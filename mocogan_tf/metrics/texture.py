"""How near the texture of generated frames comes to that of real ones, at native size: NumPy only.

The feature network looks at frames of 32x32 pixels, and sees neither a raster nor a missing outline. These scores do:

* `swd_64`, `swd_32`, ...: the sliced Wasserstein distance of 7x7 patches on each level of a Laplacian pyramid, named by
  the level's height (Karras et al., "Progressive Growing of GANs", ICLR 2018, section 5), times 1000 as there;
* `spectrum_high`: log2 of the power of fine detail over that of real frames. Below 0 frames are soft, above it noisy;
* `spectrum_checker`: the same at the edge of the spectrum, where patterns of period 2 lie, such as the rasters of
  transposed convolutions (Odena et al., "Deconvolution and Checkerboard Artifacts", 2016). A raster lifts it well above
  `spectrum_high`.

Patches are taken relative to the mean and deviation of all patches of their set, so `swd_*` says whether structures are
alike, and the spectrum says whether they are as strong.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.float32]

MAX_FRAMES = 2048  # Frames compared, spread evenly over the clips.
PATCH = 7
PATCHES_PER_FRAME = 64
SMALLEST_LEVEL = 16
DIRECTIONS = 64
UPPER_BAND, EDGE = 0.5, 0.9375  # Where the two bands begin, as shares of the Nyquist frequency.
_AT_A_TIME = 32  # Directions, and frames of a spectrum, that are in memory together.
_BINOMIAL = np.array([1, 4, 6, 4, 1], np.float32) / 16


def names(size: int) -> tuple[str, ...]:
    """Names of the scores of frames of `size` x `size` pixels."""
    levels = [size >> i for i in range((size // SMALLEST_LEVEL).bit_length())]
    return (*(f"swd_{level}" for level in levels), "spectrum_high", "spectrum_checker")


def scores(real: Any, fake: Any) -> dict[str, float]:
    """Compares the texture of two sets of clips.

    Args:
        real: uint8 `[N, T, H, W, C]`, H = W = 16 times a power of two.
        fake: uint8 `[M, T, H, W, C]`. The larger set counts with its first clips.

    Returns:
        By `names(H)`.

    Raises:
        ValueError: The frames are of another size.
    """
    number = min(len(real), len(fake))
    real_frames, fake_frames = (some_frames(clips[:number]).reshape(-1, *clips.shape[2:]) for clips in (real, fake))
    values = (*sliced_wasserstein(real_frames, fake_frames).values(), *spectral_excess(real_frames, fake_frames))
    return dict(zip(names(real.shape[2]), values, strict=True))


def some_frames(clips: Any, at_most: int = MAX_FRAMES) -> NDArray[np.uint8]:
    """Thins `[N, T, H, W, C]` to `at_most` frames in all: as many of each clip, evenly spread over it."""
    number, length = clips.shape[:2]
    per_clip = min(length, max(1, at_most // number))
    times = ((np.arange(per_clip) + 0.5) * length / per_clip).astype(int)
    return np.asarray(clips[:at_most, times])


def sliced_wasserstein(real: Any, fake: Any, seed: int = 0) -> dict[int, float]:
    """Distance of the patches of two sets of frames on each level of their pyramids, times 1000.

    Args:
        real: `[N, H, W, C]` in 0..255, H = W = 16 times a power of two.
        fake: Frames of the same shape.
        seed: Seed of places and directions.

    Returns:
        By height of the level, the largest first; 0 or more, lower is better.

    Raises:
        ValueError: The shapes differ, or the size is another.
    """
    if np.shape(real) != np.shape(fake):
        raise ValueError(f"Both sets must have one shape. Received: {np.shape(real)} and {np.shape(fake)}")
    distances = {}
    for i, (a, b) in enumerate(zip(laplacian_pyramid(real), laplacian_pyramid(fake), strict=True)):
        # Each set has its own places: shared ones would favour sets whose clips are paired.
        points = cut_patches(a, 3 * seed + 1), cut_patches(b, 3 * seed + 2)
        distances[a.shape[1]] = 1000 * sliced_distance(*points, seed=3 * seed + i)
    return distances


def laplacian_pyramid(frames: Any, smallest: int = SMALLEST_LEVEL) -> list[Pixels]:
    """Splits frames into bands of detail, one octave each (Burt and Adelson 1983).

    Args:
        frames: `[N, H, W, C]`, H = W = `smallest` times a power of two.
        smallest: Height of the coarsest level.

    Returns:
        float32 `[N, H, W, C]`, `[N, H/2, W/2, C]`, ...: what each level has beyond the next one, enlarged; the last
        holds what is left.

    Raises:
        ValueError: The size is another.
    """
    level = np.asarray(frames, np.float32)
    height, width = level.shape[1:3]
    if height != width or height < smallest or height % smallest or (height // smallest).bit_count() != 1:
        raise ValueError(f"Frames must be square, {smallest} pixels times a power of two. Received: {height}x{width}")
    levels = []
    while level.shape[1] > smallest:
        blur = _blur(level.shape[1])
        below = _apply(blur[::2], level)
        levels.append(level - _apply(2 * blur[:, ::2], below))  # Zeros between pixels, then the filter.
        level = below
    return [*levels, level]


def _blur(size: int) -> Pixels:
    """The binomial filter on `size` pixels, mirrored at the borders, as a matrix."""
    pixel = np.arange(size)
    matrix = np.zeros((size, size), np.float32)
    for offset, weight in enumerate(_BINOMIAL, start=-2):
        source = np.abs(pixel + offset)
        np.add.at(matrix, (pixel, np.minimum(source, 2 * (size - 1) - source)), weight)
    return matrix


def _apply(matrix: Pixels, frames: Pixels) -> Pixels:
    """Multiplies the columns and the rows of `[N, H, H, C]` by a matrix `[K, H]`: `[N, K, K, C]`."""
    number, height, width, channels = frames.shape
    tall = matrix @ frames.reshape(number, height, width * channels)
    return matrix @ tall.reshape(number, len(matrix), width, channels)


def cut_patches(level: Pixels, seed: int, per_frame: int = PATCHES_PER_FRAME) -> Pixels:
    """Cuts patches out of random places, and gives each channel mean 0 and deviation 1 over all of them.

    Args:
        level: `[N, H, W, C]`, H and W at least 7.
        seed: Seed of the places.
        per_frame: Patches per frame, P.

    Returns:
        float32 `[N * P, C * 7 * 7]`.
    """
    rng = np.random.default_rng(seed)
    number, height, width, channels = level.shape
    row = rng.integers(0, height - PATCH + 1, (number, per_frame))
    column = rng.integers(0, width - PATCH + 1, (number, per_frame))
    windows = np.lib.stride_tricks.sliding_window_view(level, (PATCH, PATCH), axis=(1, 2))
    patches = windows[np.arange(number)[:, None], row, column].reshape(number * per_frame, -1)
    mean, square = (values.mean(axis=0, dtype=np.float64) for values in (patches, np.square(patches)))
    mean, square = (values.reshape(channels, -1).mean(axis=1) for values in (mean, square))
    deviation = np.sqrt(np.maximum(square - np.square(mean), 1e-12))
    mean, deviation = (values.repeat(PATCH * PATCH).astype(np.float32) for values in (mean, deviation))
    return (patches - mean) / deviation


def sliced_distance(a: Pixels, b: Pixels, seed: int, directions: int = DIRECTIONS) -> float:
    """Mean Wasserstein-1 distance of two sets of points `[M, D]` along random directions (Rabin et al. 2011)."""
    rng = np.random.default_rng(seed)
    distances = []
    for first in range(0, directions, _AT_A_TIME):
        along = rng.standard_normal((min(_AT_A_TIME, directions - first), a.shape[1])).astype(np.float32)
        along /= np.linalg.norm(along, axis=1, keepdims=True)
        in_order = [np.sort(along @ points.T, axis=1) for points in (a, b)]
        distances.append(np.abs(in_order[0] - in_order[1]).mean(axis=1))
    return float(np.concatenate(distances).mean())


def spectral_excess(real: Any, fake: Any) -> tuple[float, float]:
    """log2 of the power of generated frames over that of real ones: (fine detail, patterns of period 2).

    Fine detail is the mean of log2 over all frequencies above half of Nyquist, so that no single pattern makes up for
    detail that is missing. Patterns of period 2 are sums of power at the edge of the spectrum, so that a single
    frequency shows. A frequency is the larger of its two parts.

    Args:
        real: `[N, H, H, C]` in 0..255.
        fake: `[M, H, H, C]` in 0..255.

    Returns:
        0 each where the power is as in real frames, 1 where it is twice that.
    """
    # Rounding to whole levels leaves more power than a thousandth of a squared level.
    a, b = power_spectrum(real) + 1e-3, power_spectrum(fake) + 1e-3
    part = np.abs(np.fft.fftfreq(len(a))) * 2
    frequency = np.maximum(part[:, None], part)
    upper, edge = frequency >= UPPER_BAND, frequency >= EDGE
    return float(np.log2(b[upper] / a[upper]).mean()), float(np.log2(b[edge].sum() / a[edge].sum()))


def power_spectrum(frames: Any) -> NDArray[np.float64]:
    """Mean power spectrum of the frames' brightness (the mean of their channels) under a Hann window.

    Without the window, opposite borders, which do not meet, would look like detail.

    Args:
        frames: `[N, H, H, C]` in 0..255.

    Returns:
        float64 `[H, H]` in squared levels, frequencies in the order of `numpy.fft.fftfreq`.
    """
    size = frames.shape[1]
    window = np.hanning(size + 2)[1:-1]
    total = np.zeros((size, size))
    for first in range(0, len(frames), _AT_A_TIME):
        grey = np.asarray(frames[first : first + _AT_A_TIME], np.float64).mean(axis=-1)
        grey = (grey - grey.mean(axis=(1, 2), keepdims=True)) * window[:, None] * window
        total += np.square(np.abs(np.fft.fft2(grey))).sum(axis=0)
    return np.asarray(total / len(frames) / size**2)
