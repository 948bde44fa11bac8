"""The expectations of metrics against the table, numerical integration and enumeration."""

import itertools
import math

import numpy as np
import pytest
from scipy import integrate, special, stats

from collapse.theory import metric_laws
from collapse.theory._special import chi_square_grid, chi_square_quantile, chi_square_tail, normal_tail
from collapse.theory.stability import GaussianLaw

RTOL = 1e-6
FIRST = GaussianLaw(np.array([0.0, 0.0]), np.array([[2.0, 0.5], [0.5, 1.0]]))
SECOND = GaussianLaw(np.array([1.0, -1.0]), np.array([[1.0, -0.3], [-0.3, 1.5]]))
SHIFT = np.array([1.0, 2.0, 0.0])
DIAGONAL = np.diag([1.0, 2.0, 3.0])


def near(expected, rel=RTOL):
    return pytest.approx(expected, rel=rel, abs=0)


# --- M2, M13: floors ------------------------------------------------------------------------------------------------


def test_floor_rows():
    assert metric_laws.uniform_w2_floor(16) == near(0.01960784)  # M2.unif
    assert metric_laws.frechet_floor(25, ddof=1) == near(0.1212239)  # M13.fdbias


@pytest.mark.parametrize("n", [1, 2, 7, 100])
def test_uniform_floor_is_the_variance_of_the_order_statistics(n):
    rank = np.arange(1, n + 1)
    assert metric_laws.uniform_w2_floor(n) == near(2 * stats.beta(rank, n + 1 - rank).var().mean(), 1e-12)


@pytest.mark.parametrize("ddof", [0, 1])
@pytest.mark.parametrize(("n", "m"), [(5, None), (4, 30), (30, 4), (2, 2)])
def test_frechet_floor_has_the_moments_of_the_chi_law(n, m, ddof):
    other = n if m is None else m
    stds = [np.sqrt(3.0 / (size - ddof)) for size in (n, other)]
    first, second = (stats.chi(size - 1) for size in (n, other))
    spread = (stds[0] ** 2) * first.moment(2) + (stds[1] ** 2) * second.moment(2)
    expected = 3 / n + 3 / other + spread - 2 * stds[0] * stds[1] * first.mean() * second.mean()
    assert metric_laws.frechet_floor(n, m=m, ddof=ddof, variance=3.0) == near(expected, 1e-10)


def test_frechet_floor_is_three_over_n():
    for ddof in (0, 1):
        assert 10_000 * metric_laws.frechet_floor(10_000, ddof=ddof) == near(3, 1e-3)


# --- M3: sliced Wasserstein -----------------------------------------------------------------------------------------


def test_sliced_rows():
    assert metric_laws.gaussian_sliced_w2(FIRST, SECOND) == near(1.120190317)  # M3.sw2
    scaled = GaussianLaw(SHIFT, 0.25 * DIAGONAL)
    assert metric_laws.gaussian_sliced_w2(GaussianLaw(0 * SHIFT, DIAGONAL), scaled) == near(2.166666667)  # M3.scaled


def sliced_integrand(theta, first, second):
    spread = math.sqrt(theta @ first.covariance @ theta) - math.sqrt(theta @ second.covariance @ theta)
    return (theta @ (first.mean - second.mean)) ** 2 + spread**2


@pytest.mark.parametrize(
    "second",
    [SECOND, GaussianLaw(SECOND.mean, 2 * FIRST.covariance), GaussianLaw(FIRST.mean, np.diag([1e-6, 1.0]))],
    ids=["generic", "scaled", "thin"],
)
def test_sliced_distance_in_the_plane_is_the_integral_over_angles(second):
    def integrand(angle):
        return sliced_integrand(np.array([math.cos(angle), math.sin(angle)]), FIRST, second) / math.pi

    expected = integrate.quad(integrand, -math.pi / 2, math.pi / 2, points=[0, -1e-2, 1e-2], limit=500, epsabs=1e-12)[0]
    assert metric_laws.gaussian_sliced_w2(FIRST, second) == near(expected, 1e-9)


def test_sliced_distance_in_space_is_the_integral_over_the_sphere():
    covariance = np.array([[1.0, 0.3, 0.0], [0.3, 2.0, -0.5], [0.0, -0.5, 3.0]])
    first, second = GaussianLaw(0 * SHIFT, covariance), GaussianLaw(SHIFT, 0.49 * covariance)

    def integrand(height, angle):  # uniform in height and angle
        radius = math.sqrt(1 - height**2)
        theta = np.array([radius * math.cos(angle), radius * math.sin(angle), height])
        return sliced_integrand(theta, first, second) / (4 * math.pi)

    expected = integrate.dblquad(integrand, 0, 2 * math.pi, -1, 1)[0]
    assert metric_laws.gaussian_sliced_w2(first, second) == near(expected, 1e-8)


def test_sliced_distance_on_the_line_is_the_wasserstein_distance():
    distance = metric_laws.gaussian_sliced_w2(GaussianLaw([1.0], [[4.0]]), GaussianLaw([-2.0], [[0.25]]))
    assert distance == near(3**2 + 1.5**2, 1e-12)
    assert metric_laws.gaussian_sliced_w2(FIRST, FIRST) == pytest.approx(0, abs=1e-15)


# --- M4: maximum mean discrepancy -----------------------------------------------------------------------------------


def test_discrepancy_rows():  # M4.mmd
    assert metric_laws.gaussian_mmd2(FIRST, SECOND, bandwidth=1.0) == near(0.1569969)
    assert metric_laws.gaussian_mmd2(FIRST, SECOND, bandwidth=1.0, n=20, m=30) == near(0.217197)


def grid(law):
    """Gauss-Hermite points and weights of a bivariate normal law."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(40)
    points = np.stack(np.meshgrid(nodes, nodes), axis=-1).reshape(-1, 2) @ np.linalg.cholesky(law.covariance).T
    return law.mean + points, np.outer(weights, weights).ravel() / (2 * math.pi)


def expected_kernel(first, second, bandwidth):
    (x, p), (y, q) = grid(first), grid(second)
    squares = np.sum(x**2, 1)[:, None] + np.sum(y**2, 1) - 2 * x @ y.T
    return p @ np.exp(-squares / (2 * bandwidth**2)) @ q


@pytest.mark.parametrize("bandwidth", [1.0, 2.5])
def test_discrepancy_is_the_integral_of_the_kernel(bandwidth):
    xx, yy, xy = (expected_kernel(*pair, bandwidth) for pair in ((FIRST, FIRST), (SECOND, SECOND), (FIRST, SECOND)))
    assert metric_laws.gaussian_mmd2(FIRST, SECOND, bandwidth=bandwidth) == near(xx + yy - 2 * xy, 1e-7)
    # one point each: the pairs within a set are the points with themselves
    assert metric_laws.gaussian_mmd2(FIRST, SECOND, bandwidth=bandwidth, n=1, m=1) == near(2 - 2 * xy, 1e-7)
    partly = xx + yy - 2 * xy + (1 - xx) / 4
    assert metric_laws.gaussian_mmd2(FIRST, SECOND, bandwidth=bandwidth, n=4) == near(partly, 1e-7)


def test_discrepancy_of_equal_laws_is_bias_only():
    assert metric_laws.gaussian_mmd2(FIRST, FIRST, bandwidth=0.7) == 0
    assert metric_laws.gaussian_mmd2(FIRST, FIRST, bandwidth=0.7, n=9, m=9) > 0.1


# --- M7: density and coverage ---------------------------------------------------------------------------------------


def test_neighbor_row():  # M7.identical
    assert metric_laws.identical_laws_neighbors(20, 30, k=5) == near((1, 0.9939021))


@pytest.mark.parametrize(("n_real", "n_synthetic", "k"), [(2, 1, 1), (5, 3, 1), (6, 4, 3), (4, 7, 3)])
def test_neighbors_are_every_order_of_distances(n_real, n_synthetic, k):
    """Seen from one real point, all orders of the others' distances are equally likely."""
    others = n_real - 1 + n_synthetic
    inside = []  # synthetic points nearer than the k-th real one
    for real in itertools.combinations(range(others), n_real - 1):
        inside.append(real[k - 1] - (k - 1))
    coverage = np.mean(np.array(inside) > 0)
    density = n_real * np.mean(inside) / (k * n_synthetic)
    expected = metric_laws.identical_laws_neighbors(n_real, n_synthetic, k=k)
    assert expected == near((density, coverage), 1e-12)


# --- M10: Epps-Pulley -----------------------------------------------------------------------------------------------

EPPS_PULLEY_ROWS = {
    "M10.null": ({}, 0.4226497),
    "M10.shrunk": ({"variance": 0.25}, 3.209179),
    "M10.shifted": ({"mean": 0.5}, 2.778848),
}


@pytest.mark.parametrize("row", EPPS_PULLEY_ROWS)
def test_epps_pulley_rows(row):
    options, expected = EPPS_PULLEY_ROWS[row]
    assert metric_laws.epps_pulley_expectation(50, **options) == near(expected)


@pytest.mark.parametrize(("mean", "variance"), [(0.0, 1.0), (0.7, 0.3), (-2.0, 4.0), (0.5, 0.0)])
@pytest.mark.parametrize("n", [1, 12])
def test_epps_pulley_is_the_integral_over_frequencies(n, mean, variance):
    def integrand(t):
        characteristic = np.exp(1j * t * mean - variance * t**2 / 2)
        bias = (1 - abs(characteristic) ** 2) / n  # E|ecf|^2 - |E ecf|^2
        return n * (bias + abs(characteristic - np.exp(-(t**2) / 2)) ** 2) * stats.norm.pdf(t)

    expected = integrate.quad(integrand, -12, 12, epsabs=1e-12, limit=200)[0]
    assert metric_laws.epps_pulley_expectation(n, mean=mean, variance=variance) == near(expected, 1e-9)


def test_epps_pulley_null_value_holds_for_every_n():
    for n in (1, 10, 1000):
        assert metric_laws.epps_pulley_expectation(n) == near(1 - 1 / math.sqrt(3), 1e-10)


# --- M12: tails -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("q", "std", "dim", "mass"),
    [(0.05, 0.8, 1, 0.0142874077), (0.01, 0.9, 1, 0.004209336621), (0.05, 0.9, 10, 0.01231794652)],
)
def test_radial_tail_rows(q, std, dim, mass):  # M12.radius
    assert metric_laws.radial_tail_mass(q, std**2, dim=dim) == near(mass)


@pytest.mark.parametrize(("q", "std", "mass"), [(0.05, 0.8, 0.01988802766), (0.01, 0.9, 0.004871337347)])
def test_one_sided_tail_rows(q, std, mass):  # M12.onesided
    assert metric_laws.one_sided_tail_mass(q, std**2) == near(mass)


@pytest.mark.parametrize(("ddof", "mass"), [(1, 0.06443617), (0, 0.05379199)], ids=["ddof1", "ddof0"])
def test_first_fit_tail_rows(ddof, mass):  # M12.gen1
    assert metric_laws.first_fit_expected_tail_mass(0.05, 10, ddof=ddof) == near(mass)


@pytest.mark.parametrize("q", [1e-9, 0.02, 0.9])
def test_tails_agree_with_scipy(q):
    for dim, variance in itertools.product((1, 2, 64), (0.3, 1.0, 2.0)):
        expected = stats.chi2(dim).sf(stats.chi2(dim).isf(q) / variance)
        assert metric_laws.radial_tail_mass(q, variance, dim=dim) == near(expected, 1e-7)
    for mean, variance in itertools.product((-0.5, 0.0, 2.0), (0.3, 1.0)):
        expected = stats.norm(mean, math.sqrt(variance)).sf(stats.norm.isf(q))
        assert metric_laws.one_sided_tail_mass(q, variance, mean=mean) == near(expected, 1e-9)


@pytest.mark.parametrize("q", [0.05, 1e-4])
@pytest.mark.parametrize("ddof", [0, 1])
@pytest.mark.parametrize("n", [2, 3, 30])
def test_first_fit_tail_is_the_integral_over_fits(n, ddof, q):
    bound, law = stats.norm.isf(q / 2), stats.chi(n - 1)

    def integrand(root):
        spread = math.sqrt(1 / n + root**2 / (n - ddof))
        return law.pdf(root) * 2 * stats.norm.sf(bound / spread)

    expected = integrate.quad(integrand, 0, 16, epsabs=0, epsrel=1e-10, limit=200)[0]
    value = metric_laws.first_fit_expected_tail_mass(q, n, ddof=ddof)
    assert value == near(expected, 1e-9)
    assert value > q  # the tails of a first fit are too heavy, in expectation


def test_first_fit_tail_tends_to_the_real_one():
    assert metric_laws.first_fit_expected_tail_mass(0.05, 10**6, ddof=0) == near(0.05, 1e-5)


@pytest.mark.parametrize("degrees", [1, 3, 2048])
def test_chi_square_functions_agree_with_scipy(degrees):
    law = stats.chi2(degrees)
    for q in (0.999, 0.5, 1e-3, 1e-12):
        quantile = chi_square_quantile(q, degrees)
        assert quantile == near(law.isf(q), 1e-10)
        assert chi_square_tail(quantile, degrees) == near(q, 1e-12)
    assert chi_square_tail(0.0, degrees) == 1


@pytest.mark.parametrize("degrees", [1, 2, 9, 100_000])
def test_chi_square_grid_has_the_moments_of_the_law(degrees):
    points, weights = chi_square_grid(degrees)
    law = stats.chi2(degrees)
    assert [weights.sum(), weights @ points, weights @ points**2] == near([1, degrees, law.moment(2)], 1e-12)
    assert weights @ np.log(points) == pytest.approx(special.digamma(degrees / 2) + math.log(2), rel=1e-12)


def test_normal_tail_keeps_its_digits():
    assert [normal_tail(z) for z in (-3.0, 0.0, 5.0, 30.0)] == near(stats.norm.sf([-3.0, 0.0, 5.0, 30.0]), 1e-12)


# --- arguments ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: metric_laws.uniform_w2_floor(0), "n must be at least 1"),
        (lambda: metric_laws.frechet_floor(1, ddof=0), "at least 2"),
        (lambda: metric_laws.frechet_floor(5, m=1, ddof=0), "at least 2"),
        (lambda: metric_laws.frechet_floor(5, ddof=1, variance=0.0), "variance must be positive"),
        (lambda: metric_laws.gaussian_sliced_w2(FIRST, GaussianLaw(SHIFT, DIAGONAL)), "same dimension, got 2 and 3"),
        (lambda: metric_laws.gaussian_sliced_w2(FIRST, GaussianLaw(SHIFT, FIRST.covariance)), "the mean must have"),
        (lambda: metric_laws.gaussian_sliced_w2(FIRST, GaussianLaw([0, 0], np.zeros((2, 2)))), "positive definite"),
        (
            lambda: metric_laws.gaussian_sliced_w2(GaussianLaw(SHIFT, DIAGONAL), GaussianLaw(SHIFT, np.eye(3))),
            "proportional above dimension 2, got 3",
        ),
        (lambda: metric_laws.gaussian_mmd2(FIRST, SECOND, bandwidth=0.0), "bandwidth must be positive"),
        (lambda: metric_laws.gaussian_mmd2(FIRST, SECOND, bandwidth=1.0, n=0), "n must be at least 1"),
        (lambda: metric_laws.gaussian_mmd2(FIRST, SECOND, bandwidth=1.0, m=0), "m must be at least 1"),
        (lambda: metric_laws.identical_laws_neighbors(5, 5, k=5), "n_real must be at least 6"),
        (lambda: metric_laws.identical_laws_neighbors(5, 0, k=1), "n_synthetic must be at least 1"),
        (lambda: metric_laws.identical_laws_neighbors(5, 5, k=0), "k must be at least 1"),
        (lambda: metric_laws.epps_pulley_expectation(0), "n must be at least 1"),
        (lambda: metric_laws.epps_pulley_expectation(5, variance=-1.0), "variance must be at least 0"),
        (lambda: metric_laws.radial_tail_mass(0.0, 1.0), "q must lie in \\(0, 1\\)"),
        (lambda: metric_laws.radial_tail_mass(0.1, 0.0), "variance must be positive"),
        (lambda: metric_laws.radial_tail_mass(0.1, 1.0, dim=0), "dim must be at least 1"),
        (lambda: metric_laws.one_sided_tail_mass(1.0, 1.0), "q must lie in"),
        (lambda: metric_laws.one_sided_tail_mass(0.1, math.inf), "variance must be positive"),
        (lambda: metric_laws.first_fit_expected_tail_mass(math.nan, 5, ddof=0), "q must lie in"),
        (lambda: metric_laws.first_fit_expected_tail_mass(0.1, 1, ddof=0), "at least 2"),
    ],
)
def test_arguments_out_of_range_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
