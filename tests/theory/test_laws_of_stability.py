"""The laws of retraining without sampling noise against the table, weighted points and reference implementations."""

import itertools
import math

import numpy as np
import pytest
from scipy import special, stats
from sklearn.decomposition import PCA

from collapse.theory import stability
from collapse.theory.stability import GaussianLaw

RTOL = 1e-6
REAL = GaussianLaw(np.array([1.0, -2.0]), np.array([[2.0, 0.6], [0.6, 1.0]]))
INITIAL = GaussianLaw(np.array([4.0, 1.0]), np.array([[0.5, -0.2], [-0.2, 3.0]]))
NUCLEUS = [0.35, 0.25, 0.2, 0.12, 0.08]


def near(expected, rel=RTOL):
    return pytest.approx(expected, rel=rel, abs=0)


# --- B1: mixed objective --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lam", "times", "mean", "covariance"),
    [(0.5, 3, 0.03703703704, 1.146776406), (2, 10, 0.01734152992, 1.069065391)],
    ids=["B1.1", "B1.2"],
)
def test_retraining_rows(lam, times, mean, covariance):
    law = stability.retraining_law(GaussianLaw([0.0], [[1.0]]), GaussianLaw([1.0], [[4.0]]), lam=lam, times=times)
    assert law.mean == near(np.array([mean]))
    assert law.covariance == near(np.array([[covariance]]))


def sigma_points(law):
    """2 D points of equal weight with the moments of a law."""
    steps = math.sqrt(len(law.mean)) * np.linalg.cholesky(law.covariance).T
    return np.concatenate([law.mean + steps, law.mean - steps])


@pytest.mark.parametrize("lam", [0.0, 0.3, 1.0, 7.0])
def test_retraining_is_a_fit_to_weighted_points(lam):
    law = INITIAL
    for times in range(6):
        expected = stability.retraining_law(REAL, INITIAL, lam=lam, times=times)
        assert law.mean == near(expected.mean, 1e-12)
        assert law.covariance == near(expected.covariance, 1e-12)
        points = np.concatenate([sigma_points(REAL), sigma_points(law)])
        weights = np.repeat([1.0, lam], 4)
        law = GaussianLaw(np.average(points, axis=0, weights=weights), np.cov(points.T, aweights=weights, ddof=0))


@pytest.mark.parametrize("lam", [0.4, 0.6, 5.0, 50.0])
def test_every_finite_ratio_is_stable(lam):
    assert stability.retraining_contraction(lam) == near(lam / (1 + lam))
    fixed = stability.retraining_law(REAL, REAL, lam=lam, times=7)
    late = stability.retraining_law(REAL, INITIAL, lam=lam, times=2000)
    for law in (fixed, late):
        assert np.allclose(law.mean, REAL.mean, rtol=1e-12)
        assert np.allclose(law.covariance, REAL.covariance, rtol=1e-12)
    one, two = (stability.retraining_law(REAL, INITIAL, lam=lam, times=s).mean - REAL.mean for s in (4, 5))
    assert two == near(stability.retraining_contraction(lam) * one)


# --- D2: probabilistic PCA ------------------------------------------------------------------------------------------


def test_pca_rows():
    real = np.diag([3.0, 2.0, 1.0, 0.5])
    assert stability.ppca_expected_trace(5, 12, covariance=real) == near(4.206981)
    assert stability.ppca_mean_square_error(5, 12, covariance=real) == near(2.293019)
    assert stability.ppca_noise_variance(real, 2) == near(0.75)
    once = stability.ppca_covariance(real, 2)
    assert once == pytest.approx(np.diag([3.0, 2.0, 0.75, 0.75]), abs=1e-12)
    assert stability.ppca_covariance(once, 2) == pytest.approx(once, abs=1e-12)


@pytest.mark.parametrize("latent_dim", [1, 2, 4])
def test_pca_is_that_of_the_reference_implementation(latent_dim):
    points = np.random.default_rng(0).normal(size=(40, 5)) @ np.random.default_rng(1).normal(size=(5, 5))
    reference = PCA(latent_dim, svd_solver="full").fit(points)
    covariance = np.cov(points.T)
    fitted = stability.ppca_covariance(covariance, latent_dim)
    assert fitted == pytest.approx(reference.get_covariance(), abs=1e-10)
    assert stability.ppca_noise_variance(covariance, latent_dim) == near(reference.noise_variance_, 1e-10)
    assert np.trace(fitted) == near(np.trace(covariance), 1e-12)  # hence the law of the trace, for finite n
    assert stability.ppca_covariance(fitted, latent_dim) == pytest.approx(fitted, abs=1e-10)


def test_pca_without_latent_variables_is_isotropic():
    assert stability.ppca_covariance(REAL.covariance, 0) == pytest.approx(1.5 * np.eye(2), abs=1e-12)


def test_the_trace_that_is_lost_is_found_in_the_mean():
    for t in (1, 4, 100):
        trace = stability.ppca_expected_trace(t, 6, covariance=REAL.covariance)
        assert trace + stability.ppca_mean_square_error(t, 6, covariance=REAL.covariance) == near(3.0, 1e-12)


# --- D3: temperature ------------------------------------------------------------------------------------------------


def test_temperature_row():
    p = stability.temperature_probabilities([0.5, 0.3, 0.2], 0.8, times=4)
    assert p == near(np.array([0.7173077665, 0.2061021913, 0.0765900422]))
    assert stats.entropy(p) == near(0.7606219346)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.7])
def test_temperature_applied_twice_is_a_softmax_of_a_softmax(temperature):
    p = np.array([0.1, 0.0, 0.4, 0.3, 0.2])
    with np.errstate(divide="ignore"):
        once = special.softmax(np.log(p) / temperature)
        twice = special.softmax(np.log(once) / temperature)
    assert stability.temperature_probabilities(p, temperature) == near(once, 1e-12)
    assert stability.temperature_probabilities(p, temperature, times=2) == near(twice, 1e-12)
    assert stability.temperature_probabilities(p, temperature, times=0) == near(p, 1e-12)


def test_temperature_ends_at_the_modes_or_at_the_uniform_law():
    p = [0.3, 0.3, 0.25, 0.15, 0.0]
    assert stability.temperature_probabilities(p, 0.5, times=3000) == near(np.array([0.5, 0.5, 0, 0, 0]))
    assert stability.temperature_probabilities(p, 2.0, times=3000) == near(np.array([1, 1, 1, 1, 0]) / 4)


# --- D3: truncation -------------------------------------------------------------------------------------------------


def test_nucleus_row():
    supports = [int(np.sum(stability.nucleus_probabilities(NUCLEUS, 0.7, times=s) > 0)) for s in (1, 2, 3, 4)]
    assert supports == [3, 2, 2, 2]
    assert stability.nucleus_probabilities(NUCLEUS, 0.7, times=4).max() == near(0.5833333333)


@pytest.mark.parametrize("top_p", [0.05, 0.35, 0.6, 0.8, 0.93, 1.0])
def test_nucleus_is_the_smallest_set_with_the_mass(top_p):
    p = np.array([0.2, 0.08, 0.35, 0.12, 0.25])
    sets = [kept for size in range(1, 6) for kept in itertools.combinations(range(5), size)]
    enough = [kept for kept in sets if math.fsum(p[list(kept)]) >= top_p - 1e-9]
    size = min(map(len, enough))
    best = max((kept for kept in enough if len(kept) == size), key=lambda kept: p[list(kept)].sum())
    expected = np.where(np.isin(np.arange(5), best), p, 0)
    assert stability.nucleus_probabilities(p, top_p) == near(expected / expected.sum(), 1e-12)


def test_nucleus_counts_a_sum_of_decimals_as_what_it_says():
    tenths = np.full(10, 0.1)
    assert np.cumsum(tenths)[7] < 0.8  # in floating point
    assert np.sum(stability.nucleus_probabilities(tenths, 0.8) > 0) == 8


def test_nucleus_drops_what_is_never_drawn_and_nothing_else():
    assert stability.nucleus_probabilities([0.5, 0.0, 0.5], 1.0, times=9) == near(np.array([0.5, 0, 0.5]))


def test_equal_categories_are_kept_in_their_order():
    assert stability.nucleus_probabilities([0.25] * 4, 0.5) == near(np.array([0.5, 0.5, 0, 0]))
    assert stability.top_k_probabilities([0.25] * 4, 3) == near(np.array([1, 1, 1, 0]) / 3)


@pytest.mark.parametrize("k", [1, 2, 4, 5, 9])
def test_top_k_is_idempotent(k):
    once = stability.top_k_probabilities([0.2, 0.08, 0.35, 0.12, 0.25], k)
    expected = np.where(np.isin(np.arange(5), [2, 4, 0, 3, 1][:k]), [0.2, 0.08, 0.35, 0.12, 0.25], 0)
    assert once == near(expected / expected.sum(), 1e-12)
    assert stability.top_k_probabilities(once, k) == near(once, 1e-12)


# --- arguments ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: stability.retraining_contraction(-0.1), "lam must be a finite ratio"),
        (lambda: stability.retraining_contraction(math.inf), "lam must be a finite ratio.*replace law"),
        (lambda: stability.retraining_law(REAL, INITIAL, lam=1.0, times=-1), "times must be at least 0"),
        (lambda: stability.retraining_law(REAL, GaussianLaw([0.0], [[1.0]]), lam=1.0, times=1), "same dimension"),
        (lambda: stability.retraining_law(REAL, GaussianLaw([0.0], np.eye(2)), lam=1.0, times=1), "the mean must have"),
        (lambda: stability.retraining_law(REAL, GaussianLaw([0, 0], np.zeros((2, 2))), lam=1, times=1), "definite"),
        (lambda: stability.ppca_covariance(np.eye(3), 3), "latent_dim must lie in \\[0, 3\\)"),
        (lambda: stability.ppca_noise_variance(np.zeros((2, 2)), 1), "positive definite"),
        (lambda: stability.ppca_expected_trace(0, 5, covariance=np.eye(2)), "t counts model fits"),
        (lambda: stability.ppca_mean_square_error(1, 1, covariance=np.eye(2)), "at least 2"),
        (lambda: stability.temperature_probabilities([0.5, 0.5], 0.0), "temperature must be positive"),
        (lambda: stability.temperature_probabilities([0.5, 0.6], 1.0), "sum to one"),
        (lambda: stability.temperature_probabilities([0.5, 0.5], 1.0, times=-1), "times must be at least 0"),
        (lambda: stability.nucleus_probabilities([0.5, 0.5], 0.0), "top_p must lie in"),
        (lambda: stability.nucleus_probabilities([], 0.5), "a vector"),
        (lambda: stability.nucleus_probabilities([0.5, 0.5], 0.5, times=-1), "times must be at least 0"),
        (lambda: stability.top_k_probabilities([1.0], 0), "k must be at least 1"),
    ],
)
def test_arguments_out_of_range_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
