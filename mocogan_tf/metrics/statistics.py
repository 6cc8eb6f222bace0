"""Statistics on features: NumPy in float64, knowing nothing of networks or clips.

Features are `[N, D]`, a row per sample; class probabilities `[N, K]`. Covariances divide by N - 1.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

MANY = 64  # Vectors; of more, differences of every pair take too long.
_ROWS = 1024  # Of a matrix of distances that are in memory together.


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A number and its standard error (None where none is defined)."""

    value: float
    std_error: float | None = None


def as_features(features: Any, name: str = "features", at_least: int = 2) -> Floats:
    """Returns features as float64 `[N, D]`.

    Raises:
        ValueError: They have another rank, fewer rows than `at_least`, or are not finite.
    """
    array = np.asarray(features, np.float64)
    if array.ndim != 2 or len(array) < at_least:
        raise ValueError(f"`{name}` must be [N, D] with N >= {at_least}. Received: shape {list(array.shape)}")
    if not np.isfinite(array).all():
        raise ValueError(f"`{name}` must be finite. Received: {int((~np.isfinite(array)).sum())} numbers that are not")
    return array


def mean_and_covariance(features: Any) -> tuple[Floats, Floats]:
    """Returns the mean `[D]` and the covariance `[D, D]` over N - 1 of `[N, D]`."""
    array = as_features(features)
    mean = array.mean(axis=0)
    centred = array - mean
    return mean, centred.T @ centred / (len(array) - 1)


def frechet_distance(mean_a: Any, covariance_a: Any, mean_b: Any, covariance_b: Any) -> float:
    """Squared Frechet (2-Wasserstein) distance of two Gaussians.

    `|m_a - m_b|^2 + tr(C_a) + tr(C_b) - 2 tr((C_a C_b)^(1/2))` (Dowson and Landau 1982; as FID, Heusel et al. 2017, and
    FVD, Unterthiner et al. 2018, use it). The last trace is that of `(S C_b S)^(1/2)` with `S` the symmetric root of
    `C_a`, which stays real and accurate where a covariance is singular.
    """
    mean_a, mean_b = np.asarray(mean_a, np.float64), np.asarray(mean_b, np.float64)
    root = _symmetric_root(np.asarray(covariance_a, np.float64))
    between = root @ np.asarray(covariance_b, np.float64) @ root
    trace_of_root = np.sqrt(np.clip(np.linalg.eigvalsh((between + between.T) / 2), 0.0, None)).sum()
    squared = np.square(mean_a - mean_b).sum() + np.trace(covariance_a) + np.trace(covariance_b) - 2 * trace_of_root
    return max(0.0, float(squared))  # Rounding may go below zero where the two are equal.


def _symmetric_root(matrix: Floats) -> Floats:
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    return np.asarray((vectors * np.sqrt(np.clip(values, 0.0, None))) @ vectors.T)


def frechet(real: Any, fake: Any) -> float:
    """Frechet distance of the Gaussians fitted to two sets of features."""
    return frechet_distance(*mean_and_covariance(real), *mean_and_covariance(fake))


def kernel_distance(real: Any, fake: Any, *, degree: int = 3) -> Estimate:
    """Squared maximum mean discrepancy, unbiased, of the kernel `(x.y / D + 1)^degree`, with its standard error.

    The U-statistic of Gretton et al. 2012 (eq. 3) with the kernel of KID (Binkowski et al. 2018); it may be below zero
    where the two sets are alike. The standard error is the jackknife's over samples of both sets.

    Args:
        real: `[M, D]`, M >= 3.
        fake: `[N, D]`, N >= 3.
        degree: Degree of the polynomial.
    """
    x, y = as_features(real, "real", 3), as_features(fake, "fake", 3)
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"Both sets need the same features. Received: {x.shape[1]} and {y.shape[1]} numbers each")

    def kernel(a: Floats, b: Floats) -> Floats:
        return np.asarray((a @ b.T / a.shape[1] + 1.0) ** degree)

    xx, yy, xy = kernel(x, x), kernel(y, y), kernel(x, y)
    np.fill_diagonal(xx, 0.0)
    np.fill_diagonal(yy, 0.0)
    m, n = len(x), len(y)
    sum_xx, sum_yy, sum_xy = xx.sum(), yy.sum(), xy.sum()
    value = sum_xx / (m * (m - 1)) + sum_yy / (n * (n - 1)) - 2 * sum_xy / (m * n)
    without_x = (
        (sum_xx - 2 * xx.sum(axis=1)) / ((m - 1) * (m - 2))
        + sum_yy / (n * (n - 1))
        - 2 * (sum_xy - xy.sum(axis=1)) / ((m - 1) * n)
    )
    without_y = (
        sum_xx / (m * (m - 1))
        + (sum_yy - 2 * yy.sum(axis=1)) / ((n - 1) * (n - 2))
        - 2 * (sum_xy - xy.sum(axis=0)) / (m * (n - 1))
    )
    variance = (m - 1) / m * np.square(without_x - without_x.mean()).sum()
    variance += (n - 1) / n * np.square(without_y - without_y.mean()).sum()
    return Estimate(float(value), float(np.sqrt(variance)))


def centred_kernel_distance(real: Any, fake: Any) -> Estimate:
    """`kernel_distance` of features about the mean of the real ones: the kernel looks from the origin."""
    centre = np.mean(real, axis=0)
    return kernel_distance(real - centre, fake - centre)


def inception_score(probabilities: Any, splits: int = 10) -> Estimate:
    """Inception score, `exp(mean KL(p(y|x) || p(y)))` (Salimans et al. 2016), mean and standard error over splits.

    Args:
        probabilities: `[N, K]`, rows that sum to one.
        splits: Parts of equal size, in order; each has a marginal of its own.

    Raises:
        ValueError: The rows are no probabilities, or there are fewer than `splits` of them.
    """
    p = as_features(probabilities, "probabilities", max(1, splits))
    if (p < 0).any() or not np.allclose(p.sum(axis=1), 1.0, atol=1e-3):
        raise ValueError("`probabilities` must have rows of non-negative numbers that sum to one.")
    scores = []
    for part in np.array_split(p, splits):
        marginal = part.mean(axis=0)
        with np.errstate(divide="ignore", invalid="ignore"):
            terms = np.where(part > 0, part * (np.log(part) - np.log(marginal)), 0.0)
        scores.append(np.exp(terms.sum(axis=1).mean()))
    error = float(np.std(scores, ddof=1) / np.sqrt(splits)) if splits > 1 else None
    return Estimate(float(np.mean(scores)), error)


def precision_recall(real: Any, fake: Any, neighbours: int = 3) -> tuple[float, float]:
    """Improved precision and recall (Kynkaanniemi et al. 2019).

    A set's support is the union of balls around its samples, each reaching to its k-th nearest neighbour in the set.
    Precision: share of fake samples inside the real support; recall: share of real ones inside the fake support.

    Args:
        real: `[M, D]`, M > neighbours.
        fake: `[N, D]`, N > neighbours.
        neighbours: k.
    """
    x, y = as_features(real, "real", neighbours + 1), as_features(fake, "fake", neighbours + 1)
    across = squared_distances(x, y)
    radius_x = np.partition(squared_distances(x, x), neighbours, axis=1)[:, neighbours]  # Itself is the nearest.
    radius_y = np.partition(squared_distances(y, y), neighbours, axis=1)[:, neighbours]
    precision = (across <= radius_x[:, None]).any(axis=0).mean()
    recall = (across <= radius_y[None, :]).any(axis=1).mean()
    return float(precision), float(recall)


def squared_distances(a: Floats, b: Floats) -> Floats:
    """Squared Euclidean distances `[M, N]` of the rows of two arrays."""
    squared = np.square(a).sum(axis=1)[:, None] + np.square(b).sum(axis=1)[None, :] - 2.0 * a @ b.T
    if a is b:
        np.fill_diagonal(squared, 0.0)
    return np.asarray(np.clip(squared, 0.0, None))


def mean_pairwise_distance(vectors: Any) -> Floats:
    """Mean Euclidean distance of all pairs of vectors: `[..., N, D]` becomes `[...]`; 0 for a single vector.

    Of a single set of more than `MANY` vectors the distances come from inner products: those below a millionth of the
    largest vector (about the mean) count as 0.
    """
    array = np.asarray(vectors, np.float64)
    number = array.shape[-2]
    total = np.zeros(array.shape[:-2])
    if number < 2:
        return total
    if array.ndim == 2 and number > MANY:
        total += _distances_by_products(array - array.mean(axis=0)) / 2
    else:
        for shift in range(1, number):  # One diagonal at a time: exact differences, in little memory.
            difference = array[..., shift:, :] - array[..., :-shift, :]
            total += np.sqrt(np.square(difference).sum(axis=-1)).sum(axis=-1)
    return total / (number * (number - 1) / 2)


def _distances_by_products(vectors: Floats) -> float:
    """Sum of the distances of all ordered pairs of `[N, D]`."""
    rounding = 1e-12 * np.square(vectors).sum(axis=1).max()
    total = 0.0
    for first in range(0, len(vectors), _ROWS):
        squared = squared_distances(vectors[first : first + _ROWS], vectors)
        total += np.sqrt(np.where(squared > rounding, squared, 0.0)).sum()
    return total


def mean_and_error(values: Any) -> Estimate:
    """Mean of independent values and the standard error of the mean."""
    array = np.asarray(values, np.float64)
    error = float(array.std(ddof=1) / np.sqrt(len(array))) if len(array) > 1 else None
    return Estimate(float(array.mean()), error)
