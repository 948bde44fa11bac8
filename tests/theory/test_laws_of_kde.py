"""The laws of density estimates trained on their own draws against the table, Gram matrices and genealogies."""

import itertools
import math
from collections import Counter

import numpy as np
import pytest
from scipy import integrate, stats

from collapse.theory import kde

RTOL = 1e-6
H = 0.3
X = [0.0, 2.0]


def near(expected, rel=RTOL):
    return pytest.approx(expected, rel=rel, abs=0)


# --- the rows of the table ------------------------------------------------------------------------------------------


def test_replace_row():  # K1
    assert kde.replace_expected_variance(10, 20, bandwidth=H) == near(1.32101)
    assert kde.replace_marginal_variance(10, bandwidth=H) == near(1.9)
    assert kde.replace_expected_density(10, X, bandwidth=H) == near(np.array([0.2894231, 0.1010139]))


@pytest.mark.parametrize(("size", "variance"), [(None, 1.184047), (20, 1.125266)], ids=["K2", "K3"])
def test_accumulate_rows(size, variance):
    assert kde.accumulate_moments(10, 20, bandwidth=H, size=size) == near((1.263607, variance))


def test_accumulate_density_row():  # K2 and K3: subsampling changes no expected density
    assert kde.accumulate_expected_density(10, X, n=20, bandwidth=H) == near(np.array([0.3558156, 0.07252267]))


def test_data_driven_row():  # K4
    assert kde.replace_scaled_expected_variance(6, 20, rule="scott") == near(3.846094)


def test_histogram_row():  # K5
    assert kde.histogram_second_moment(width=0.5) == near(1.041667)


# --- moments: the Gram matrix of every point ------------------------------------------------------------------------


def gram_moments(t, n, *, n0, size, bandwidth, variance, replace):
    """Expected second moment and variance of fit t, from the expected product of every two points of the pool."""
    gram = variance * np.eye(n0)
    for fit in range(1, t + 1):
        rows = range(len(gram) - (n0 if fit == 1 else n), len(gram)) if replace else range(len(gram))
        block = gram[np.ix_(rows, rows)]
        count = min(size, len(rows)) if size else len(rows)
        diagonal = np.trace(block) / len(rows)
        rest = (block.sum() - np.trace(block)) / max(len(rows) * (len(rows) - 1), 1)
        square = diagonal / count + rest * (count - 1) / count  # of the mean of the points of the fit
        if fit == t:
            return diagonal + bandwidth**2, diagonal - square + bandwidth**2
        cross = np.repeat(gram[rows].mean(0, keepdims=True), n, axis=0)
        draws = np.full((n, n), square) + np.eye(n) * (diagonal + bandwidth**2 - square)
        gram = np.block([[gram, cross.T], [cross, draws]])
    return None


@pytest.mark.parametrize("t", [1, 2, 5])
@pytest.mark.parametrize(("n", "n0"), [(4, None), (3, 7), (6, 2), (2, 1), (1, 3)])
def test_moments_are_those_of_the_gram_matrix(t, n, n0):
    options = {"bandwidth": 0.7, "n0": n0, "variance": 2.0}
    exact = {"n0": n0 or n, "bandwidth": 0.7, "variance": 2.0}
    _, variance = gram_moments(t, n, size=None, replace=True, **exact)
    assert kde.replace_expected_variance(t, n, **options) == near(variance, 1e-12)
    for size in (None, 1, 3, 8, 1000):
        expected = gram_moments(t, n, size=size, replace=False, **exact)
        assert kde.accumulate_moments(t, n, size=size, **options) == near(expected, 1e-12)


def test_the_variance_saturates_while_the_marginal_one_grows():
    for variance in (0.01, 1.0, 100.0):
        late = kde.replace_expected_variance(2000, 20, bandwidth=H, variance=variance)
        assert late == near(20 * H**2)  # whatever the real law
    assert kde.replace_marginal_variance(2000, bandwidth=H) == near(1 + 2000 * H**2)
    assert kde.replace_expected_variance(10**5, 1, bandwidth=H) == near(H**2)


def test_accumulating_grows_with_the_harmonic_numbers():
    for t in (1, 2, 50):
        harmonic = sum(1 / j for j in range(1, t + 1))
        assert kde.accumulate_moments(t, 7, bandwidth=H, size=3).second_moment == near(1 + H**2 * harmonic)


# --- densities: genealogies and integrals ---------------------------------------------------------------------------


def genealogies(t, n, n0):
    """Depths of a random point of the pool of fit t, counted over every choice of every parent."""
    counts = Counter()
    sizes = [n0 + n * j for j in range(t - 1) for _ in range(n)]  # a draw of fit j has a parent in the pool of fit j
    for parents in itertools.product(*map(range, sizes)):
        depths = [0] * n0
        for parent in parents:
            depths.append(depths[parent] + 1)
        counts.update(depths)
    return np.array([counts[k] for k in range(t)]) / sum(counts.values())


@pytest.mark.parametrize(("t", "n", "n0"), [(1, 3, 3), (2, 2, 2), (3, 2, 1), (3, 1, 3), (5, 1, 2)])
def test_depths_are_those_of_all_genealogies(t, n, n0):
    assert kde.accumulate_depth_probabilities(t, n, n0=n0) == near(genealogies(t, n, n0), 1e-12)


def test_depths_do_not_depend_on_equal_batches():
    assert kde.accumulate_depth_probabilities(6, 3) == near(kde.accumulate_depth_probabilities(6, 500), 1e-12)
    assert kde.accumulate_depth_probabilities(6, 3) @ np.arange(6) == near(sum(1 / j for j in range(2, 7)))


@pytest.mark.parametrize("n0", [None, 9])
def test_the_density_has_the_moments(n0):
    options = {"bandwidth": H, "n0": n0, "variance": 1.7}

    def moment(power):
        def integrand(x):
            return x**power * float(kde.accumulate_expected_density(7, x, n=4, **options))

        return integrate.quad(integrand, -15, 15, epsabs=1e-12)[0]

    assert moment(0) == near(1, 1e-10)
    assert moment(2) == near(kde.accumulate_moments(7, 4, **options).second_moment, 1e-10)


def test_the_density_of_one_fit_is_a_convolution():
    def convolution(x):
        return integrate.quad(
            lambda y: stats.norm.pdf(y, scale=2) * stats.norm.pdf(x - y, scale=H), -20, 20, points=[x]
        )

    for x in (-1.0, 0.0, 3.0):
        expected = near(convolution(x)[0], 1e-8)
        assert kde.replace_expected_density(1, x, bandwidth=H, variance=4.0) == expected
        assert kde.accumulate_expected_density(1, x, n=5, bandwidth=H, variance=4.0) == expected


def test_the_density_keeps_the_shape_of_the_points():
    points = np.arange(6.0).reshape(2, 3)
    assert kde.replace_expected_density(3, points, bandwidth=H).shape == (2, 3)
    assert kde.accumulate_expected_density(3, points, n=4, bandwidth=H).shape == (2, 3)


# --- data-driven bandwidths -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dim", [1, 3])
@pytest.mark.parametrize("rule", kde.BANDWIDTH_RULES)
def test_growth_is_that_of_the_reference_estimator(rule, dim):
    n, n0 = 12, 30
    growth = {}
    for m in (n, n0):
        points = np.random.default_rng(m).normal(size=(dim, m))
        unbiased = np.cov(points).reshape(dim, dim)
        estimate = stats.gaussian_kde(points, bw_method=rule)
        assert kde.BANDWIDTH_RULES[rule](m, dim) == near(estimate.factor, 1e-12)
        fitted = unbiased * (m - 1) / m + estimate.covariance
        growth[m] = np.trace(fitted) / np.trace(unbiased)
    expected = 3 * growth[n0] * growth[n] ** 4
    assert kde.replace_scaled_expected_variance(5, n, rule=rule, dim=dim, n0=n0, variance=3.0) == near(expected, 1e-12)


# --- histograms -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("width", "offset"), [(0.5, 0.0), (3.0, 0.4), (3.0, 30.4), (50.0, 10.0), (50.0, -1.0)])
def test_histogram_moment_is_the_integral_of_the_density(width, offset):
    law = stats.norm(scale=1.5)
    first = math.floor((-15 - offset) / width)
    edges = offset + width * np.arange(first, math.ceil((15 - offset) / width) + 1)
    integral = 0.0
    for low, high in itertools.pairwise(edges):
        density = (law.cdf(high) - law.cdf(low)) / width
        integral += density * integrate.quad(lambda x: x**2, low, high)[0]
    assert kde.histogram_second_moment(width=width, offset=offset, variance=2.25) == near(integral, 1e-10)


def test_fine_histograms_have_the_correction_of_sheppard_twice():
    for width in (0.01, 0.1):
        assert kde.histogram_second_moment(width=width, variance=4.0) == near(4 + width**2 / 6, 1e-10)


# --- arguments ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: kde.replace_marginal_variance(0, bandwidth=H), "t counts model fits"),
        (lambda: kde.replace_marginal_variance(1, bandwidth=0.0), "bandwidth must be positive"),
        (lambda: kde.replace_marginal_variance(1, bandwidth=H, variance=math.nan), "variance must be positive"),
        (lambda: kde.replace_expected_variance(1, 0, bandwidth=H), "number of points of a fit must be at least 1"),
        (lambda: kde.replace_expected_density(0, 0.0, bandwidth=H), "t counts model fits"),
        (lambda: kde.replace_scaled_expected_variance(2, 1), "number of points of a fit must be at least 2"),
        (lambda: kde.replace_scaled_expected_variance(2, 5, dim=0), "dim must be at least 1"),
        (lambda: kde.replace_scaled_expected_variance(2, 5, rule="plug-in"), "rule must be one of .*'plug-in'"),
        (lambda: kde.accumulate_depth_probabilities(0, 5), "t counts model fits"),
        (lambda: kde.accumulate_depth_probabilities(2, 5, n0=0), "number of points of a fit"),
        (lambda: kde.accumulate_expected_density(2, 0.0, n=5, bandwidth=-1.0), "bandwidth must be positive"),
        (lambda: kde.accumulate_moments(2, 5, bandwidth=H, size=0), "size must be at least 1"),
        (lambda: kde.histogram_second_moment(width=0.0), "width must be positive"),
    ],
)
def test_arguments_out_of_range_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
