r"""Laws of the Gaussian replace chain that see collapse: logarithm, median and decay rate of the variance, likelihood.

The chain and its conventions are those of :mod:`collapse.theory.gaussian.replace`; t counts model fits, the
generation index is t - 1. The logarithm of the fitted variance is a random walk with independent steps,

.. math:: \log\sigma_t^2 = \log\sigma_0^2 + (t-1)\log\lambda + \sum_{j=1}^t \log\frac{\chi^2_\nu(j)}{n-\mathrm{ddof}},

and its drift is negative for both estimators: this is the almost sure collapse, which the expectation hides.
"""

from __future__ import annotations

import math

import numpy as np

from collapse.theory._checks import check_count, check_fit
from collapse.theory._special import digamma, log_gamma, trigamma
from collapse.theory.gaussian.replace import replace_variance

__all__ = [
    "replace_log_variance_rate",
    "replace_critical_multiplier",
    "replace_expected_log_variance",
    "replace_log_variance_variance",
    "replace_median_variance",
    "replace_expected_test_nll",
]


def replace_log_variance_rate(n: int, *, ddof: int) -> float:
    r"""Almost sure growth of the log variance per generation; negative.

    .. math:: \frac1t\log\sigma_t^2 \to \psi(\nu/2) + \log\frac{2}{n-\mathrm{ddof}}
        \approx \begin{cases}-1/(n-1) & \mathrm{ddof}=1\\ -2/n & \mathrm{ddof}=0\end{cases}

    The synthetic draws are not scaled; a multiplier adds its logarithm.
    Erratum: "collapse after about n generations" (Suresh et al.) is for the standard deviation under maximum
    likelihood; for ddof=1 it is about 2n.

    Args:
        n: Points per fit, at least 2.
        ddof: 1 for the unbiased variance, 0 for maximum likelihood.

    Returns:
        The drift of :math:`\log\sigma_t^2`.

    Raises:
        ValueError: If an argument is out of its range.

    References:
        Suresh et al., "Rate of Model Collapse in Recursive Training", 2024. arXiv:2412.17646.
    """
    check_fit(1, n, ddof=ddof)
    return digamma((n - 1) / 2) + math.log(2 / (n - ddof))


def replace_critical_multiplier(n: int, *, ddof: int) -> float:
    r"""Variance multiplier at which the expected log variance is constant.

    .. math:: \lambda_c = (n-\mathrm{ddof})\,e^{-\psi(\nu/2)}/2

    Between :math:`1/k` and this value the typical chain collapses while :math:`\mathbb{E}\sigma_t^2` explodes.

    Args:
        n: Points per fit, at least 2.
        ddof: 1 for the unbiased variance, 0 for maximum likelihood.

    Returns:
        The critical multiplier, above one.

    Raises:
        ValueError: If an argument is out of its range.
    """
    return math.exp(-replace_log_variance_rate(n, ddof=ddof))


def replace_expected_log_variance(t: int, n: int, *, ddof: int, variance: float = 1.0, lam: float = 1.0) -> float:
    r"""Expectation of the log of the fitted variance.

    .. math:: \mathbb{E}\log\sigma_t^2 = \log\sigma_0^2 + (t-1)\log\lambda
        + t\,\bigl[\psi(\nu/2) + \log\tfrac{2}{n-\mathrm{ddof}}\bigr]

    Args:
        t: Number of fits, at least 1.
        n: Points per fit, at least 2.
        ddof: 1 for the unbiased variance, 0 for maximum likelihood.
        variance: Variance of the real law, positive.
        lam: Multiplier on the variance of synthetic draws, positive.

    Returns:
        The expectation of :math:`\log\sigma_t^2`, in nats.

    Raises:
        ValueError: If an argument is out of its range.
    """
    check_fit(t, n, ddof=ddof, variance=variance, lam=lam)
    return math.log(variance) + (t - 1) * math.log(lam) + t * replace_log_variance_rate(n, ddof=ddof)


def replace_log_variance_variance(t: int, n: int) -> float:
    r"""Variance of the log of the fitted variance over chains.

    .. math:: \operatorname{Var}\log\sigma_t^2 = t\,\psi_1(\nu/2)

    The same for every ddof, real variance and multiplier.

    Args:
        t: Number of fits, at least 1.
        n: Points per fit, at least 2.

    Returns:
        The variance of :math:`\log\sigma_t^2`, in squared nats.

    Raises:
        ValueError: If an argument is out of its range.
    """
    check_fit(t, n, ddof=0)
    return t * trigamma((n - 1) / 2)


def replace_median_variance(t: int, n: int, *, ddof: int, variance: float = 1.0, lam: float = 1.0) -> float:
    r"""Median of the fitted variance over chains.

    .. math:: \sigma_0^2\,k^t\lambda^{t-1}e^{q}, \qquad q\ \text{the median of}\ \sum_{j=1}^t\log(\chi^2_\nu(j)/\nu),
        \qquad \varphi(u) = \Bigl[\frac{\Gamma(\nu/2+iu)}{\Gamma(\nu/2)}\Bigl(\frac2\nu\Bigr)^{iu}\Bigr]^t

    The characteristic function :math:`\varphi` is inverted numerically; the error is below 1e-9.

    Args:
        t: Number of fits, at least 1.
        n: Points per fit, at least 2.
        ddof: 1 for the unbiased variance, 0 for maximum likelihood.
        variance: Variance of the real law, positive.
        lam: Multiplier on the variance of synthetic draws, positive.

    Returns:
        The median of :math:`\sigma_t^2`.

    Raises:
        ValueError: If an argument is out of its range.
    """
    scale = replace_variance(t, n, ddof=ddof, variance=variance, lam=lam)
    return scale * math.exp(_median_log_product(t, n - 1))


def replace_expected_test_nll(t: int, n: int, *, ddof: int, variance: float = 1.0, lam: float = 1.0) -> float:
    r"""Expected negative log-likelihood of a real point under model t.

    .. math:: \tfrac12\log 2\pi + \tfrac12\mathbb{E}\log\sigma_t^2 + \tfrac12\Bigl[\lambda^{-(t-1)}r^t
        + \tfrac1n\sum_{i=1}^{t}\lambda^{-(i-1)}r^{i}\Bigr], \qquad r = \frac{n-\mathrm{ddof}}{n-3}

    Finite for n above 3 only, and exponential in t. The expected Kullback-Leibler divergence
    :math:`\mathrm{KL}(N_0\Vert N_t)` is this minus :math:`\tfrac12\log(2\pi e\sigma_0^2)`.

    Args:
        t: Number of fits, at least 1.
        n: Points per fit, at least 4.
        ddof: 1 for the unbiased variance, 0 for maximum likelihood.
        variance: Variance of the real law, positive.
        lam: Multiplier on the variance of synthetic draws, positive.

    Returns:
        The expected loss, in nats per point.

    Raises:
        ValueError: If an argument is out of its range.
        OverflowError: If the result exceeds float64, as it does for very long chains.
    """
    check_count("n", n, 4)
    log_variance = replace_expected_log_variance(t, n, ddof=ddof, variance=variance, lam=lam)
    r = (n - ddof) / (n - 3)  # E[1 / sigma_1^2] for a unit real variance
    spread = r * (r / lam) ** (t - 1)
    drift = math.fsum(r * (r / lam) ** i for i in range(t)) / n
    return 0.5 * (math.log(2 * math.pi) + log_variance + spread + drift)


def _median_log_product(t: int, nu: int) -> float:
    r"""Median of the sum of t logarithms of :math:`\chi^2_\nu/\nu`, by the inversion formula of Gil-Pelaez.

    .. math:: P(X \le x) = \tfrac12 - \tfrac1\pi\int_0^\infty \operatorname{Im}[e^{-iux}\varphi(u)]\,du/u

    The midpoint rule of step h errs by the mass beyond :math:`2\pi/h`, here 64 standard deviations; the sum stops at 64
    over the standard deviation, where :math:`\varphi` is below 1e-16 even for one log of one degree of freedom.
    """
    mean = t * (digamma(nu / 2) + math.log(2 / nu))
    std = math.sqrt(t * trigamma(nu / 2))
    step = 2 * math.pi / (64 * std)
    u = step * (np.arange(math.ceil(64 / std / step)) + 0.5)
    log_phi = t * (log_gamma(nu / 2 + 1j * u) - math.lgamma(nu / 2) + 1j * u * math.log(2 / nu))

    low, high = mean - std, mean + std  # a median is within one standard deviation of the mean
    for _ in range(60):
        middle = (low + high) / 2
        excess = float(np.sum(np.exp(log_phi - 1j * u * middle).imag / u))  # proportional to 1/2 - P(X <= middle)
        low, high = (middle, high) if excess > 0 else (low, middle)
    return (low + high) / 2
