r"""Laws of the Gaussian replace chain: means, variances, Wasserstein distance.

Model t is the mean :math:`\mu_t` and the variance :math:`\sigma_t^2` (divisor n - ddof) of n draws from
:math:`N(\mu_{t-1}, \lambda\sigma_{t-1}^2)`; the first fit sees n draws of the real law :math:`N(\mu_0, \sigma_0^2)`,
which :math:`\lambda` does not scale. By Cochran's theorem, with :math:`\nu = n - 1`,

.. math:: \sigma_t^2 = \lambda\sigma_{t-1}^2\,\chi^2_\nu/(n - \mathrm{ddof})
    \quad\text{independent of}\quad \mu_t - \mu_{t-1} \sim N(0, \lambda\sigma_{t-1}^2/n),

so every law below is exact for all t and n. Throughout, :math:`k = (n-1)/(n-\mathrm{ddof})`.

* t counts model fits: t = 1 is the fit on real data only, so the generation index of the framework is t - 1. At t = 1
  the laws are those of a loop that sees fresh real data at every generation.
* ddof has no default. The unbiased variance (1) and maximum likelihood (0) have qualitatively different theories.
* Every scale is a variance: ``variance`` is :math:`\sigma_0^2` and ``lam`` multiplies the variance of synthetic draws;
  code that scales the standard deviation by s has lam = s².

References:
    Chain: Shumailov et al., "AI models collapse when trained on recursively generated data", 2024.
    arXiv:2305.17493, Theorem 3.1. Multiplier: Alemohammad et al., "Self-Consuming Generative Models Go MAD", 2024.
    arXiv:2307.01850. The closed forms follow from Cochran's theorem.
"""

from __future__ import annotations

import math

from collapse.theory._checks import check_fit
from collapse.theory._special import c4

__all__ = [
    "replace_mean_variance",
    "replace_mean_covariance",
    "replace_variance",
    "replace_variance_of_variance",
    "replace_expected_std",
    "replace_marginal_variance",
    "replace_expected_w2",
]


def replace_mean_variance(t: int, n: int, *, ddof: int, variance: float = 1.0, lam: float = 1.0) -> float:
    r"""Variance of the fitted mean over chains.

    .. math:: \operatorname{Var}\mu_t = \frac{\sigma_0^2}{n}\sum_{j<t}(k\lambda)^j
        = \begin{cases} t\sigma_0^2/n & \mathrm{ddof}=1, \lambda=1\\
        \sigma_0^2\,(1-(1-1/n)^t) & \mathrm{ddof}=0, \lambda=1\end{cases}

    The expectation of :math:`\mu_t` is :math:`\mu_0`. In D dimensions the expected squared distance of the means
    follows with ``variance`` the trace of the real covariance.

    Args:
        t: Number of fits, at least 1.
        n: Points per fit, at least 2.
        ddof: 1 for the unbiased variance, 0 for maximum likelihood.
        variance: Variance of the real law, positive.
        lam: Multiplier on the variance of synthetic draws, positive.

    Returns:
        The variance of :math:`\mu_t`.

    Raises:
        ValueError: If an argument is out of its range.
    """
    check_fit(t, n, ddof=ddof, variance=variance, lam=lam)
    ratio = lam * (n - 1) / (n - ddof)
    return variance / n * math.fsum(ratio**j for j in range(t))


def replace_mean_covariance(s: int, t: int, *, n: int, ddof: int, variance: float = 1.0, lam: float = 1.0) -> float:
    r"""Covariance of the fitted means at two fits; the fitted mean is a martingale.

    .. math:: \operatorname{Cov}(\mu_s, \mu_t) = \operatorname{Var}\mu_{\min(s, t)}

    With fresh real data at every generation the covariance of two different fits is zero.

    Args:
        s: Number of fits at the first time, at least 1.
        t: Number of fits at the second time, at least 1.
        n: Points per fit, at least 2.
        ddof: 1 for the unbiased variance, 0 for maximum likelihood.
        variance: Variance of the real law, positive.
        lam: Multiplier on the variance of synthetic draws, positive.

    Returns:
        The covariance over chains.

    Raises:
        ValueError: If an argument is out of its range.
    """
    return replace_mean_variance(min(s, t), n, ddof=ddof, variance=variance, lam=lam)


def replace_variance(t: int, n: int, ddof: int, *, variance: float = 1.0, lam: float = 1.0) -> float:
    r"""Expectation of the fitted variance.

    .. math:: \mathbb{E}\sigma_t^2 = \sigma_0^2\,k^t\lambda^{t-1}

    Erratum: "the variance shrinks every generation" is false in expectation for ddof=1, where this is constant while
    :math:`\sigma_t^2\to 0` almost surely; report medians or logarithms. The exponent of lam is t - 1, not t, because
    the real sample is not scaled.

    Args:
        t: Number of fits, at least 1.
        n: Points per fit, at least 2.
        ddof: 1 for the unbiased variance, 0 for maximum likelihood.
        variance: Variance of the real law, positive.
        lam: Multiplier on the variance of synthetic draws, positive.

    Returns:
        The expectation of :math:`\sigma_t^2`.

    Raises:
        ValueError: If an argument is out of its range.
    """
    check_fit(t, n, ddof=ddof, variance=variance, lam=lam)
    return variance * ((n - 1) / (n - ddof)) ** t * lam ** (t - 1)


def replace_variance_of_variance(t: int, n: int, *, ddof: int, variance: float = 1.0, lam: float = 1.0) -> float:
    r"""Variance of the fitted variance over chains.

    .. math:: \operatorname{Var}\sigma_t^2 = \sigma_0^4\lambda^{2(t-1)}k^{2t}\bigl[(1 + 2/\nu)^t - 1\bigr]

    Heavy-tailed: a sample estimate over chains needs many of them, and grows too slowly to be believed.

    Args:
        t: Number of fits, at least 1.
        n: Points per fit, at least 2.
        ddof: 1 for the unbiased variance, 0 for maximum likelihood.
        variance: Variance of the real law, positive.
        lam: Multiplier on the variance of synthetic draws, positive.

    Returns:
        The variance of :math:`\sigma_t^2`.

    Raises:
        ValueError: If an argument is out of its range.
        OverflowError: If the result exceeds float64, as it does for very long chains.
    """
    mean = replace_variance(t, n, ddof=ddof, variance=variance, lam=lam)
    return mean**2 * math.expm1(t * math.log1p(2 / (n - 1)))


def replace_expected_std(t: int, n: int, *, ddof: int, variance: float = 1.0, lam: float = 1.0) -> float:
    r"""Expectation of the fitted standard deviation.

    .. math:: \mathbb{E}\sigma_t = \sigma_0\,\lambda^{(t-1)/2}\bigl(c_4(n)\sqrt{k}\bigr)^t, \qquad
        c_4(n) = \sqrt{\tfrac{2}{n-1}}\,\frac{\Gamma(n/2)}{\Gamma((n-1)/2)}

    Args:
        t: Number of fits, at least 1.
        n: Points per fit, at least 2.
        ddof: 1 for the unbiased variance, 0 for maximum likelihood.
        variance: Variance of the real law, positive.
        lam: Multiplier on the variance of synthetic draws, positive.

    Returns:
        The expectation of :math:`\sigma_t`.

    Raises:
        ValueError: If an argument is out of its range.
    """
    return c4(n) ** t * math.sqrt(replace_variance(t, n, ddof=ddof, variance=variance, lam=lam))


def replace_marginal_variance(t: int, n: int, *, ddof: int, variance: float = 1.0, lam: float = 1.0) -> float:
    r"""Variance of one new draw from model t, over chains and draws.

    .. math:: \operatorname{Var}x = \operatorname{Var}\mu_t + \mathbb{E}\sigma_t^2
        = \begin{cases}\sigma_0^2(1 + t/n) & \mathrm{ddof}=1, \lambda=1\\
        \sigma_0^2 & \mathrm{ddof}=0, \lambda=1\end{cases}

    Under maximum likelihood variance is only moved from within chains to between chains. The draw is not scaled by
    lam, which acts between generations.

    Args:
        t: Number of fits, at least 1.
        n: Points per fit, at least 2.
        ddof: 1 for the unbiased variance, 0 for maximum likelihood.
        variance: Variance of the real law, positive.
        lam: Multiplier on the variance of synthetic draws, positive.

    Returns:
        The marginal variance.

    Raises:
        ValueError: If an argument is out of its range.
    """
    between = replace_mean_variance(t, n, ddof=ddof, variance=variance, lam=lam)
    return between + replace_variance(t, n, ddof=ddof, variance=variance, lam=lam)


def replace_expected_w2(t: int, n: int, *, ddof: int, variance: float = 1.0, lam: float = 1.0) -> float:
    r"""Expected squared 2-Wasserstein distance between model t and the real law, in one dimension.

    .. math:: \mathbb{E}W_2^2 = \operatorname{Var}\mu_t + \mathbb{E}\sigma_t^2 + \sigma_0^2
        - 2\sigma_0\mathbb{E}\sigma_t
        = \begin{cases}\sigma_0^2\,[t/n + 2(1-c_4^t)] & \mathrm{ddof}=1, \lambda=1\\
        2\sigma_0^2\,[1-(c_4\sqrt{1-1/n})^t] & \mathrm{ddof}=0, \lambda=1\end{cases}

    Erratum: the divergence of Shumailov et al., Theorem 3.1, needs ddof=1. Under maximum likelihood the distance never
    exceeds :math:`2\sigma_0^2`; their first-order 3t/(2n) overestimates both.

    Args:
        t: Number of fits, at least 1.
        n: Points per fit, at least 2.
        ddof: 1 for the unbiased variance, 0 for maximum likelihood.
        variance: Variance of the real law, positive.
        lam: Multiplier on the variance of synthetic draws, positive.

    Returns:
        The expected squared distance.

    Raises:
        ValueError: If an argument is out of its range.
    """
    marginal = replace_marginal_variance(t, n, ddof=ddof, variance=variance, lam=lam)
    std = replace_expected_std(t, n, ddof=ddof, variance=variance, lam=lam)
    return marginal + variance - 2 * math.sqrt(variance) * std
