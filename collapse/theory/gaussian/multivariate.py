r"""Laws of the Gaussian replace chain in D dimensions: trace, determinant, anisotropy, Wasserstein distance.

The chain and its conventions are those of :mod:`collapse.theory.gaussian.replace`, with the real law
:math:`N(\mu_0, S_0)`; t counts model fits, the generation index is t - 1. The fitted covariance is a product of Wishart
factors: given the past, :math:`(n-\mathrm{ddof})\Sigma_t \sim W_D(\nu, \lambda\Sigma_{t-1})`, :math:`\nu = n - 1`.

Long chains: the smallest eigenvalue decays fastest, so a float64 Cholesky factorization of the fitted covariance
fails in the end (n = 12, D = 2: half of the chains by generation 327).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from collapse.theory._checks import check_count, check_covariance, check_fit, check_positive
from collapse.theory._special import chi_square_quadrature, digamma
from collapse.theory.gaussian.replace import replace_mean_variance, replace_variance

__all__ = [
    "TraceMoments",
    "Bounds",
    "replace_mean_square_error",
    "replace_trace_moments",
    "replace_log_eigenvalue_rates",
    "replace_expected_logdet",
    "replace_expected_det",
    "replace_w2_bounds",
    "replace_expected_w2_bivariate_first_fit",
]


class TraceMoments(NamedTuple):
    """Expectations of tr Σ, (tr Σ)² and tr Σ² of the fitted covariance Σ."""

    trace: float
    trace_squared: float
    trace_of_square: float


class Bounds(NamedTuple):
    """A lower and an upper bound."""

    lower: float
    upper: float


def replace_mean_square_error(t: int, n: int, *, covariance: ArrayLike, ddof: int, lam: float = 1.0) -> float:
    r"""Expected squared distance of the fitted mean from the real mean.

    .. math:: \mathbb{E}\lVert\mu_t-\mu_0\rVert^2 = \frac{\operatorname{tr}S_0}{n}\sum_{j<t}(k\lambda)^j

    Args:
        t: Number of fits, at least 1.
        n: Points per fit, at least 2.
        covariance: Covariance of the real law, (D, D), positive definite.
        ddof: 1 for the unbiased covariance, 0 for maximum likelihood.
        lam: Multiplier on the covariance of synthetic draws, positive.

    Returns:
        The expected squared Euclidean distance.

    Raises:
        ValueError: If an argument is out of its range.
    """
    return replace_mean_variance(t, n, ddof=ddof, variance=float(np.trace(check_covariance(covariance))), lam=lam)


def replace_trace_moments(t: int, n: int, *, covariance: ArrayLike, ddof: int, lam: float = 1.0) -> TraceMoments:
    r"""First and second moments of the trace of the fitted covariance.

    .. math:: \mathbb{E}\Sigma_t = k^t\lambda^{t-1}S_0, \qquad
        a' = k^2\lambda^2\Bigl(a + \frac{2b}{\nu}\Bigr), \qquad
        b' = k^2\lambda^2\Bigl(\frac a\nu + \Bigl(1+\frac1\nu\Bigr)b\Bigr)

    with :math:`a = \mathbb{E}(\operatorname{tr}\Sigma)^2`, :math:`b = \mathbb{E}\operatorname{tr}\Sigma^2`, and no
    multiplier in the first step.

    Args:
        t: Number of fits, at least 1.
        n: Points per fit, at least 2.
        covariance: Covariance of the real law, (D, D), positive definite.
        ddof: 1 for the unbiased covariance, 0 for maximum likelihood.
        lam: Multiplier on the covariance of synthetic draws, positive.

    Returns:
        The three expectations; the second and third have heavy-tailed sample estimates.

    Raises:
        ValueError: If an argument is out of its range.
    """
    check_fit(t, n, ddof=ddof, lam=lam)
    s0, nu = check_covariance(covariance), n - 1
    trace = float(np.trace(s0))
    a, b = trace**2, float(np.sum(s0 * s0))
    for _ in range(t):
        a, b = a + 2 * b / nu, a / nu + (1 + 1 / nu) * b
    scale = replace_variance(t, n, ddof=ddof, lam=lam)
    return TraceMoments(scale * trace, scale**2 * a, scale**2 * b)


def replace_log_eigenvalue_rates(n: int, dim: int, *, ddof: int) -> NDArray[np.float64]:
    r"""Almost sure growth per generation of the logarithms of the eigenvalues, largest first.

    .. math:: \psi\Bigl(\frac{n-i}{2}\Bigr) + \log\frac{2}{n-\mathrm{ddof}}, \qquad i = 1,\dots,D

    The rates differ, so the fitted covariance becomes ever more anisotropic. They are asymptotic in t.

    Args:
        n: Points per fit, above D.
        dim: Dimension D, at least 1.
        ddof: 1 for the unbiased covariance, 0 for maximum likelihood.

    Returns:
        The Lyapunov exponents, (D,), decreasing.

    Raises:
        ValueError: If an argument is out of its range.

    References:
        Newman, "The distribution of Lyapunov exponents", 1986. Comm. Math. Phys. 103.
    """
    _check_dimension(n, dim)
    check_fit(1, n, ddof=ddof)
    return np.array([digamma((n - i) / 2) + math.log(2 / (n - ddof)) for i in range(1, dim + 1)])


def replace_expected_logdet(t: int, n: int, *, covariance: ArrayLike, ddof: int, lam: float = 1.0) -> float:
    r"""Expectation of the log-determinant of the fitted covariance.

    .. math:: \log\det S_0 + D(t-1)\log\lambda
        + t\Bigl[\sum_{i=1}^D\psi\Bigl(\frac{n-i}{2}\Bigr) + D\log\frac{2}{n-\mathrm{ddof}}\Bigr]

    Args:
        t: Number of fits, at least 1.
        n: Points per fit, above D.
        covariance: Covariance of the real law, (D, D), positive definite.
        ddof: 1 for the unbiased covariance, 0 for maximum likelihood.
        lam: Multiplier on the covariance of synthetic draws, positive.

    Returns:
        The expectation of :math:`\log\det\Sigma_t`, in nats.

    Raises:
        ValueError: If an argument is out of its range.
    """
    check_fit(t, n, ddof=ddof, lam=lam)
    s0 = check_covariance(covariance)
    rate = float(np.sum(replace_log_eigenvalue_rates(n, len(s0), ddof=ddof)))
    return float(np.linalg.slogdet(s0)[1]) + len(s0) * (t - 1) * math.log(lam) + t * rate


def replace_expected_det(t: int, n: int, *, covariance: ArrayLike, ddof: int, lam: float = 1.0) -> float:
    r"""Expectation of the determinant of the fitted covariance.

    .. math:: \det S_0\;\lambda^{D(t-1)}\Bigl[\prod_{i=1}^D\frac{n-i}{n-\mathrm{ddof}}\Bigr]^t

    Args:
        t: Number of fits, at least 1.
        n: Points per fit, above D.
        covariance: Covariance of the real law, (D, D), positive definite.
        ddof: 1 for the unbiased covariance, 0 for maximum likelihood.
        lam: Multiplier on the covariance of synthetic draws, positive.

    Returns:
        The expectation of :math:`\det\Sigma_t`.

    Raises:
        ValueError: If an argument is out of its range.
    """
    check_fit(t, n, ddof=ddof, lam=lam)
    s0 = check_covariance(covariance)
    _check_dimension(n, len(s0))
    factor = math.prod((n - i) / (n - ddof) for i in range(1, len(s0) + 1))
    return float(np.linalg.det(s0)) * factor**t * lam ** (len(s0) * (t - 1))


def replace_w2_bounds(t: int, n: int, *, covariance: ArrayLike, ddof: int, lam: float = 1.0) -> Bounds:
    r"""Bounds on the expected squared 2-Wasserstein distance between model t and the real law.

    .. math:: (1-\sqrt{e})^2 + m \;\le\; \frac{\mathbb{E}W_2^2}{\operatorname{tr}S_0} \;\le\; 1 + e + m, \qquad
        e = k^t\lambda^{t-1}, \quad m = \frac1n\sum_{j<t}(k\lambda)^j

    Lower: operator concavity of the square root. Upper: independent coupling. Without multiplier they are
    :math:`t/n` and :math:`2 + t/n` for ddof=1, :math:`2(1-k^{t/2})` and 2 for ddof=0.
    Erratum: the divergence of Shumailov et al., Theorem 3.1, holds for ddof=1 only.

    Args:
        t: Number of fits, at least 1.
        n: Points per fit, at least 2.
        covariance: Covariance of the real law, (D, D), positive definite.
        ddof: 1 for the unbiased covariance, 0 for maximum likelihood.
        lam: Multiplier on the covariance of synthetic draws, positive.

    Returns:
        The lower and the upper bound.

    Raises:
        ValueError: If an argument is out of its range.
    """
    trace = float(np.trace(check_covariance(covariance)))
    mean = replace_mean_variance(t, n, ddof=ddof, lam=lam)
    shrinkage = replace_variance(t, n, ddof=ddof, lam=lam)
    return Bounds(trace * ((1 - math.sqrt(shrinkage)) ** 2 + mean), trace * (1 + shrinkage + mean))


def replace_expected_w2_bivariate_first_fit(n: int, *, ddof: int, variance: float = 1.0) -> float:
    r"""Expected squared 2-Wasserstein distance at t = 1 for the real law :math:`N(\mu_0, \sigma_0^2 I_2)`.

    .. math:: \frac{\mathbb{E}W_2^2}{\sigma_0^2} = \frac2n + \frac{2\nu}{n-\mathrm{ddof}} + 2
        - 2\sqrt{\frac{2}{n-\mathrm{ddof}}}\,\frac{\Gamma(\nu+\frac12)}{\Gamma(\nu)}
        \int_0^1(\nu-1)u^{\nu-2}\sqrt{1+u}\,du

    The trace of :math:`W_2(\nu)` is :math:`\chi^2_{2\nu}`, independent of :math:`u = 2\sqrt{\det}/\operatorname{tr}`.

    Args:
        n: Points of the fit, at least 3.
        ddof: 1 for the unbiased covariance, 0 for maximum likelihood.
        variance: Variance of the real law in each direction, positive.

    Returns:
        The expected squared distance.

    Raises:
        ValueError: If an argument is out of its range.
    """
    check_count("n", n, 3)
    check_fit(1, n, ddof=ddof)
    check_positive("variance", variance)
    nu = n - 1
    points, weights = chi_square_quadrature(2)  # twice a standard exponential y; u = exp(-y / (nu - 1))
    integral = float(weights @ np.sqrt(1 + np.exp(-points / (2 * (nu - 1)))))
    root_trace = math.sqrt(2 / (n - ddof)) * math.exp(math.lgamma(nu + 0.5) - math.lgamma(nu))
    return variance * (2 / n + 2 * nu / (n - ddof) + 2 - 2 * root_trace * integral)


def _check_dimension(n: int, dim: int) -> None:
    if not 1 <= dim < n:
        raise ValueError(f"dim must lie in [1, {n}), below the number of points of a fit, got {dim}; use more points")
