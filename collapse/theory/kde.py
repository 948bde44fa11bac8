r"""Laws of density estimates trained on their own draws: fixed kernel, data-driven kernel, histogram.

Fit t is the kernel density estimate :math:`f_t` of its training points; a draw is a training point chosen uniformly
plus :math:`N(0, h^2)`. The real law has variance :math:`\sigma_0^2`; only the densities assume that it is normal.

* t counts model fits: t = 1 is the fit on real data only, so the generation index of the framework is t - 1.
* Two variances that differ: that of one fitted density, and the marginal one of a draw over chains, which contains the
  drift of the center. Under replace the first saturates at :math:`nh^2`, the second grows for ever.
* ``bandwidth`` is the standard deviation h of the kernel. D dimensions: second moments are traces; pass the trace of
  the real covariance as ``variance`` and :math:`h\sqrt D` as ``bandwidth``.

References:
    Silverman, "Density Estimation for Statistics and Data Analysis", 1986. Scott, "Multivariate Density Estimation",
    1992. Regimes: Gerstgrasser et al., 2024. arXiv:2404.01413; Kazdan et al., 2024. arXiv:2410.16713.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from collapse.theory._checks import check_count, check_positive, check_t

__all__ = [
    "BANDWIDTH_RULES",
    "KernelMoments",
    "replace_marginal_variance",
    "replace_expected_variance",
    "replace_expected_density",
    "replace_scaled_expected_variance",
    "accumulate_depth_probabilities",
    "accumulate_expected_density",
    "accumulate_moments",
    "histogram_second_moment",
]

# Factor c(n) of n points in D dimensions: the kernel has c(n)² times their unbiased (ddof=1) covariance.
BANDWIDTH_RULES: dict[str, Callable[[int, int], float]] = {
    "scott": lambda n, dim: n ** (-1 / (dim + 4)),
    "silverman": lambda n, dim: (n * (dim + 2) / 4) ** (-1 / (dim + 4)),
}


class KernelMoments(NamedTuple):
    """Expected second moment about the mean of the real law, and expected variance, of the fitted density."""

    second_moment: float
    variance: float


def replace_marginal_variance(t: int, *, bandwidth: float, variance: float = 1.0) -> float:
    r"""Variance of a draw of fit t over chains.

    .. math:: \sigma_0^2 + th^2

    Exact for every real law and all numbers of points. Erratum: it is not the variance of a fitted density.

    Args:
        t: Number of fits, at least 1.
        bandwidth: Kernel width h, positive.
        variance: Variance of the real law, positive.

    Returns:
        The marginal variance.

    Raises:
        ValueError: If an argument is out of its range.
    """
    _check_kernel(t, bandwidth, variance)
    return variance + t * bandwidth**2


def replace_expected_variance(
    t: int, n: int, *, bandwidth: float, n0: int | None = None, variance: float = 1.0
) -> float:
    r"""Expected variance of the fitted density.

    .. math:: \mathbb{E}\operatorname{Var}f_t = \sigma_0^2\Bigl(1-\frac1{n_0}\Bigr)\Bigl(1-\frac1n\Bigr)^{t-1}
        + nh^2\Bigl[1-\Bigl(1-\frac1n\Bigr)^t\Bigr] \;\to\; nh^2

    Args:
        t: Number of fits, at least 1.
        n: Points per fit, at least 1.
        bandwidth: Kernel width h, positive.
        n0: Real points of the first fit, at least 1; n if None.
        variance: Variance of the real law, positive.

    Returns:
        The expectation over chains; its limit in t does not depend on the real law.

    Raises:
        ValueError: If an argument is out of its range.
    """
    n0 = _check_points(n, n0)
    _check_kernel(t, bandwidth, variance)
    kept = 1 - 1 / n
    return variance * (1 - 1 / n0) * kept ** (t - 1) + n * bandwidth**2 * (1 - kept**t)


def replace_expected_density(t: int, x: ArrayLike, *, bandwidth: float, variance: float = 1.0) -> NDArray[np.float64]:
    r"""Expected fitted density for a normal real law, whatever the numbers of points.

    .. math:: \mathbb{E}f_t(x) = N(x;\,0,\,\sigma_0^2 + th^2)

    Args:
        t: Number of fits, at least 1.
        x: Points relative to the mean of the real law, any shape.
        bandwidth: Kernel width h, positive.
        variance: Variance of the real law, positive.

    Returns:
        The density at x, of the shape of x.

    Raises:
        ValueError: If an argument is out of its range.
    """
    return _normal_density(x, replace_marginal_variance(t, bandwidth=bandwidth, variance=variance))


def replace_scaled_expected_variance(
    t: int, n: int, *, rule: str = "scott", dim: int = 1, n0: int | None = None, variance: float = 1.0
) -> float:
    r"""Expected variance of the fitted density when the bandwidth follows the data: exponential growth.

    .. math:: \mathbb{E}\operatorname{Var}f_t = \sigma_0^2\,g(n_0)\,g(n)^{t-1}, \qquad g(n) = 1 - \frac1n + c(n)^2

    for the factor c of the rule. In D dimensions the expected covariance is the real one times the same number.

    Args:
        t: Number of fits, at least 1.
        n: Points per fit, at least 2.
        rule: A key of ``BANDWIDTH_RULES``.
        dim: Dimension D, at least 1.
        n0: Real points of the first fit, at least 2; n if None.
        variance: Variance of the real law, positive.

    Returns:
        The expectation over chains.

    Raises:
        ValueError: If an argument is out of its range.
    """
    n0 = _check_points(n, n0, minimum=2)
    _check_kernel(t, 1.0, variance)
    check_count("dim", dim, 1)
    if rule not in BANDWIDTH_RULES:
        raise ValueError(f"rule must be one of {sorted(BANDWIDTH_RULES)}, got {rule!r}")
    first, later = (1 - 1 / m + BANDWIDTH_RULES[rule](m, dim) ** 2 for m in (n0, n))
    return variance * first * later ** (t - 1)


def accumulate_depth_probabilities(t: int, n: int, *, n0: int | None = None) -> NDArray[np.float64]:
    r"""Law of the number of kernels behind a point of the pool of fit t.

    .. math:: \sum_k P(\text{depth}=k)\,z^k = \prod_{j=2}^t\frac{N_{j-1} + nz}{N_j}, \qquad N_j = n_0 + (j-1)n

    A new point is a copy of a pool point with one more kernel. The same for a subsample of the pool.

    Args:
        t: Number of fits, at least 1.
        n: Synthetic points added per generation, at least 1.
        n0: Real points, at least 1; n if None.

    Returns:
        Probabilities of depth 0 (a real point) to t - 1, (t,).

    Raises:
        ValueError: If a count is below its range.
    """
    check_t(t)
    pool = _check_points(n, n0)
    probabilities = np.ones(1)
    for _ in range(t - 1):
        probabilities = np.convolve(probabilities, [pool / (pool + n), n / (pool + n)])
        pool += n
    return probabilities


def accumulate_expected_density(
    t: int, x: ArrayLike, *, n: int, bandwidth: float, n0: int | None = None, variance: float = 1.0
) -> NDArray[np.float64]:
    r"""Expected fitted density for a normal real law; the same for accumulate-subsample.

    .. math:: \mathbb{E}f_t(x) = \sum_{k<t} P(\text{depth}=k)\,N\bigl(x;\,0,\,\sigma_0^2 + (k+1)h^2\bigr)

    Args:
        t: Number of fits, at least 1.
        x: Points relative to the mean of the real law, any shape.
        n: Synthetic points added per generation, at least 1; without effect if n0 is None.
        bandwidth: Kernel width h, positive.
        n0: Real points, at least 1; n if None.
        variance: Variance of the real law, positive.

    Returns:
        The density at x, of the shape of x.

    Raises:
        ValueError: If an argument is out of its range.
    """
    _check_kernel(t, bandwidth, variance)
    kernels = _normal_density(np.asarray(x)[..., None], variance + bandwidth**2 * np.arange(1.0, t + 1))
    return kernels @ accumulate_depth_probabilities(t, n, n0=n0)


def accumulate_moments(
    t: int, n: int, *, bandwidth: float, size: int | None = None, n0: int | None = None, variance: float = 1.0
) -> KernelMoments:
    r"""Moments of a fit to the accumulated pool, or to b of its points drawn without replacement.

    With a the squared error of the pool mean, Q the second moment of the pool, N its size and n draws added per fit,

    .. math:: e = a + P\frac{N-b}{b(N-1)}, \qquad v = P\,\frac{N(b-1)}{(N-1)b} + h^2, \qquad P = Q - a

    .. math:: a' = \frac{(N^2 + 2Nn)a + n^2e + nv}{N'^2}, \qquad Q' = Q + \frac n{N'}h^2, \qquad N' = N + n

    from :math:`N=n_0, a=\sigma_0^2/n_0, Q=\sigma_0^2`. The second moment of the fit is the same for every b; for equal
    batches it is :math:`\sigma_0^2 + h^2H_t`, of logarithmic growth.

    Args:
        t: Number of fits, at least 1.
        n: Synthetic points added per generation, at least 1.
        bandwidth: Kernel width h, positive.
        size: Points b of a fit, at least 1; a pool with fewer is taken whole, as is every pool if None.
        n0: Real points, at least 1; n if None.
        variance: Variance of the real law, positive.

    Returns:
        The moments :math:`Q + h^2` and :math:`v` of fit t.

    Raises:
        ValueError: If an argument is out of its range.
    """
    _check_kernel(t, bandwidth, variance)
    pool = _check_points(n, n0)
    size = pool + t * n if size is None else size
    check_count("size", size, 1)
    a, second = variance / pool, variance
    error, fitted = _subsample(a, second - a, pool, min(size, pool))
    for _ in range(t - 1):
        a = ((pool**2 + 2 * pool * n) * a + n**2 * error + n * (fitted + bandwidth**2)) / (pool + n) ** 2
        pool += n
        second += n / pool * bandwidth**2
        error, fitted = _subsample(a, second - a, pool, min(size, pool))
    return KernelMoments(second + bandwidth**2, fitted + bandwidth**2)


def histogram_second_moment(*, width: float, offset: float = 0.0, variance: float = 1.0) -> float:
    r"""Expected second moment of a histogram density under replace, for a normal real law: no spreading.

    .. math:: \mathbb{E}\int x^2f_t = \sum_b P_b\Bigl(c_b^2 + \frac{w^2}{12}\Bigr) \quad\text{for every } t \ge 1

    and every number of points: a draw is uniform within its bin, so the bins, of center :math:`c_b` and of probability
    :math:`P_b` under the real law, are resampled as categories.

    Args:
        width: Width w of a bin, positive.
        offset: Position of an edge of a bin, relative to the mean of the real law.
        variance: Variance of the real law, positive.

    Returns:
        The second moment about the mean of the real law.

    Raises:
        ValueError: If an argument is out of its range.
    """
    check_positive("width", width)
    check_positive("variance", variance)
    reach = 9 * math.sqrt(variance)  # leaves out a probability of 2e-19
    edges = offset + width * np.arange(math.floor((-reach - offset) / width), math.ceil((reach - offset) / width) + 1)
    probabilities = np.diff(torch.special.ndtr(torch.from_numpy(edges / math.sqrt(variance))).numpy())
    centers = (edges[:-1] + edges[1:]) / 2
    return float(probabilities @ (centers**2 + width**2 / 12))


def _subsample(a: float, p: float, pool: int, size: int) -> tuple[float, float]:
    """Expected squared error and variance of ``size`` points of a pool with error a and variance p."""
    share = p / (size * max(pool - 1, 1))  # a pool of one point has no variance
    return a + share * (pool - size), share * pool * (size - 1)


def _normal_density(x: ArrayLike, variance: float | NDArray[np.float64]) -> NDArray[np.float64]:
    return np.exp(-np.square(np.asarray(x, dtype=np.float64)) / (2 * variance)) / np.sqrt(2 * np.pi * variance)


def _check_kernel(t: int, bandwidth: float, variance: float) -> None:
    check_t(t)
    check_positive("bandwidth", bandwidth)
    check_positive("variance", variance)


def _check_points(n: int, n0: int | None, *, minimum: int = 1) -> int:
    """Check the numbers of points and return that of the first fit."""
    n0 = n if n0 is None else n0
    check_count("the number of points of a fit", min(n, n0), minimum)
    return n0
