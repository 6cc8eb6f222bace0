"""Promises of the statistics: each against an oracle that is written differently."""

import itertools

import numpy as np
import pytest
import scipy.linalg

from mocogan_tf.metrics import statistics

rng = np.random.default_rng(0)


def correlated(number, size, shift=0.0):
    return rng.normal(size=(number, size)) @ rng.normal(size=(size, size)) + shift


def test_frechet_distance_of_diagonal_gaussians_is_known_in_closed_form():
    mean_a, mean_b = np.array([0.0, 1.0]), np.array([3.0, 1.0])
    std_a, std_b = np.array([1.0, 2.0]), np.array([2.0, 0.5])
    value = statistics.frechet_distance(mean_a, np.diag(std_a**2), mean_b, np.diag(std_b**2))
    np.testing.assert_allclose(value, 9 + 1 + 2.25, rtol=1e-12)


@pytest.mark.parametrize("size", [2, 9, 40])
def test_frechet_distance_of_full_covariances_is_that_of_scipys_root(size):
    (mean_a, covariance_a), (mean_b, covariance_b) = (
        statistics.mean_and_covariance(correlated(4 * size, size, shift)) for shift in (0.0, 0.7)
    )
    root = scipy.linalg.sqrtm(covariance_a @ covariance_b)
    expected = np.square(mean_a - mean_b).sum() + np.trace(covariance_a + covariance_b - 2 * root.real)
    value = statistics.frechet_distance(mean_a, covariance_a, mean_b, covariance_b)
    np.testing.assert_allclose(value, expected, rtol=1e-8)


def test_frechet_distance_is_zero_for_one_set_and_symmetric_and_holds_for_singular_covariances():
    a, b = correlated(10, 30), correlated(12, 30, 1.0)  # Fewer samples than features: singular.
    assert statistics.frechet(a, a) < 1e-6 * np.square(a).sum()
    np.testing.assert_allclose(statistics.frechet(a, b), statistics.frechet(b, a), rtol=1e-6)
    line = np.linspace(0, 1, 10)[:, None] * np.ones(3)
    np.testing.assert_allclose(statistics.frechet(line, line + [1, 2, 2]), 9.0, rtol=1e-9)


def test_covariance_divides_by_n_minus_1():
    features = correlated(7, 3)
    mean, covariance = statistics.mean_and_covariance(features)
    np.testing.assert_allclose(mean, features.mean(0))
    np.testing.assert_allclose(covariance, np.cov(features, rowvar=False, ddof=1), rtol=1e-12)


def direct_kernel_distance(x, y):
    def kernel(a, b):
        return (sum(p * q for p, q in zip(a, b, strict=True)) / len(a) + 1) ** 3

    within_x = [kernel(a, b) for i, a in enumerate(x) for j, b in enumerate(x) if i != j]
    within_y = [kernel(a, b) for i, a in enumerate(y) for j, b in enumerate(y) if i != j]
    return np.mean(within_x) + np.mean(within_y) - 2 * np.mean([kernel(a, b) for a in x for b in y])


def test_kernel_distance_is_the_double_loop_and_its_error_the_jackknife():
    x, y = rng.normal(size=(9, 4)), rng.normal(size=(7, 4)) + 0.5
    estimate = statistics.kernel_distance(x, y)
    np.testing.assert_allclose(estimate.value, direct_kernel_distance(x, y), rtol=1e-10)
    without_x = np.array([direct_kernel_distance(np.delete(x, i, 0), y) for i in range(9)])
    without_y = np.array([direct_kernel_distance(x, np.delete(y, i, 0)) for i in range(7)])
    variance = 8 / 9 * ((without_x - without_x.mean()) ** 2).sum() + 6 / 7 * ((without_y - without_y.mean()) ** 2).sum()
    np.testing.assert_allclose(estimate.std_error, np.sqrt(variance), rtol=1e-8)


def test_kernel_distance_is_unbiased_and_its_error_says_how_far_it_strays():
    estimates = [statistics.kernel_distance(rng.normal(size=(40, 3)), rng.normal(size=(40, 3))) for _ in range(200)]
    values = np.array([estimate.value for estimate in estimates])
    assert abs(values.mean()) < 4 * values.std() / np.sqrt(len(values))
    assert (values < 0).any()
    ratio = np.mean([estimate.std_error for estimate in estimates]) / values.std()
    assert 0.6 < ratio < 2.0


def test_inception_score_of_uniform_rows_is_1_and_of_even_one_hot_rows_the_number_of_classes():
    assert statistics.inception_score(np.full((20, 5), 0.2), splits=2).value == pytest.approx(1.0)
    even = np.eye(5)[np.arange(20) % 5]
    assert statistics.inception_score(even, splits=2).value == pytest.approx(5.0)
    assert statistics.inception_score(np.eye(5)[np.zeros(20, int)], splits=2).value == pytest.approx(1.0)


def test_inception_score_of_a_case_computed_by_hand():
    # Marginal (1/2, 1/2); KL of both rows is 3/4 ln(3/2) + 1/4 ln(1/2).
    value = statistics.inception_score([[0.75, 0.25], [0.25, 0.75]], splits=1)
    assert value.value == pytest.approx(np.exp(0.75 * np.log(1.5) + 0.25 * np.log(0.5)))
    assert value.std_error is None


def test_inception_score_averages_over_splits_and_gives_their_standard_error():
    probabilities = np.concatenate([np.eye(2)[[0, 1] * 2], np.full((4, 2), 0.5)])  # One half scores 2, the other 1.
    estimate = statistics.inception_score(probabilities, splits=2)
    assert estimate.value == pytest.approx(1.5)
    assert estimate.std_error == pytest.approx(np.std([1, 2], ddof=1) / np.sqrt(2))


@pytest.mark.parametrize("rows", [[[0.7, 0.7]], [[1.5, -0.5]]])
def test_inception_score_refuses_what_is_no_distribution(rows):
    with pytest.raises(ValueError, match="sum to one"):
        statistics.inception_score(rows * 3, splits=1)


def direct_precision(real, fake, k):
    def radius(i):
        return sorted(np.linalg.norm(real[i] - other) for j, other in enumerate(real) if j != i)[k - 1]

    inside = [any(np.linalg.norm(f - r) <= radius(i) for i, r in enumerate(real)) for f in fake]
    return np.mean(inside)


def test_precision_and_recall_are_the_loop_over_balls():
    real, fake = rng.normal(size=(25, 2)), rng.normal(size=(20, 2)) + 1.5
    precision, recall = statistics.precision_recall(real, fake, neighbours=3)
    assert precision == direct_precision(real, fake, 3)
    assert recall == direct_precision(fake, real, 3)
    assert 0 < precision < 1 and 0 < recall < 1


def test_a_generator_of_one_clip_has_precision_but_no_recall():
    real = rng.normal(size=(50, 3))
    precision, recall = statistics.precision_recall(real, np.repeat(real[:1], 50, axis=0))
    assert precision == 1.0
    assert recall <= 0.02


def test_mean_pairwise_distance_is_the_loop_over_pairs():
    vectors = rng.normal(size=(3, 6, 4))
    loop = [[np.linalg.norm(a - b) for a, b in itertools.combinations(clip, 2)] for clip in vectors]
    np.testing.assert_allclose(statistics.mean_pairwise_distance(vectors), np.mean(loop, axis=1), rtol=1e-12)
    assert statistics.mean_pairwise_distance(vectors[0, :1]) == 0.0


@pytest.mark.parametrize("bad", [np.zeros((1, 3)), np.zeros(5), np.full((4, 2), np.nan)])
def test_features_must_be_finite_and_enough(bad):
    with pytest.raises(ValueError, match="features"):
        statistics.mean_and_covariance(bad)


@pytest.mark.parametrize("number", [statistics.MANY + 1, 3 * statistics.MANY])
def test_distances_of_many_vectors_are_those_of_their_differences(number, monkeypatch):
    monkeypatch.setattr(statistics, "_ROWS", 50)
    vectors = 1000 + rng.normal(size=(number, 20))
    differences = [np.linalg.norm(vectors[i] - vectors[j]) for i in range(number) for j in range(i)]
    assert statistics.mean_pairwise_distance(vectors) == pytest.approx(np.mean(differences), rel=1e-9)


def test_equal_vectors_have_no_distance_however_many():
    vectors = np.tile(rng.normal(size=(1, 50)), (200, 1))
    assert statistics.mean_pairwise_distance(vectors) == 0.0
    vectors[100:] += 3.0
    assert statistics.mean_pairwise_distance(vectors) == pytest.approx(3 * np.sqrt(50) * 100 * 100 / (100 * 199))
