"""The closed forms of collapse.theory against a table of values checked by independent simulation.

Values are printed with seven significant digits, so the relative tolerance is 1e-6. Row names are those of the table.
"""

import importlib
import inspect
import itertools
import math
import pkgutil

import numpy as np
import pytest
from scipy import integrate, optimize, special, stats

from collapse import theory
from collapse.theory import ADDITIVE, Probe, gaussian
from collapse.theory._special import chi_square_quadrature, log_gamma

RTOL = 1e-6
HALF = Probe(real=1.0, factor=0.5, shift=0.0)
COVARIANCE = np.array([[2.0, 0.6], [0.6, 1.0]])


def near(expected):
    return pytest.approx(expected, rel=RTOL, abs=0)


# --- R0, R1: probes -------------------------------------------------------------------------------------------------

PROBES = {
    "R0.replace": (lambda p: theory.replace_probe(6, p), 5, 0.03125),
    "R0.accumulate": (lambda p: theory.accumulate_probe(6, p, n=10), 1.45, 0.451171875),
    "R0.accumulate.n0": (lambda p: theory.accumulate_probe(6, p, n=10, n0=30), 0.8845238095, 0.6284179688),
    "R0.mix": (lambda p: theory.real_fraction_probe(6, p, n_real=5, n_synthetic=15), 2.288085938, 0.4044494629),
    "R0.acc_fresh": (
        lambda p: theory.accumulate_fresh_probe(6, p, n_real=2, n_synthetic=8, n0=10),
        1.037824,
        0.5846613333,
    ),
    "R0.fresh": (lambda p: theory.real_fraction_probe(6, p, n_real=10, n_synthetic=0), 0, 1),
}


@pytest.mark.parametrize("row", PROBES)
def test_probe_rows(row):
    law, additive, multiplicative = PROBES[row]
    assert law(ADDITIVE) == near(additive)
    assert law(HALF) == near(multiplicative)


@pytest.mark.parametrize("t", [1, 2, 7])
def test_probe_recursions_have_the_stated_closed_forms(t):
    c, n, n0, rho = 0.3, 4, 6, 0.75
    factor = Probe(real=1.0, factor=c, shift=0.0)
    pools = n0 + n * np.arange(1, t)
    mixed = (rho * c) ** (t - 1) + (1 - rho) * (1 - (rho * c) ** (t - 1)) / (1 - rho * c)
    assert theory.replace_probe(t, factor) == near(c ** (t - 1))
    assert theory.accumulate_probe(t, ADDITIVE, n=n, n0=n0) == pytest.approx(np.sum(n / pools))
    assert theory.accumulate_probe(t, factor, n=n, n0=n0) == near(np.prod(1 + (c - 1) * n / pools))
    assert theory.real_fraction_probe(t, ADDITIVE, n_real=5, n_synthetic=15) == pytest.approx(
        rho * (1 - rho ** (t - 1)) / (1 - rho)
    )
    assert theory.real_fraction_probe(t, factor, n_real=5, n_synthetic=15) == near(mixed)


def test_provenance_row():
    assert theory.subsample_real_count(8, n=10, size=10) == near((1.25, 0.9691456))  # R1
    law = stats.hypergeom(22, 10, 5)
    assert theory.subsample_real_count(4, n=4, n0=10, size=5) == near((law.mean(), law.var()))


# --- G1, G2, G4: replace, one dimension -----------------------------------------------------------------------------

REPLACE_LAWS = (
    gaussian.replace_mean_variance,
    gaussian.replace_variance,
    gaussian.replace_variance_of_variance,
    gaussian.replace_expected_std,
    gaussian.replace_expected_log_variance,
    gaussian.replace_median_variance,
    gaussian.replace_expected_w2,
    gaussian.replace_marginal_variance,
    gaussian.replace_expected_test_nll,
)
G1_1 = (2, 4, 27.63861, 1.74114, 0.810262, 2.342225, 3.035441, 6, 3.646254)
G1_2 = (0.4, 1, 1.225778, 0.9029991, -0.4109394, 0.6676441, 0.5940018, 1.4, 2.182903)
G2_1 = (1.63804, 2.36196, 9.636986, 1.33795, 0.2834594, 1.38306, 2.648199, 4, 4.860603)
G2_2 = (0.332392, 0.667608, 0.5463299, 0.737816, -0.8149936, 0.4457245, 0.524368, 1, 2.642784)
G4_1 = (0.3256608, 0.3874205, 0.2582455, 0.5457247, -1.483784, 0.2309979, 0.621632, 0.7130813, 4.994214)
REPLACE_ROWS = {
    "G1.1": ((5, 10), {"ddof": 1, "variance": 4.0}, G1_1, 1.243626),
    "G1.2": ((20, 50), {"ddof": 1}, G1_2, 0.8332128),
    "G2.1": ((5, 10), {"ddof": 0, "variance": 4.0}, G2_1, 1.243626),
    "G2.2": ((20, 50), {"ddof": 0}, G2_2, 0.8332128),
    "G4.1": ((10, 20), {"ddof": 1, "lam": 0.9}, G4_1, 1.109973),
}


@pytest.mark.parametrize("law", range(len(REPLACE_LAWS)), ids=[law.__name__ for law in REPLACE_LAWS])
@pytest.mark.parametrize("row", REPLACE_ROWS)
def test_replace_rows(row, law):
    arguments, options, expected, _ = REPLACE_ROWS[row]
    assert REPLACE_LAWS[law](*arguments, **options) == near(expected[law])


@pytest.mark.parametrize("row", REPLACE_ROWS)
def test_log_variance_variance_rows(row):
    arguments, _, _, expected = REPLACE_ROWS[row]
    assert gaussian.replace_log_variance_variance(*arguments) == near(expected)


def test_mean_covariance_rows():
    assert gaussian.replace_mean_covariance(2, 5, n=10, ddof=1) == near(0.2)  # G8
    assert gaussian.replace_mean_covariance(5, 2, n=10, ddof=1) == near(0.2)


@pytest.mark.parametrize(
    ("n", "ddof", "rate", "multiplier"),
    [
        (10, 1, -0.1152064704, 1.122105095),
        (10, 0, -0.2205669861, 1.246783439),
        (100, 1, -0.01013501885, 1.010186552),
        (100, 0, -0.0201853547, 1.020390457),
    ],
)
def test_collapse_rate_rows(n, ddof, rate, multiplier):  # G7
    assert gaussian.replace_log_variance_rate(n, ddof=ddof) == near(rate)
    assert gaussian.replace_critical_multiplier(n, ddof=ddof) == near(multiplier)


@pytest.mark.parametrize("n", [2, 3, 10, 1000, 100_000])
def test_median_of_one_fit_is_that_of_the_chi_square_law(n):
    exact = stats.chi2(n - 1).median() / n
    assert gaussian.replace_median_variance(1, n, ddof=0) == pytest.approx(exact, rel=1e-9)


def test_median_of_two_fits_of_two_points_is_that_of_a_product_of_chi_squares():
    def below(median):  # P(X Y <= median), X and Y independent with one degree of freedom
        density = stats.norm.pdf
        return integrate.quad(lambda z: 4 * density(z) * (stats.norm.cdf(median**0.5 / z) - 0.5), 0, 40, epsabs=1e-12)[
            0
        ]

    assert below(gaussian.replace_median_variance(2, 2, ddof=1)) == pytest.approx(0.5, abs=1e-9)


# --- G3, G5, G6: replace, several dimensions ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ddof", "error", "traces", "logdet", "det"),
    [
        (1, 1, (3, 14.78466, 12.54438), -0.6744452, 1.120142),
        (0, 0.8817998, (2.1182, 7.370603, 6.253753), -1.370536, 0.5584247),
    ],
    ids=["G3.1", "G3.2"],
)
def test_multivariate_rows(ddof, error, traces, logdet, det):
    arguments = {"covariance": COVARIANCE, "ddof": ddof}
    assert gaussian.replace_mean_square_error(4, 12, **arguments) == near(error)
    assert gaussian.replace_trace_moments(4, 12, **arguments) == near(traces)
    assert gaussian.replace_expected_logdet(4, 12, **arguments) == near(logdet)
    assert gaussian.replace_expected_det(4, 12, **arguments) == near(det)


def test_eigenvalue_rate_rows():  # G6
    assert gaussian.replace_log_eigenvalue_rates(12, 2, ddof=1) == near(np.array([-0.09365494, -0.1986304]))


def test_bivariate_distance_row():
    assert gaussian.replace_expected_w2_bivariate_first_fit(10, ddof=1) == near(0.3676717)  # G5.1


@pytest.mark.parametrize("n", [3, 4, 50, 1000])
def test_bivariate_distance_quadrature(n):
    nu = n - 1
    integral = integrate.quad(lambda s: np.sqrt(1 + s ** (1 / (nu - 1))), 0, 1, epsabs=1e-12)[0]
    root = np.sqrt(2 / n) * np.exp(special.gammaln(nu + 0.5) - special.gammaln(nu))
    exact = 3 * (2 / n + 2 * nu / n + 2 - 2 * root * integral)
    assert gaussian.replace_expected_w2_bivariate_first_fit(n, ddof=0, variance=3.0) == pytest.approx(exact, rel=1e-9)


@pytest.mark.parametrize("lam", [1.0, 0.8])
@pytest.mark.parametrize("ddof", [0, 1])
def test_one_dimension_is_a_special_case(ddof, lam):
    options = {"ddof": ddof, "lam": lam}
    covariance = {"covariance": [[4.0]], **options}
    options["variance"] = 4.0
    mean = gaussian.replace_variance(5, 10, **options)
    square = gaussian.replace_variance_of_variance(5, 10, **options) + mean**2
    bounds = gaussian.replace_w2_bounds(5, 10, **covariance)
    assert gaussian.replace_trace_moments(5, 10, **covariance) == near((mean, square, square))
    assert gaussian.replace_expected_det(5, 10, **covariance) == near(mean)
    assert gaussian.replace_expected_logdet(5, 10, **covariance) == near(
        gaussian.replace_expected_log_variance(5, 10, **options)
    )
    assert bounds.lower < gaussian.replace_expected_w2(5, 10, **options) < bounds.upper


def test_distance_bounds_have_the_published_forms():
    assert gaussian.replace_w2_bounds(4, 12, covariance=COVARIANCE, ddof=1) == near((4 * 3 / 12, (2 + 4 / 12) * 3))
    assert gaussian.replace_w2_bounds(4, 12, covariance=COVARIANCE, ddof=0) == near((2 * (1 - (11 / 12) ** 2) * 3, 6))
    bounds = gaussian.replace_w2_bounds(3, 10, covariance=np.eye(2), ddof=1)
    assert bounds.lower < 1.072782 < bounds.upper  # G5.2 has no closed form


# --- A0 to A2, A8: accumulate ---------------------------------------------------------------------------------------


def test_fresh_row():  # A0: every fit is a first fit
    assert gaussian.replace_mean_variance(1, 10, ddof=1) == near(0.1)
    assert gaussian.replace_variance(1, 10, ddof=1) == near(1)
    assert gaussian.real_fraction_moments(5, n_real=10, n_synthetic=0, n_first=10, ddof=1) == near((0.1, 1))


ACCUMULATE_LAWS = (
    gaussian.accumulate_mean_square_error,
    gaussian.accumulate_variance,
    gaussian.accumulate_variance_of_variance,
    gaussian.accumulate_expected_log_variance,
    gaussian.accumulate_expected_std,
    gaussian.accumulate_expected_w2,
)
A1_1 = (0.1524404, 0.8475596, 0.2661419, -0.3358741, 0.8830604, 0.2338791)
A1_2 = (0.03992512, 0.9600749, 0.07704591, -0.08145806, 0.9699484, 0.06010313)
A2_1 = (0.1582089, 0.9397239, 0.3371094, -0.2366593, 0.9288968, 0.2401393)
ACCUMULATE_ROWS = {
    "A1.1": ((20, 10), {"ddof": 0}, A1_1),
    "A1.2": ((10, 20), {"n0": 40, "ddof": 0}, A1_2),
    "A2.1": ((20, 10), {"ddof": 1}, A2_1),
}


@pytest.mark.parametrize("law", range(len(ACCUMULATE_LAWS)), ids=[law.__name__ for law in ACCUMULATE_LAWS])
@pytest.mark.parametrize("row", ACCUMULATE_ROWS)
def test_accumulate_rows(row, law):
    arguments, options, expected = ACCUMULATE_ROWS[row]
    assert ACCUMULATE_LAWS[law](*arguments, **options) == near(expected[law])


def test_accumulate_trace_row():  # A8: every second moment is linear in the variance of the real law
    trace = float(np.trace(COVARIANCE))
    assert gaussian.accumulate_mean_square_error(8, 10, ddof=0, variance=trace) == near(0.439776)
    assert gaussian.accumulate_variance(8, 10, ddof=0, variance=trace) == near(2.560224)


def test_accumulate_limit_rows():
    assert gaussian.accumulate_limit_variance(10, ddof=0) == near(0.8434358572)
    assert gaussian.accumulate_limit_variance(20, ddof=0) == near(0.9197589714)
    assert gaussian.accumulate_limit_variance(10, ddof=1) == near(0.9351406537)
    assert gaussian.accumulate_limit_variance(20, ddof=1) == near(0.9676635302)
    assert gaussian.accumulate_limit_variance(20, ddof=0, n0=40) == near(0.9559120556)
    assert gaussian.accumulate_limit_mean_square_error(10) == near(0.1565641428)
    assert gaussian.accumulate_limit_mean_square_error(20) == near(0.08024102856)


@pytest.mark.parametrize(("n", "n0", "ddof"), [(10, 10, 0), (1, 2, 1), (30, 7, 1), (5, 40, 0)])
def test_accumulate_tends_to_its_limit(n, n0, ddof):
    late = gaussian.accumulate_variance(1_000_000, n, n0=n0, ddof=ddof, variance=4.0)
    assert late == pytest.approx(gaussian.accumulate_limit_variance(n, n0=n0, ddof=ddof, variance=4.0), rel=1e-5)


@pytest.mark.parametrize(
    ("function", "law"),
    [(np.log, gaussian.accumulate_expected_log_variance), (np.sqrt, gaussian.accumulate_expected_std)],
)
def test_accumulate_quadrature_with_two_points(function, law):
    """The hardest case: n = n0 = 2, ddof = 1. Over both chi-squares, one degree of freedom each, in polar form."""

    def growth(radius, angle):  # N_1 = 2, N_2 = 4
        z, y = radius * math.cos(angle), radius * math.sin(angle)
        return function((1 + z**2 + y**2 / 2) / 3) * radius * math.exp(-(radius**2) / 2) * 2 / math.pi

    step = integrate.dblquad(growth, 0, math.pi / 2, 0, 40, epsabs=1e-11)[0]
    first = law(1, 2, ddof=1)
    assert law(2, 2, ddof=1) == pytest.approx(first + step if function is np.log else first * step, rel=1e-8)


# --- A3 to A6, A9: mixing -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ddof", "replacement", "expected"),
    [
        (0, False, (0.247009, 0.752991, 0.1689211, 0.8310789)),
        (1, False, (0.2789646, 1.05844, 0.1801768, 1.051384)),
        (1, True, (0.3071189, 1.009879, 0.206131, 1.009879)),
    ],
    ids=["A3.1", "A3.2", "A3.3"],
)
def test_subsample_rows(ddof, replacement, expected):
    moments = gaussian.accumulate_subsample_moments(15, 10, size=10, ddof=ddof, replacement=replacement)
    assert moments == near(expected)


@pytest.mark.parametrize(
    ("ddof", "values"),
    [(1, (1.027, 1.256, 1.576, 1.983)), (0, (0.760, 0.741, 0.7392, 0.73901))],
)
def test_subsample_plateaus_under_maximum_likelihood_only(ddof, values):
    for t, expected in zip((10, 100, 1000, 10_000), values, strict=True):
        assert gaussian.accumulate_subsample_moments(t, 10, size=10, ddof=ddof).variance == pytest.approx(
            expected, abs=6e-4
        )


MIXED = {"n_real": 5, "n_synthetic": 15}
REAL_FRACTION_ROWS = {  # options; first fit; t = 10; stationary
    "A4.1": ({"ddof": 1}, 5, (0.1223921, 1.093869), (0.1225806, 1.096774)),
    "A4.2": ({"ddof": 0}, 5, (0.1055502, 0.8944498), (0.1052632, 0.8947368)),
    "A4.3": ({"ddof": 1, "lam": 0.8}, 20, (0.0750846, 0.6660928), (0.07392996, 0.6614786)),
    "A5.1": ({"ddof": 1, "dataset_size": 5}, 5, (0.2776079, 0.9061314), (0.2774194, 0.9032258)),
    "A5.2": ({"ddof": 0, "dataset_size": 5}, 5, (0.2629665, 0.7370335), (0.2631579, 0.7368421)),
    "A6.1": ({"ddof": 1, "dataset_size": 20}, 20, (0.1585772, 1.034369), (0.1612903, 1.048387)),
}


@pytest.mark.parametrize("row", REAL_FRACTION_ROWS)
def test_real_fraction_rows(row):
    options, n_first, expected, stationary = REAL_FRACTION_ROWS[row]
    assert gaussian.real_fraction_moments(10, n_first=n_first, **MIXED, **options) == near(expected)
    assert gaussian.real_fraction_stationary_moments(**MIXED, **options) == near(stationary)


def test_real_fraction_contraction():
    assert gaussian.real_fraction_contraction(5, 15, ddof=1) == pytest.approx(0.7835, abs=5e-5)
    assert gaussian.real_fraction_contraction(50_000, 150_000, ddof=1) == pytest.approx(0.75, abs=1e-4)


@pytest.mark.parametrize(
    ("ddof", "expected"), [(0, (0.0532468, 0.9467532)), (1, (0.05480509, 0.9966802))], ids=["A9.1", "A9.2"]
)
def test_accumulate_fresh_rows(ddof, expected):
    assert gaussian.accumulate_fresh_moments(12, n_real=3, n_synthetic=7, n0=10, ddof=ddof) == near(expected)


# --- A7: weighted means ---------------------------------------------------------------------------------------------


def test_weighted_rows():
    options = {"n_real": 20, "n_synthetic": 20}
    assert gaussian.weighted_mean_square_error(15, weight=0.61803399, **options) == near(0.0309017)  # A7.1
    assert gaussian.optimal_real_weight(20, 20) == near(0.6180339887)  # A7.2
    assert gaussian.weighted_minimal_mean_square_error(20, 20) == near(0.03090169944)


@pytest.mark.parametrize(("weight", "expected"), [(0.5, 2 / 3), (0.6180339887, 0.6180339887), (1.0, 1.0)])
def test_weighted_stationary_errors_of_equally_many_points(weight, expected):
    assert gaussian.weighted_stationary_mean_square_error(100, 100, weight=weight, variance=100) == near(expected)
    late = gaussian.weighted_mean_square_error(200, n_real=100, n_synthetic=100, weight=weight, variance=100)
    assert late == near(expected)


@pytest.mark.parametrize(("n_real", "n_synthetic"), [(20, 20), (1, 1), (3, 50), (50, 3)])
def test_optimal_weight_minimizes_the_stationary_error(n_real, n_synthetic):
    best = optimize.minimize_scalar(
        lambda weight: gaussian.weighted_stationary_mean_square_error(n_real, n_synthetic, weight=weight),
        bounds=(1e-3, 1),
        method="bounded",
        options={"xatol": 1e-9},
    )
    assert best.x > n_real / (n_real + n_synthetic)  # better than equal weights on all points
    assert gaussian.optimal_real_weight(n_real, n_synthetic) == near(best.x)
    assert gaussian.weighted_minimal_mean_square_error(n_real, n_synthetic) == near(best.fun)


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("t", [1, 2, 6])
def test_weighted_means_add_their_variances(t, weight):
    """The fit is a weighted sum of independent means; the weight of the one s fits ago is damped s times."""
    damped = [(1 - weight) ** s for s in range(t)]
    real = sum((weight * factor) ** 2 / 5 for factor in damped[:-1])
    synthetic = sum(((1 - weight) * factor) ** 2 / 8 for factor in damped[:-1])
    exact = 2.0 * (damped[-1] ** 2 / 12 + real + synthetic)
    options = {"n_real": 5, "n_synthetic": 8, "n_first": 12, "variance": 2.0}
    assert gaussian.weighted_mean_square_error(t, weight=weight, **options) == near(exact)


# --- known variance: the three pathways -----------------------------------------------------------------------------


def test_pathway_rows():
    assert gaussian.pathways(1) == (1, 1, 1)
    assert gaussian.pathways(100)[:2] == pytest.approx((100, 1.635), abs=5e-4)
    for t, expected in [(10, 2.649), (30, 2.836), (100, 2.905)]:
        assert gaussian.pathways(t).accumulate_subsample == pytest.approx(expected, abs=5e-4)
    late = gaussian.pathways(1_000_000)
    assert late[1:] == pytest.approx((math.pi**2 / 6, math.pi**2 / 2 - 2), rel=3e-6)


def test_subsample_pathway_is_the_covariance_recursion_of_overlapping_samples():
    """Fit t is the mean of the fits before it plus a noise; two samples share n²/(tn) points on average."""
    t = np.arange(1, 501)
    noise = 1 / np.maximum.outer(t, t).astype(float)
    np.fill_diagonal(noise, 1)
    weights = np.linalg.inv(np.eye(500) - np.tril(np.ones((500, 500)), -1) / t[:, None])
    exact = np.diag(weights @ noise @ weights.T)
    assert [gaussian.pathways(fit).accumulate_subsample for fit in t] == pytest.approx(exact, rel=1e-9)


def enumerated_error(t, n, *, size, n0, replacement):
    """Expected squared error of fit t over all samples that can be drawn; points are rows of weights on the noises."""
    errors = []

    def refit(points, fit):
        b = size if replacement else min(size, len(points))
        samples = itertools.product(points, repeat=b) if replacement else itertools.combinations(points, b)
        for sample in samples:
            mean = np.mean(sample, axis=0)
            if fit == t:
                errors.append(mean @ mean)
                continue
            fresh = np.eye(len(mean))[n0 + (fit - 1) * n : n0 + fit * n]
            refit([*points, *(mean + fresh)], fit + 1)

    refit(list(np.eye(n0, n0 + t * n)), 1)
    return np.mean(errors)


@pytest.mark.parametrize(
    ("t", "n", "n0", "size", "replacement"),
    [(4, 2, 2, 2, False), (3, 1, 3, 2, False), (3, 3, 2, 1, False), (3, 1, 2, 4, False), (3, 2, 2, 2, True)],
)
def test_subsample_with_known_variance_averages_all_samples(t, n, n0, size, replacement):
    options = {"size": size, "n0": n0, "replacement": replacement}
    exact = 3.0 * enumerated_error(t, n, **options)
    law = gaussian.accumulate_subsample_known_variance_mean_square_error
    assert law(t, n, variance=3.0, **options) == near(exact)


@pytest.mark.parametrize("t", [1, 2, 30])
def test_known_variance_laws_follow_the_pathways(t):
    factors, n = gaussian.pathways(t), 10**8
    laws = (
        gaussian.replace_known_variance_mean_square_error,
        gaussian.accumulate_known_variance_mean_square_error,
        gaussian.accumulate_subsample_known_variance_mean_square_error,
    )
    assert [n * law(t, n, variance=2.0) / 2 for law in laws] == near(factors)
    assert 50 * laws[2](30, 50) == near(2.849775701)  # finite n: above the pathway's 2.836450
    whole = laws[2](t, 4, size=10**6, n0=7)
    assert laws[1](t, 4, n0=7) == near(whole)


# --- the regimes agree where they meet ------------------------------------------------------------------------------


@pytest.mark.parametrize("ddof", [0, 1])
@pytest.mark.parametrize("t", [1, 6])
def test_regimes_agree_where_they_meet(t, ddof):
    options = {"ddof": ddof, "variance": 3.0}
    replace = (
        gaussian.replace_mean_variance(t, 8, **options),
        gaussian.replace_variance(t, 8, **options),
    )
    accumulate = (
        gaussian.accumulate_mean_square_error(t, 8, n0=12, **options),
        gaussian.accumulate_variance(t, 8, n0=12, **options),
    )
    whole_pool = gaussian.accumulate_subsample_moments(t, 8, size=1000, n0=12, **options)
    assert gaussian.real_fraction_moments(t, n_real=0, n_synthetic=8, n_first=8, **options) == near(replace)
    assert gaussian.accumulate_fresh_moments(t, n_real=0, n_synthetic=8, n0=12, **options) == near(accumulate)
    assert whole_pool[:2] == near(accumulate)


def test_log_gamma_agrees_with_scipy():
    z = np.array([0.5, 0.5 + 3j, 4.5 + 1j, 50 + 200j, 1e4 + 5j])
    assert np.allclose(log_gamma(z), special.loggamma(z), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("degrees", [0, 1, 2, 9, 100_000])
def test_chi_square_quadrature_has_the_moments_of_the_law(degrees):
    points, weights = chi_square_quadrature(degrees)
    moments = [weights.sum(), weights @ points, weights @ points**2]
    assert moments == pytest.approx([1, degrees, degrees**2 + 2 * degrees], rel=1e-12)


# --- arguments ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: gaussian.replace_variance(0, 10, ddof=1), "t counts model fits"),
        (lambda: gaussian.replace_variance(1, 1, ddof=0), "at least 2"),
        (lambda: gaussian.replace_variance(1, 5, ddof=5), "ddof must lie in"),
        (lambda: gaussian.replace_variance(1, 5, ddof=1, variance=-1.0), "variance must be positive"),
        (lambda: gaussian.replace_variance(1, 5, ddof=1, lam=math.inf), "lam must be positive"),
        (lambda: gaussian.replace_expected_test_nll(1, 3, ddof=1), "n must be at least 4"),
        (lambda: gaussian.replace_expected_logdet(1, 2, covariance=np.eye(2), ddof=1), "dim must lie in"),
        (lambda: gaussian.replace_trace_moments(1, 5, covariance=np.eye(3)[:2], ddof=1), "square matrix"),
        (lambda: gaussian.replace_trace_moments(1, 5, covariance=[[1, 1], [0, 1]], ddof=1), "symmetric"),
        (lambda: gaussian.replace_trace_moments(1, 5, covariance=np.ones((2, 2)), ddof=1), "positive definite"),
        (lambda: theory.subsample_real_count(1, n=5, size=6), "size must lie in"),
        (lambda: theory.real_fraction_probe(1, ADDITIVE, n_real=0, n_synthetic=0), "n_real \\+ n_synthetic"),
        (
            lambda: gaussian.real_fraction_stationary_moments(n_real=0, n_synthetic=9, ddof=1),
            "no stationary state",
        ),
        (
            lambda: gaussian.real_fraction_moments(2, n_real=5, n_synthetic=5, n_first=9, ddof=1, dataset_size=4),
            "dataset_size must be at least 5",
        ),
        (
            lambda: gaussian.weighted_mean_square_error(1, n_real=5, n_synthetic=5, weight=1.2),
            r"weight must lie in \[0, 1\]",
        ),
        (lambda: gaussian.weighted_stationary_mean_square_error(5, 5, weight=0.0), "weight must be positive"),
        (lambda: gaussian.optimal_real_weight(0, 5), "n_real must be at least 1"),
        (
            lambda: gaussian.accumulate_subsample_known_variance_mean_square_error(1, 5, size=0),
            "size must be at least 1",
        ),
    ],
)
def test_arguments_out_of_range_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# --- the namespace --------------------------------------------------------------------------------------------------

FAMILIES = {name: getattr(theory, name) for name in theory.__all__ if inspect.ismodule(getattr(theory, name))}
LAWS = {
    f"{family}.{name}": getattr(namespace, name)
    for family, namespace in {"theory": theory, **FAMILIES}.items()
    for name in namespace.__all__
    if inspect.isfunction(getattr(namespace, name))
}
RECURSIVE = {name: law for name, law in LAWS.items() if "t" in inspect.signature(law).parameters}
SETTINGS = {  # a valid value of every argument without default
    "bandwidth": 0.5,
    "covariance": COVARIANCE,
    "ddof": 1,
    "dim": 2,
    "n": 8,
    "n0": 8,
    "n_first": 8,
    "n_real": 4,
    "n_synthetic": 4,
    "penalty": 1.0,
    "probabilities": (0.5, 0.3, 0.2),
    "probe": ADDITIVE,
    "pseudocount": 0.5,
    "real_fraction": 0.5,
    "s": 3,
    "size": 4,
    "weight": 0.5,
    "x": 0.0,
}


def call(law, t, **changes):
    required = [p.name for p in inspect.signature(law).parameters.values() if p.default is p.empty and p.name != "t"]
    return law(t=t, **{name: SETTINGS[name] for name in required} | changes)


def test_families_are_submodules():
    assert set(FAMILIES) == {"gaussian", "regression", "categorical", "kde", "stability", "diffusion", "metric_laws"}
    assert len(LAWS) > 100


@pytest.mark.parametrize("family", FAMILIES)
def test_families_export_what_their_modules_do(family):
    namespace = FAMILIES[family]
    assert len(set(namespace.__all__)) == len(namespace.__all__)
    for info in pkgutil.iter_modules(getattr(namespace, "__path__", [])):
        if not info.name.startswith("_"):
            module = importlib.import_module(f"{namespace.__name__}.{info.name}")
            assert set(module.__all__) <= set(namespace.__all__)


@pytest.mark.parametrize("name", LAWS)
def test_laws_are_documented_and_keyword_only_after_two(name):
    positional = [p for p in inspect.signature(LAWS[name]).parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert len([p for p in positional if p.name != "ddof"]) <= 2
    assert all(section in LAWS[name].__doc__ for section in ("Args:", "Returns:", "Raises:"))
    assert all(f"        {p}: " in LAWS[name].__doc__ for p in inspect.signature(LAWS[name]).parameters)


@pytest.mark.parametrize("name", RECURSIVE)
def test_laws_start_at_the_first_fit(name):
    changes = {"n": 1} if "minimum_norm" in name else {}  # fewer rows than features
    assert np.all(np.isfinite(call(RECURSIVE[name], 1, **changes)))
    with pytest.raises(ValueError, match=r"^t "):
        call(RECURSIVE[name], 0, **changes)
