r"""Laws of the Gaussian chains that mix real and synthetic points: subsampled pool, real fraction, fresh real points.

Each regime is an exact affine recursion in a few second moments. Notation: :math:`\mu, v` fitted mean and variance,
:math:`\sigma_0^2` the variance of the real law.

* t counts model fits: t = 1 is the fit on real data only, so the generation index of the framework is t - 1.
* ddof has no default; the unbiased variance (1) and maximum likelihood (0) behave differently in every regime.
* D dimensions: every moment is linear in ``variance``; pass the trace of the real covariance to get the expected
  squared distance of the means and the expected trace.

Erratum: "a fixed real fraction" has at least four meanings that differ (fresh points, fixed anchors, redrawn from a
finite set, independent mixture). The first three are told apart below by ``dataset_size``.

References:
    Alemohammad et al., "Self-Consuming Generative Models Go MAD", 2024. arXiv:2307.01850 (real fraction).
    Kazdan et al., "Collapse or Thrive?", 2024. arXiv:2410.16713 (accumulate-subsample).
    Bertrand et al., "On the Stability of Iterative Retraining", 2024. arXiv:2310.00429 (real fraction).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from collapse.theory._checks import check_count, check_fit

__all__ = [
    "Moments",
    "SubsampleMoments",
    "accumulate_subsample_moments",
    "accumulate_fresh_moments",
    "real_fraction_moments",
    "real_fraction_stationary_moments",
    "real_fraction_contraction",
]


class Moments(NamedTuple):
    """Expected squared error of the fitted mean, and expected fitted variance."""

    mean_square_error: float
    variance: float


class SubsampleMoments(NamedTuple):
    """Moments of the fit, and of the pool it is drawn from (mean error, maximum likelihood variance)."""

    mean_square_error: float
    variance: float
    pool_mean_square_error: float
    pool_variance: float


def accumulate_subsample_moments(
    t: int,
    n: int,
    *,
    size: int,
    ddof: int,
    n0: int | None = None,
    replacement: bool = False,
    variance: float = 1.0,
) -> SubsampleMoments:
    r"""Moments of a fit to b points of the accumulated pool, which then grows by n draws of the fit.

    With a the squared error of the pool mean, P the maximum likelihood variance of the pool and N its size,

    .. math:: \mathbb{E}(\mu-\mu_0)^2 = a + P\frac{N-b}{b(N-1)}, \qquad
        \mathbb{E}v = P\,\frac{N}{N-1}\,\frac{b-1}{b-\mathrm{ddof}} \qquad\text{(without replacement)}

    .. math:: \mathbb{E}(\mu-\mu_0)^2 = a + \frac Pb, \qquad
        \mathbb{E}v = P\,\frac{b-1}{b-\mathrm{ddof}} \qquad\text{(with replacement)}

    .. math:: a' = \frac{N^2a + 2Nna + n^2\bigl(\mathbb{E}(\mu-\mu_0)^2 + \mathbb{E}v/n\bigr)}{N'^2}, \qquad
        P'+a' = \frac{N(P+a) + n\bigl(\mathbb{E}(\mu-\mu_0)^2 + \mathbb{E}v\bigr)}{N'}, \qquad N' = N+n

    from :math:`N=n_0, a=\sigma_0^2/n_0, P=\sigma_0^2(1-1/n_0)`. While the pool has fewer than b points, a draw without
    replacement takes all of it. Erratum: the plateau of Kazdan et al. is maximum likelihood only; for ddof=1 the
    variance diverges, slowly, as :math:`t^{1/b}`.

    Args:
        t: Number of fits, at least 1.
        n: Synthetic points added per generation, at least 1.
        size: Points b of a fit, at least 2.
        ddof: 1 for the unbiased variance, 0 for maximum likelihood.
        n0: Real points, at least 2; n if None.
        replacement: Whether the b points are drawn with replacement.
        variance: Variance of the real law, positive.

    Returns:
        The moments of fit t and of its pool.

    Raises:
        ValueError: If an argument is out of its range.
    """
    pool = n if n0 is None else n0
    check_fit(t, pool, ddof=ddof, variance=variance)
    check_fit(t, size, ddof=ddof)
    check_count("n", n, 1)
    a, p = variance / pool, variance * (1 - 1 / pool)
    error, fitted = _subsample_fit(a, p, pool, size, ddof, replacement)
    for _ in range(t - 1):
        total = pool + n
        second = (pool * (p + a) + n * (error + fitted)) / total
        a = ((pool**2 + 2 * pool * n) * a + n**2 * error + n * fitted) / total**2
        p, pool = second - a, total
        error, fitted = _subsample_fit(a, p, pool, size, ddof, replacement)
    return SubsampleMoments(error, fitted, a, p)


def accumulate_fresh_moments(
    t: int, *, n_real: int, n_synthetic: int, n0: int, ddof: int, variance: float = 1.0
) -> Moments:
    r"""Moments of a fit to a pool that grows by fresh real points and by draws of the fit.

    With a the squared error of the mean, P the maximum likelihood variance of the pool and N its size,

    .. math:: a' = \frac{(N+n_s)^2a + n_r\sigma_0^2 + n_sv}{N'^2}, \qquad
        P'+a' = \frac{N(P+a) + n_r\sigma_0^2 + n_s(a+v)}{N'}, \qquad v = P\,\frac{N}{N-\mathrm{ddof}},
        \qquad N' = N + n_r + n_s

    from :math:`N=n_0, a=\sigma_0^2/n_0, P=\sigma_0^2(1-1/n_0)`.

    Args:
        t: Number of fits, at least 1.
        n_real: Fresh real points added per generation, at least 0.
        n_synthetic: Synthetic points added per generation, at least 0.
        n0: Real points of the first fit, at least 2.
        ddof: 1 for the unbiased variance, 0 for maximum likelihood.
        variance: Variance of the real law, positive.

    Returns:
        The moments of fit t.

    Raises:
        ValueError: If an argument is out of its range.
    """
    check_fit(t, n0, ddof=ddof, variance=variance)
    check_count("n_real", n_real, 0)
    check_count("n_synthetic", n_synthetic, 0)
    pool, a, p = n0, variance / n0, variance * (1 - 1 / n0)
    fitted = p * pool / (pool - ddof)
    for _ in range(t - 1):
        total = pool + n_real + n_synthetic
        second = (pool * (p + a) + n_real * variance + n_synthetic * (a + fitted)) / total
        a = ((pool + n_synthetic) ** 2 * a + n_real * variance + n_synthetic * fitted) / total**2
        p, pool = second - a, total
        fitted = p * pool / (pool - ddof)
    return Moments(a, fitted)


def real_fraction_moments(
    t: int,
    *,
    n_real: int,
    n_synthetic: int,
    n_first: int,
    ddof: int,
    dataset_size: float = math.inf,
    variance: float = 1.0,
    lam: float = 1.0,
) -> Moments:
    r"""Moments of a fit to real and synthetic points in a fixed proportion; the first fit sees real points only.

    The state is :math:`a=\mathbb{E}(\mu-\mu_0)^2`, v, and :math:`c=\mathbb{E}(\mu-\mu_0)(\bar X-\mu_0)` with
    :math:`\bar X` the mean of the finite real dataset of M points. With :math:`N = n_r + n_s`,

    .. math:: D &= \sigma_0^2/n_r - 2c + a + \lambda v/n_s\\
        v' &= \bigl[(n_r-1)\sigma_0^2 + (n_s-1)\lambda v + (n_rn_s/N)\,D\bigr]/(N-\mathrm{ddof})\\
        a' &= (n_r/N)^2\sigma_0^2/n_r + 2(n_rn_s/N^2)\,c + (n_s/N)^2(a + \lambda v/n_s)\\
        c' &= (n_r/N)\,\sigma_0^2/M + (n_s/N)\,c

    from :math:`a=\sigma_0^2/n_1, v=\sigma_0^2(n_1-1)/(n_1-\mathrm{ddof}), c=\sigma_0^2/\max(M, n_1)`: of dataset and
    first fit, the one with fewer points is part of the other. No synthetic point is fresh real data at every
    generation; no real point is replace.

    Args:
        t: Number of fits, at least 1.
        n_real: Real points per fit, at least 0.
        n_synthetic: Synthetic points per fit, at least 0; the two together at least 2.
        n_first: Real points of the first fit, at least 2.
        ddof: 1 for the unbiased variance, 0 for maximum likelihood.
        dataset_size: Real points that exist, M, from which every fit draws its own without replacement. Infinite for
            fresh points; equal to n_real for anchors, which may be fewer than the points of the first fit.
        variance: Variance of the real law, positive.
        lam: Multiplier on the variance of synthetic draws, positive; not a fraction and not a ratio.

    Returns:
        The moments of fit t.

    Raises:
        ValueError: If an argument is out of its range.
    """
    check_fit(t, n_first, ddof=ddof, variance=variance, lam=lam)
    check_count("dataset_size", dataset_size, n_real)
    matrix, offset = _real_fraction_map(n_real, n_synthetic, ddof, dataset_size, lam)
    state = np.array([1 / n_first, (n_first - 1) / (n_first - ddof), 1 / max(dataset_size, n_first)])
    for _ in range(t - 1):
        state = matrix @ state + offset
    return Moments(variance * float(state[0]), variance * float(state[1]))


def real_fraction_stationary_moments(
    *,
    n_real: int,
    n_synthetic: int,
    ddof: int,
    dataset_size: float = math.inf,
    variance: float = 1.0,
    lam: float = 1.0,
) -> Moments:
    """Moments of a real-fraction chain after infinitely many fits: the fixed point of its affine recursion.

    Fresh real points with ddof=1 give a variance above that of the real law, anchors one below; both are right. The
    recursion is that of :func:`real_fraction_moments`; its first fit is forgotten.

    Args:
        n_real: Real points per fit, at least 1.
        n_synthetic: Synthetic points per fit, at least 0; the two together at least 2.
        ddof: 1 for the unbiased variance, 0 for maximum likelihood.
        dataset_size: Real points that exist; infinite for fresh points, n_real for anchors.
        variance: Variance of the real law, positive.
        lam: Multiplier on the variance of synthetic draws, positive.

    Returns:
        The stationary moments.

    Raises:
        ValueError: If an argument is out of its range or the chain has no stationary state.
    """
    check_fit(1, n_real + n_synthetic, ddof=ddof, variance=variance, lam=lam)
    check_count("dataset_size", dataset_size, n_real)
    radius = real_fraction_contraction(n_real, n_synthetic, ddof=ddof, lam=lam)
    if radius >= 1:
        raise ValueError(
            f"the chain has no stationary state: its spectral radius is {radius}; raise n_real or lower lam"
        )
    matrix, offset = _real_fraction_map(n_real, n_synthetic, ddof, dataset_size, lam)
    state = np.linalg.solve(np.eye(3) - matrix, offset)
    return Moments(variance * float(state[0]), variance * float(state[1]))


def real_fraction_contraction(n_real: int, n_synthetic: int, *, ddof: int, lam: float = 1.0) -> float:
    """Spectral radius of the affine recursion of a real-fraction chain; below one if it has a stationary state.

    For infinitely many points and lam at most 1 it is the synthetic share of a fit; at finite n it is slightly larger.
    Erratum: the condition of Bertrand et al., a synthetic to real ratio below 1/2, is sufficient and not necessary.

    Args:
        n_real: Real points per fit, at least 0.
        n_synthetic: Synthetic points per fit, at least 0; the two together at least 2.
        ddof: 1 for the unbiased variance, 0 for maximum likelihood.
        lam: Multiplier on the variance of synthetic draws, positive.

    Returns:
        The factor by which moments approach their fixed point, per fit.

    Raises:
        ValueError: If an argument is out of its range.
    """
    matrix, _ = _real_fraction_map(n_real, n_synthetic, ddof, math.inf, lam)
    return float(np.max(np.abs(np.linalg.eigvals(matrix))))


def _subsample_fit(a: float, p: float, pool: int, size: int, ddof: int, replacement: bool) -> tuple[float, float]:
    """Squared error of the mean and expected variance of a fit to a subsample of a pool."""
    if replacement:
        return a + p / size, p * (size - 1) / (size - ddof)
    b = min(size, pool)
    return a + p * (pool - b) / (b * (pool - 1)), p * pool / (pool - 1) * (b - 1) / (b - ddof)


def _real_fraction_map(
    n_real: int, n_synthetic: int, ddof: int, dataset_size: float, lam: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Matrix and offset of the recursion of (a, v, c) for a unit real variance, free of divisions by either count."""
    check_count("n_real", n_real, 0)
    check_count("n_synthetic", n_synthetic, 0)
    n = n_real + n_synthetic
    check_fit(1, n, ddof=ddof, lam=lam)
    real, synthetic, divisor = n_real / n, n_synthetic / n, n - ddof
    between = n_real * synthetic / divisor  # weight of D in v'
    matrix = [
        [synthetic**2, lam * synthetic / n, 2 * real * synthetic],
        [between, lam * (n_synthetic - 1 + real) / divisor, -2 * between],
        [0.0, 0.0, synthetic],
    ]
    offset = [real / n, (n_real - 1 + synthetic) / divisor, real / dataset_size]
    return np.array(matrix), np.array(offset)
