r"""What metrics of finite samples are expected to be for known laws: floors, biases, and the effect of shrinking.

A metric that is compared with zero is misread. Most of these values are above zero, or below one, for two samples of
the same law; the conventions in which published definitions differ are named at each law.
"""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from collapse.theory._checks import check_count, check_fit, check_laws, check_positive
from collapse.theory._special import c4, chi_square_grid, chi_square_quantile, chi_square_tail, normal_tail
from collapse.theory.stability import GaussianLaw

__all__ = [
    "NeighborExpectations",
    "uniform_w2_floor",
    "frechet_floor",
    "gaussian_sliced_w2",
    "gaussian_mmd2",
    "identical_laws_neighbors",
    "epps_pulley_expectation",
    "radial_tail_mass",
    "one_sided_tail_mass",
    "first_fit_expected_tail_mass",
]


class NeighborExpectations(NamedTuple):
    """Expected density and coverage."""

    density: float
    coverage: float


def uniform_w2_floor(n: int) -> float:
    r"""Expected squared 2-Wasserstein distance between two independent n-samples of the uniform law on [0, 1].

    .. math:: \mathbb{E}W_2^2 = \frac{1}{3(n+1)}

    twice the mean variance of the order statistics. On an interval of length L it is :math:`L^2` times that.

    Args:
        n: Points of each sample, at least 1.

    Returns:
        The expected squared distance.

    Raises:
        ValueError: If n is below 1.
    """
    check_count("n", n, 1)
    return 1 / (3 * (n + 1))


def frechet_floor(n: int, *, ddof: int, m: int | None = None, variance: float = 1.0) -> float:
    r"""Expected Fréchet distance between Gaussian fits to two independent samples of one normal law, one dimension.

    .. math:: \sigma_0^2\Bigl[\frac1n + \frac1m + k_n + k_m - 2\,c_4(n)\,c_4(m)\sqrt{k_nk_m}\Bigr], \qquad
        k_n = \frac{n-1}{n-\mathrm{ddof}}

    which is :math:`\sigma_0^2[2/n + 2(1-c_4(n)^2)]` for m = n and ddof=1. Convention: the Fréchet distance is the
    squared Wasserstein distance, not its root.

    Args:
        n: Points of the first sample, at least 2.
        ddof: 1 for the unbiased variance, 0 for maximum likelihood.
        m: Points of the second sample, at least 2; n if None.
        variance: Variance of the law, positive.

    Returns:
        The expected distance.

    Raises:
        ValueError: If an argument is out of its range.
    """
    m = n if m is None else m
    check_fit(1, n, ddof=ddof, variance=variance)
    check_fit(1, m, ddof=ddof)
    first, second = (n - 1) / (n - ddof), (m - 1) / (m - ddof)
    return variance * (1 / n + 1 / m + first + second - 2 * c4(n) * c4(m) * math.sqrt(first * second))


def gaussian_sliced_w2(first: GaussianLaw, second: GaussianLaw) -> float:
    r"""Squared sliced 2-Wasserstein distance between two normal laws.

    .. math:: \mathbb{E}_\theta\Bigl[\bigl(\theta^\top\Delta\bigr)^2
        + \Bigl(\sqrt{\theta^\top S_1\theta} - \sqrt{\theta^\top S_2\theta}\Bigr)^2\Bigr], \qquad \Delta = m_1 - m_2

    which is :math:`[\lVert\Delta\rVert^2 + (1-c)^2\operatorname{tr}S_1]/D` for :math:`S_2 = c^2S_1`, and otherwise an
    integral over the angle in the plane. Convention: the mean over uniform directions, not its root.

    Args:
        first: The one law, of dimension D.
        second: The other law, of dimension D; for D above 2 the covariances have to be proportional.

    Returns:
        The squared distance; in the plane by a trapezoid rule, exact to rounding up to condition numbers of 10⁶.

    Raises:
        ValueError: If the laws do not match, are degenerate, or have no such form.
    """
    (mean, covariance), (other_mean, other) = check_laws(first, second)
    delta = mean - other_mean
    scale = math.sqrt(np.trace(other) / np.trace(covariance))
    if np.allclose(other, scale**2 * covariance, rtol=0, atol=1e-12 * np.trace(other)):
        return float(delta @ delta + (1 - scale) ** 2 * np.trace(covariance)) / len(delta)
    if len(delta) != 2:
        raise ValueError(
            f"covariances must be proportional above dimension 2, got {len(delta)}; average over directions"
        )
    angles = np.linspace(0, math.pi, 2**14, endpoint=False)  # opposite directions count the same
    directions = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    first_std, second_std = (np.sqrt(np.sum(directions @ s * directions, axis=1)) for s in (covariance, other))
    return float(np.mean((directions @ delta) ** 2 + (first_std - second_std) ** 2))


def gaussian_mmd2(
    first: GaussianLaw, second: GaussianLaw, *, bandwidth: float, n: float = math.inf, m: float = math.inf
) -> float:
    r"""Squared maximum mean discrepancy between two normal laws, or the expectation of its V-statistic.

    .. math:: \mathbb{E}k(X,Y) = \Bigl|I + \frac{S_1+S_2}{\ell^2}\Bigr|^{-1/2}
        \exp\Bigl(-\tfrac12\Delta^\top(S_1+S_2+\ell^2I)^{-1}\Delta\Bigr), \qquad k(x,y) = e^{-|x-y|^2/(2\ell^2)}

    .. math:: \mathbb{E}k(X,X') + \mathbb{E}k(Y,Y') - 2\,\mathbb{E}k(X,Y)
        + \frac{1-\mathbb{E}k(X,X')}{n} + \frac{1-\mathbb{E}k(Y,Y')}{m}

    The last two terms are the bias of the V-statistic, which counts every point as a pair with itself.

    Args:
        first: The law of X, of dimension D.
        second: The law of Y, of dimension D.
        bandwidth: Width :math:`\ell` of the kernel, positive.
        n: Points of X in the V-statistic, at least 1; infinite for the discrepancy, which every U-statistic expects.
        m: Points of Y in the V-statistic, at least 1; infinite likewise.

    Returns:
        The squared discrepancy or the expectation.

    Raises:
        ValueError: If an argument is out of its range.

    References:
        Gretton et al., "A Kernel Two-Sample Test", 2012. JMLR 13, lemma 6.
    """
    check_positive("bandwidth", bandwidth)
    check_count("n", n, 1)
    check_count("m", m, 1)
    xx, yy = (_expected_kernel(law, law, bandwidth) for law in (first, second))
    xy = _expected_kernel(first, second, bandwidth)
    return xx + yy - 2 * xy + (1 - xx) / n + (1 - yy) / m


def identical_laws_neighbors(n_real: int, n_synthetic: int, *, k: int) -> NeighborExpectations:
    r"""Expected density and coverage of two samples of one continuous law, in any dimension.

    .. math:: \mathbb{E}\,\text{density} = 1, \qquad \mathbb{E}\,\text{coverage} = 1 - \prod_{i=1}^k\frac{N-i}{M+N-i}

    Convention: the radius of a real point is the distance to its k-th neighbor without the point itself.

    Args:
        n_real: Real points N, above k.
        n_synthetic: Synthetic points M, at least 1.
        k: Number of neighbors, at least 1.

    Returns:
        Both expectations.

    Raises:
        ValueError: If a count is out of its range.

    References:
        Naeem et al., "Reliable Fidelity and Diversity Metrics for Generative Models", 2020. arXiv:2002.09797.
    """
    check_count("k", k, 1)
    check_count("n_real", n_real, k + 1)
    check_count("n_synthetic", n_synthetic, 1)
    missed = math.prod((n_real - i) / (n_synthetic + n_real - i) for i in range(1, k + 1))
    return NeighborExpectations(1.0, 1 - missed)


def epps_pulley_expectation(n: int, *, mean: float = 0.0, variance: float = 1.0) -> float:
    r"""Expected Epps-Pulley statistic of n draws of a normal law, tested against the standard normal one.

    .. math:: 1 - \frac{1}{\sqrt{1+2s^2}} + n\Bigl\{\frac{1}{\sqrt{1+2s^2}} + \frac{1}{\sqrt3}
        - \frac{2}{\sqrt{2+s^2}}\exp\Bigl(-\frac{m^2}{2(2+s^2)}\Bigr)\Bigr\}

    which is :math:`1-1/\sqrt3` for the standard normal law and every n. Convention: no standardization, factor n, and
    the N(0, 1) density as weight on the whole line; :math:`e^{-t^2/2}` as weight gives :math:`\sqrt{2\pi}` times that.

    Args:
        n: Number of draws, at least 1.
        mean: Mean m of the law.
        variance: Variance :math:`s^2` of the law, at least 0; 0 for a collapsed law.

    Returns:
        The expectation.

    Raises:
        ValueError: If an argument is out of its range.

    References:
        Epps and Pulley, "A test for normality based on the empirical characteristic function", 1983. Biometrika 70.
    """
    check_count("n", n, 1)
    check_count("variance", variance, 0)
    power = 1 / math.sqrt(1 + 2 * variance)
    cross = math.exp(-(mean**2) / (2 * (2 + variance))) / math.sqrt(2 + variance)
    return 1 - power + n * (power + 1 / math.sqrt(3) - 2 * cross)


def radial_tail_mass(q: float, variance: float, *, dim: int = 1) -> float:
    r"""Mass that :math:`N(0, s^2I_D)` keeps where the standard normal law has its outer mass q.

    .. math:: P\bigl(\chi^2_D > r_q^2/s^2\bigr), \qquad P(\chi^2_D > r_q^2) = q

    Args:
        q: Mass of the tail region of the real law, in (0, 1).
        variance: Variance :math:`s^2` relative to the real one, positive.
        dim: Dimension D, at least 1; 1 for the two-sided tail.

    Returns:
        The mass, q for variance 1.

    Raises:
        ValueError: If an argument is out of its range.
    """
    _check_tail(q)
    check_positive("variance", variance)
    check_count("dim", dim, 1)
    return chi_square_tail(chi_square_quantile(q, dim) / variance, dim)


def one_sided_tail_mass(q: float, variance: float, *, mean: float = 0.0) -> float:
    r"""Mass that :math:`N(m, s^2)` keeps where the standard normal law has its upper mass q.

    .. math:: P\Bigl(Z > \frac{z_q - m}{s}\Bigr), \qquad P(Z > z_q) = q

    Args:
        q: Mass of the tail region of the real law, in (0, 1).
        variance: Variance :math:`s^2` relative to the real one, positive.
        mean: Mean m in units of the real standard deviation.

    Returns:
        The mass, q for variance 1 and mean 0.

    Raises:
        ValueError: If an argument is out of its range.
    """
    _check_tail(q)
    check_positive("variance", variance)
    return normal_tail((-NormalDist().inv_cdf(q) - mean) / math.sqrt(variance))


def first_fit_expected_tail_mass(q: float, n: int, *, ddof: int) -> float:
    r"""Expected two-sided tail mass of a normal law fitted to n real points, the model of generation 0.

    .. math:: \mathbb{E}\,2P\Bigl(Z > \frac{z_{q/2}}{\sqrt{1/n + s^2}}\Bigr), \qquad
        s^2 \sim \frac{\chi^2_{n-1}}{n-\mathrm{ddof}}

    by quadrature; the error of the mean counts as 1/n. For q up to 0.05 it is above q with both estimators: in
    expectation the tails do not vanish at once.

    Args:
        q: Mass of the tail region :math:`|x| > z_{q/2}` of the real law, in (0, 1).
        n: Points of the fit, at least 2.
        ddof: 1 for the unbiased variance, 0 for maximum likelihood.

    Returns:
        The expectation over real samples.

    Raises:
        ValueError: If an argument is out of its range.
    """
    _check_tail(q)
    check_fit(1, n, ddof=ddof)
    points, weights = chi_square_grid(n - 1)
    bound = -NormalDist().inv_cdf(q / 2)
    spread = np.sqrt(1 / n + points / (n - ddof))
    return math.fsum(weight * 2 * normal_tail(bound / s) for weight, s in zip(weights, spread, strict=True))


def _expected_kernel(first: GaussianLaw, second: GaussianLaw, bandwidth: float) -> float:
    """Expectation of the kernel between independent draws of two laws."""
    (mean, covariance), (other_mean, other) = check_laws(first, second)
    delta = mean - other_mean
    total = covariance + other + bandwidth**2 * np.eye(len(delta))
    exponent = delta @ np.linalg.solve(total, delta) + np.linalg.slogdet(total / bandwidth**2)[1]
    return math.exp(-exponent / 2)


def _check_tail(q: float) -> None:
    if not 0 < q < 1:
        raise ValueError(f"q must lie in (0, 1), the mass of the tail region, got {q}")
