"""The laws of regression against a table of simulated values, explicit linear algebra and quadratures.

Values are printed with seven significant digits, so the relative tolerance is 1e-6. Row names are those of the table.
"""

import itertools
import math

import numpy as np
import pytest
from scipy import integrate, stats

from collapse.theory import regression


def near(expected):
    return pytest.approx(expected, rel=1e-6, abs=0)


ROWS = {
    "L1.fresh": (regression.replace_excess_error, (10, 20), {"dim": 4}, 2.666667),
    "L2.same": (regression.accumulate_same_design_excess_error, (10, 20), {"dim": 4}, 0.4132714),
    "L3.fresh": (regression.accumulate_fresh_design_excess_error, (10, 20), {"dim": 4}, 0.387653),
    "L3.inf": (regression.accumulate_fresh_design_limit_excess_error, (20,), {"dim": 4}, 0.4069161719),
    "L4.mismatch": (regression.replace_excess_error, (6, 20), {"dim": 4, "n0": 40}, 1.447619),
    "L5.mix": (
        regression.real_fraction_excess_error,
        (10,),
        {"n_real": 10, "n_synthetic": 20, "dim": 4, "n_first": 30},
        0.3104903,
    ),
    "L5.stationary": (regression.real_fraction_stationary_excess_error, (10, 20), {"dim": 4}, 0.3107143),
    "L5.kappa": (regression.real_fraction_contraction, (10, 20), {"dim": 4}, 0.48505747),
    "L6.ridge": (regression.replace_ridge_excess_error, (5, 20), {"dim": 4, "penalty": 5.0, "signal": 4.0}, 2.125435),
    "L7.minnorm": (regression.replace_minimum_norm_excess_error, (3, 10), {"dim": 25}, 0.936),
}


@pytest.mark.parametrize("row", ROWS)
def test_rows(row):
    law, arguments, options, expected = ROWS[row]
    assert law(*arguments, **options) == near(expected)


def test_published_setting():  # Kazdan et al.: 100 rows of 10 features, one design
    assert regression.replace_excess_error(1, 100, dim=10) == pytest.approx(0.1124, abs=5e-5)
    assert regression.replace_excess_error(100, 100, dim=10) == pytest.approx(11.24, abs=5e-3)
    assert regression.accumulate_same_design_excess_error(100, 100, dim=10) == pytest.approx(0.1837, abs=5e-5)


@pytest.mark.parametrize("n", [6, 20])
def test_first_fit_is_the_mean_of_an_inverse_wishart_matrix(n):
    exact = 2.5 * np.trace(stats.invwishart(df=n, scale=np.eye(4)).mean())
    assert regression.replace_excess_error(1, n, dim=4, noise_variance=2.5) == near(exact)


# --- one design: the conditional error is linear algebra ------------------------------------------------------------


def conditional_errors(design, t, *, keep, penalty=0.0):
    """Expected squared errors of fits 1 to t given the design, with unit noise and coefficients (1, …, 1).

    ``keep`` generations of labels are fitted. Every fit is an affine function of the truth and of all label noises; its
    row of coefficients on the noises is propagated, nothing is drawn.
    """
    n, d = design.shape
    maps = []  # of (truth, noise of generation 1, …, t) to the coefficients of each fit, (d, d + t n)
    for fit in range(t):
        blocks = []
        for generation in range(max(0, fit + 1 - keep), fit + 1):
            labels = design @ (maps[generation - 1] if generation else np.eye(d, d + t * n))
            labels[:, d + generation * n : d + (generation + 1) * n] += np.eye(n)
            blocks.append(labels)
        rows = np.tile(design, (len(blocks), 1))
        maps.append(np.linalg.solve(rows.T @ rows + penalty * np.eye(d), rows.T @ np.concatenate(blocks)))
    bias = [(m[:, :d] - np.eye(d)) @ np.ones(d) for m in maps]
    return [float(b @ b + np.sum(m[:, d:] ** 2)) for b, m in zip(bias, maps, strict=True)]


def test_one_design_multiplies_the_first_error():
    """The first error is d / (n - d - 1) on average over designs; the later ones are these multiples for each."""
    design = np.random.default_rng(0).standard_normal((12, 3))
    for keep, law in [
        (1, regression.replace_excess_error),
        (9, regression.accumulate_same_design_excess_error),
    ]:
        errors = conditional_errors(design, 6, keep=keep)
        laws = [law(t, 12, dim=3) for t in range(1, 7)]
        assert np.divide(errors, errors[0]) == near(np.divide(laws, laws[0]))


def test_ridge_on_an_orthonormal_design():
    design = np.linalg.qr(np.random.default_rng(1).standard_normal((12, 3)))[0] * math.sqrt(12)
    errors = conditional_errors(design, 5, keep=1, penalty=4.0)
    options = {"dim": 3, "penalty": 4.0, "signal": 3.0}
    assert [regression.replace_ridge_excess_error(t, 12, **options) for t in range(1, 6)] == near(errors)


def test_ridge_without_penalty_grows_and_with_one_is_bounded():
    assert regression.replace_ridge_excess_error(50, 20, dim=4, penalty=0.0, noise_variance=3.0) == near(
        50 * 3 * 4 / 20
    )
    late = regression.replace_ridge_excess_error(10_000, 20, dim=4, penalty=5.0)
    assert late == near(1 + 4 / 20 * 0.64 / 0.36)  # c² = 0.64: everything is forgotten, the noise is geometric
    noise = regression.replace_ridge_excess_error(10_000, 20, dim=4, penalty=5.0, signal=0.0)
    assert noise == near(4 / 20 * 0.64 / 0.36)


def test_nothing_to_forget():
    assert regression.replace_minimum_norm_excess_error(3, 10, dim=25, signal=0.0) == 0
    assert regression.replace_minimum_norm_excess_error(3, 25, dim=25) == 0


# --- fresh designs: quadratures -------------------------------------------------------------------------------------


def chi_square_mean(function, first, second):
    """Expectation of a function of two independent chi-square variables."""

    def integrand(y, x):
        return function(x, y) * x ** (first / 2 - 1) * y ** (second / 2 - 1) * math.exp(-(x + y) / 2)

    mass = 2 ** ((first + second) / 2) * math.gamma(first / 2) * math.gamma(second / 2)
    return integrate.dblquad(integrand, 0, 120, 0, 120, epsabs=1e-8 * mass)[0] / mass


@pytest.mark.parametrize(("n0", "n"), [(8, 8), (10, 5)])
def test_second_accumulated_fit_of_one_feature(n0, n):
    step = chi_square_mean(lambda old, new: new / (old + new) ** 2, n0, n)
    exact = 1 / (n0 - 2) + step
    assert regression.accumulate_fresh_design_excess_error(2, n, dim=1, n0=n0) == near(exact)


def test_contraction_of_one_feature():
    exact = chi_square_mean(lambda real, synthetic: (synthetic / (real + synthetic)) ** 2, 6, 9)
    assert regression.real_fraction_contraction(6, 9, dim=1) == near(exact)


def test_contraction_of_two_features_from_the_eigenvalues_of_the_matrix_beta():
    """Eigenvalues u, v of U have density (uv)^((s-3)/2) ((1-u)(1-v))^((r-3)/2) |u - v|; A is averaged apart."""
    real, synthetic, n = 6, 9, 15

    def mean(function):
        def density(v, u):
            return (u * v) ** ((synthetic - 3) / 2) * ((1 - u) * (1 - v)) ** ((real - 3) / 2) * (u - v)

        return integrate.dblquad(lambda v, u: function(u, v) * density(v, u), 0, 1, 0, lambda u: u, epsabs=1e-14)[0]

    mass = mean(lambda u, v: 1.0)
    square, squared = mean(lambda u, v: u**2 + v**2) / mass, mean(lambda u, v: (u + v) ** 2) / mass
    # for a 2 x 2 Wishart matrix A₁₁(A⁻¹)₁₁ = A₁₁A₂₂ / det A = 1 / (1 - ρ²), and 1 - ρ² is a beta variable
    diagonal = stats.beta((n - 1) / 2, 0.5).expect(lambda x: 1 / x)
    off_diagonal = 1 - diagonal  # A⁻¹A = I
    exact = (diagonal * square + off_diagonal * (squared - square)) / 2
    assert regression.real_fraction_contraction(real, synthetic, dim=2) == near(exact)


def test_minimum_norm_fits_project_on_random_lines():
    """One row of two features: equispaced directions average the squares of two projections exactly."""
    angles = np.pi * np.arange(8) / 8
    lines = np.stack([np.cos(angles), np.sin(angles)], 1)
    projections = lines[:, :, None] * lines[:, None]
    truth = np.array([1.0, 2.0])
    errors = [np.sum((q @ p @ truth - truth) ** 2) for p, q in itertools.product(projections, projections)]
    assert regression.replace_minimum_norm_excess_error(2, 1, dim=2, signal=5.0) == near(np.mean(errors))


# --- limits, and where the regimes meet -----------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "n0"), [(20, 20), (3, 40), (50, 8)])
def test_accumulated_errors_tend_to_their_limits(n, n0):
    late = regression.accumulate_fresh_design_excess_error(2_000_000, n, dim=4, n0=n0)
    limit = regression.accumulate_fresh_design_limit_excess_error(n, dim=4, n0=n0)
    assert late == pytest.approx(limit, rel=1e-5)
    assert late < limit


def test_one_design_tends_to_its_limit():
    late = regression.accumulate_same_design_excess_error(1_000_000, 20, dim=4)
    assert late == pytest.approx(regression.accumulate_same_design_limit_excess_error(20, dim=4), rel=1e-6)


def test_fresh_designs_are_better_than_one():
    for t in (2, 5, 100):
        fresh = regression.accumulate_fresh_design_excess_error(t, 20, dim=4)
        assert fresh < regression.accumulate_same_design_excess_error(t, 20, dim=4)


@pytest.mark.parametrize("t", [1, 7])
def test_regimes_agree_where_they_meet(t):
    options = {"dim": 4, "noise_variance": 3.0}
    replaced = regression.replace_excess_error(t, 20, n0=30, **options)
    all_real = regression.replace_excess_error(1, 30 if t == 1 else 20, **options)
    mixed = regression.real_fraction_excess_error
    assert mixed(t, n_real=0, n_synthetic=20, n_first=30, **options) == near(replaced)
    assert mixed(t, n_real=20, n_synthetic=0, n_first=30, **options) == near(all_real)


def test_contraction_of_many_rows_is_the_square_of_the_synthetic_share():
    assert regression.real_fraction_contraction(10**7, 3 * 10**7, dim=5) == near(0.75**2)
    assert regression.real_fraction_contraction(0, 50, dim=5) == near(1)
    assert regression.real_fraction_contraction(50, 0, dim=5) == 0


def test_stationary_error_is_the_late_one():
    late = regression.real_fraction_excess_error(200, n_real=3, n_synthetic=12, dim=4, n_first=6)
    assert late == near(regression.real_fraction_stationary_excess_error(3, 12, dim=4))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: regression.replace_excess_error(0, 20, dim=4), "t counts model fits"),
        (lambda: regression.replace_excess_error(1, 5, dim=4), r"n0 must be at least d \+ 2 = 6 rows.*got 5"),
        (lambda: regression.replace_excess_error(1, 5, dim=4, n0=9), r"n must be at least d \+ 2"),
        (lambda: regression.replace_excess_error(1, 9, dim=0), "dim must be at least 1"),
        (lambda: regression.replace_excess_error(1, 9, dim=4, noise_variance=0.0), "noise_variance must be positive"),
        (lambda: regression.accumulate_fresh_design_excess_error(2, 0, dim=4, n0=9), "n must be at least 1"),
        (lambda: regression.real_fraction_contraction(-1, 20, dim=4), "n_real must be at least 0"),
        (lambda: regression.real_fraction_contraction(2, 3, dim=4), r"n_real \+ n_synthetic must be at least d \+ 2"),
        (lambda: regression.real_fraction_stationary_excess_error(0, 20, dim=4), "n_real must be at least 1"),
        (lambda: regression.replace_ridge_excess_error(1, 3, dim=4, penalty=1.0), "n must be at least 4"),
        (lambda: regression.replace_ridge_excess_error(1, 9, dim=4, penalty=-1.0), "penalty must be at least 0"),
        (lambda: regression.replace_minimum_norm_excess_error(1, 9, dim=8), "dim must be at least 9"),
    ],
)
def test_arguments_out_of_range_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
