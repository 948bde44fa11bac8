r"""Laws of the Gaussian accumulate chain: every fit sees all real and all synthetic points so far.

The first pool has :math:`n_0` real points; every generation adds n draws of the last model and the whole pool of
:math:`N_t = n_0 + (t-1)n` points is fitted. With :math:`v_t` the fitted variance, exactly and for every ddof,

.. math:: v_t = v_{t-1}G_t, \qquad G_t = \frac{N_{t-1} - \mathrm{ddof} + \chi^2_{n-1} + (N_{t-1}/N_t)\,\chi^2_1}
    {N_t - \mathrm{ddof}} \quad\text{independent}, \qquad
    \mathbb{E}G_t = 1 - \frac{n}{N_t(N_t-\mathrm{ddof})},

so every moment is a product over fits. The variance has a positive limit almost surely: no collapse, a permanent loss.

* t counts model fits: t = 1 is the fit on real data only, so the generation index of the framework is t - 1.
* ddof has no default; the unbiased variance (1) and maximum likelihood (0) have different limits.
* D dimensions: the mean squared error and the expected variance are linear in ``variance``; pass the trace of the real
  covariance for the expected squared distance of the means and the expected trace.

References:
    Setting: Gerstgrasser et al., "Is Model Collapse Inevitable?", 2024. arXiv:2404.01413. Gaussian case under maximum
    likelihood: Kazdan et al., "Collapse or Thrive?", 2024. arXiv:2410.16713.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from collapse.theory._checks import check_count, check_fit
from collapse.theory._special import chi_square_quadrature
from collapse.theory.gaussian.logarithm import replace_expected_log_variance
from collapse.theory.gaussian.replace import replace_expected_std

__all__ = [
    "accumulate_mean_square_error",
    "accumulate_variance",
    "accumulate_variance_of_variance",
    "accumulate_expected_log_variance",
    "accumulate_expected_std",
    "accumulate_expected_w2",
    "accumulate_limit_variance",
    "accumulate_limit_mean_square_error",
]


def accumulate_mean_square_error(t: int, n: int, *, ddof: int, n0: int | None = None, variance: float = 1.0) -> float:
    r"""Expected squared distance of the fitted mean from the real mean.

    .. math:: \mathbb{E}(\mu_t-\mu_0)^2 = \frac{\sigma_0^2}{n_0} + \sum_{j=2}^t\frac{n}{N_j^2}\,\mathbb{E}v_{j-1}

    For ddof=0 it is exactly :math:`\sigma_0^2 - \mathbb{E}v_t`.

    Args:
        t: Number of fits, at least 1.
        n: Synthetic points added per generation, at least 1.
        ddof: 1 for the unbiased variance, 0 for maximum likelihood.
        n0: Real points, at least 2; n if None.
        variance: Variance of the real law, positive.

    Returns:
        The expected squared error.

    Raises:
        ValueError: If an argument is out of its range.
    """
    n0 = _check_pool(t, n, ddof, n0, variance)
    expected = _expected_variances(t, n, n0, ddof)
    return variance * (1 / n0 + float(np.sum(n / _pool_sizes(t, n, n0) ** 2 * expected[:-1])))


def accumulate_variance(t: int, n: int, ddof: int, *, n0: int | None = None, variance: float = 1.0) -> float:
    r"""Expectation of the fitted variance.

    .. math:: \mathbb{E}v_t = \sigma_0^2\,\frac{n_0-1}{n_0-\mathrm{ddof}}
        \prod_{j=2}^t\Bigl[1 - \frac{n}{N_j(N_j-\mathrm{ddof})}\Bigr]

    For ddof=1 it is not constant: the pooled points are dependent, so the "unbiased" variance is biased.

    Args:
        t: Number of fits, at least 1.
        n: Synthetic points added per generation, at least 1.
        ddof: 1 for the unbiased variance, 0 for maximum likelihood.
        n0: Real points, at least 2; n if None.
        variance: Variance of the real law, positive.

    Returns:
        The expectation of :math:`v_t`.

    Raises:
        ValueError: If an argument is out of its range.
    """
    n0 = _check_pool(t, n, ddof, n0, variance)
    return variance * float(_expected_variances(t, n, n0, ddof)[-1])


def accumulate_variance_of_variance(
    t: int, n: int, *, ddof: int, n0: int | None = None, variance: float = 1.0
) -> float:
    r"""Variance of the fitted variance over chains, in one dimension.

    .. math:: \operatorname{Var}v_t = (\mathbb{E}v_t)^2\Bigl[\Bigl(1+\frac{2}{n_0-1}\Bigr)
        \prod_{j=2}^t\Bigl(1 + \frac{\operatorname{Var}G_j}{(\mathbb{E}G_j)^2}\Bigr) - 1\Bigr], \qquad
        \operatorname{Var}G_j = \frac{2(n-1) + 2(N_{j-1}/N_j)^2}{(N_j-\mathrm{ddof})^2}

    Args:
        t: Number of fits, at least 1.
        n: Synthetic points added per generation, at least 1.
        ddof: 1 for the unbiased variance, 0 for maximum likelihood.
        n0: Real points, at least 2; n if None.
        variance: Variance of the real law, positive.

    Returns:
        The variance of :math:`v_t`; heavy-tailed when estimated from chains with few points.

    Raises:
        ValueError: If an argument is out of its range.
    """
    n0 = _check_pool(t, n, ddof, n0, variance)
    pools = _pool_sizes(t, n, n0)
    growth = 1 - n / (pools * (pools - ddof))
    spread = (2 * (n - 1) + 2 * (1 - n / pools) ** 2) / (pools - ddof) ** 2
    log_ratio = math.log1p(2 / (n0 - 1)) + float(np.sum(np.log1p(spread / growth**2)))
    return (variance * float(_expected_variances(t, n, n0, ddof)[-1])) ** 2 * math.expm1(log_ratio)


def accumulate_expected_log_variance(
    t: int, n: int, *, ddof: int, n0: int | None = None, variance: float = 1.0
) -> float:
    r"""Expectation of the log of the fitted variance, in one dimension.

    .. math:: \mathbb{E}\log v_t = \log\sigma_0^2 + \psi\Bigl(\frac{n_0-1}{2}\Bigr)
        + \log\frac{2}{n_0-\mathrm{ddof}} + \sum_{j=2}^t\mathbb{E}\log G_j

    The expectations of :math:`\log G_j` are Gauss-Laguerre quadratures in two chi-square variables.

    Args:
        t: Number of fits, at least 1.
        n: Synthetic points added per generation, at least 1.
        ddof: 1 for the unbiased variance, 0 for maximum likelihood.
        n0: Real points, at least 2; n if None.
        variance: Variance of the real law, positive.

    Returns:
        The expectation of :math:`\log v_t`, in nats.

    Raises:
        ValueError: If an argument is out of its range.
    """
    n0 = _check_pool(t, n, ddof, n0, variance)
    first = replace_expected_log_variance(1, n0, ddof=ddof, variance=variance)
    return first + math.fsum(_growth_expectations(np.log, t, n, n0, ddof))


def accumulate_expected_std(t: int, n: int, *, ddof: int, n0: int | None = None, variance: float = 1.0) -> float:
    r"""Expectation of the fitted standard deviation, in one dimension.

    .. math:: \mathbb{E}\sqrt{v_t} = \sigma_0\,c_4(n_0)\sqrt{\frac{n_0-1}{n_0-\mathrm{ddof}}}
        \prod_{j=2}^t\mathbb{E}\sqrt{G_j}

    The expectations of :math:`\sqrt{G_j}` are Gauss-Laguerre quadratures in two chi-square variables.

    Args:
        t: Number of fits, at least 1.
        n: Synthetic points added per generation, at least 1.
        ddof: 1 for the unbiased variance, 0 for maximum likelihood.
        n0: Real points, at least 2; n if None.
        variance: Variance of the real law, positive.

    Returns:
        The expectation of the standard deviation.

    Raises:
        ValueError: If an argument is out of its range.
    """
    n0 = _check_pool(t, n, ddof, n0, variance)
    first = replace_expected_std(1, n0, ddof=ddof, variance=variance)
    return first * math.prod(_growth_expectations(np.sqrt, t, n, n0, ddof))


def accumulate_expected_w2(t: int, n: int, *, ddof: int, n0: int | None = None, variance: float = 1.0) -> float:
    r"""Expected squared 2-Wasserstein distance between model t and the real law, in one dimension.

    .. math:: \mathbb{E}W_2^2 = \mathbb{E}(\mu_t-\mu_0)^2 + \mathbb{E}v_t + \sigma_0^2
        - 2\sigma_0\,\mathbb{E}\sqrt{v_t}

    Args:
        t: Number of fits, at least 1.
        n: Synthetic points added per generation, at least 1.
        ddof: 1 for the unbiased variance, 0 for maximum likelihood.
        n0: Real points, at least 2; n if None.
        variance: Variance of the real law, positive.

    Returns:
        The expected squared distance.

    Raises:
        ValueError: If an argument is out of its range.
    """
    error = accumulate_mean_square_error(t, n, ddof=ddof, n0=n0, variance=variance)
    expected = accumulate_variance(t, n, ddof=ddof, n0=n0, variance=variance)
    std = accumulate_expected_std(t, n, ddof=ddof, n0=n0, variance=variance)
    return error + expected + variance - 2 * math.sqrt(variance) * std


def accumulate_limit_variance(n: int, *, ddof: int, n0: int | None = None, variance: float = 1.0) -> float:
    r"""Limit of the expected variance after infinitely many fits.

    .. math:: \sigma_0^2\,\frac{n_0-1}{n_0-\mathrm{ddof}}\cdot
        \frac{\Gamma(1+a)\,\Gamma(1+a-\mathrm{ddof}/n)}{\Gamma(1+a-r_+)\,\Gamma(1+a-r_-)}, \qquad a = \frac{n_0}{n},
        \quad r_\pm = \frac{\mathrm{ddof}\pm\sqrt{\mathrm{ddof}^2+4n}}{2n}

    For ddof=0 and :math:`n_0=n` it is :math:`\sigma_0^2\,\sin(\pi/\sqrt n)/(\pi/\sqrt n)`.
    Erratum: that limit is maximum likelihood only (the code of Kazdan et al. uses it); 0.8434 against 0.9351 for
    ddof=1 at n = 10. Accumulating "avoids collapse", yet loses variance for ever.

    Args:
        n: Synthetic points added per generation, at least 1.
        ddof: 1 for the unbiased variance, 0 for maximum likelihood.
        n0: Real points, at least 2; n if None.
        variance: Variance of the real law, positive.

    Returns:
        The limit of :math:`\mathbb{E}v_t`, positive and below the real variance.

    Raises:
        ValueError: If an argument is out of its range.
    """
    n0 = _check_pool(1, n, ddof, n0, variance)
    x, root = 1 + n0 / n, math.sqrt(ddof**2 + 4 * n)
    log_ratio = math.lgamma(x) + math.lgamma(x - ddof / n)
    log_ratio -= math.lgamma(x - (ddof + root) / (2 * n)) + math.lgamma(x - (ddof - root) / (2 * n))
    return variance * (n0 - 1) / (n0 - ddof) * math.exp(log_ratio)


def accumulate_limit_mean_square_error(n: int, *, n0: int | None = None, variance: float = 1.0) -> float:
    r"""Limit of the squared error of the mean after infinitely many fits, under maximum likelihood (ddof=0).

    .. math:: \sigma_0^2 - \lim_t\mathbb{E}v_t \approx \frac{\sigma_0^2\,\pi^2}{6n} \quad (n_0 = n)

    The unbiased variance has no such closed form; take :func:`accumulate_mean_square_error` at a large t.

    Args:
        n: Synthetic points added per generation, at least 1.
        n0: Real points, at least 2; n if None.
        variance: Variance of the real law, positive.

    Returns:
        The limit of :math:`\mathbb{E}(\mu_t-\mu_0)^2`.

    Raises:
        ValueError: If an argument is out of its range.
    """
    return variance - accumulate_limit_variance(n, ddof=0, n0=n0, variance=variance)


def _check_pool(t: int, n: int, ddof: int, n0: int | None, variance: float) -> int:
    """Check the arguments of a law and return the number of real points."""
    n0 = n if n0 is None else n0
    check_fit(t, n0, ddof=ddof, variance=variance)
    check_count("n", n, 1)
    return n0


def _pool_sizes(t: int, n: int, n0: int) -> NDArray[np.float64]:
    """Sizes of the pools of fits 2 to t, (t - 1,)."""
    return n0 + n * np.arange(1, t, dtype=np.float64)


def _expected_variances(t: int, n: int, n0: int, ddof: int) -> NDArray[np.float64]:
    """Expected variances of fits 1 to t for a unit real variance, (t,)."""
    pools = _pool_sizes(t, n, n0)
    first = (n0 - 1) / (n0 - ddof)
    return first * np.cumprod(np.concatenate([[1.0], 1 - n / (pools * (pools - ddof))]))


def _growth_expectations(function: Callable, t: int, n: int, n0: int, ddof: int) -> list[float]:
    """Expectations of a function of the growth factors of fits 2 to t."""
    chi, chi_weights = chi_square_quadrature(n - 1)
    one, one_weights = chi_square_quadrature(1)
    expectations = []
    for pool in _pool_sizes(t, n, n0):
        growth = (pool - n - ddof + chi[:, None] + (1 - n / pool) * one) / (pool - ddof)  # (Q, Q)
        expectations.append(float(chi_weights @ function(growth) @ one_weights))
    return expectations
