r"""Laws of the mean when the variance is known: the three pathways of replace, accumulate and accumulate-subsample.

Model t is :math:`N(\mu_t, \sigma_0^2)`: only the mean is fitted, and every synthetic draw has the variance of the real
law. What is left of collapse is the wandering of the mean, :math:`a_t = \mathbb{E}(\mu_t-\mu_0)^2`, and in units of the
error :math:`\sigma_0^2/n` of one fit to real points each regime has its pathway.

* t counts model fits: t = 1 is the fit on real data only, so the generation index of the framework is t - 1.
* D dimensions: errors are linear in ``variance``; pass the trace of the real covariance.
* Any efficient estimator of a smooth parameter has the same pathways to leading order in 1/n.

References:
    Dey and Donoho, "Universality of the π²/6 Pathway in Avoiding Model Collapse", 2024. arXiv:2410.22812.
    Kazdan et al., "Collapse or Thrive?", 2024. arXiv:2410.16713 (the regimes).
"""

from __future__ import annotations

import math
from typing import NamedTuple

from collapse.theory._checks import check_count, check_positive, check_t

__all__ = [
    "Pathways",
    "pathways",
    "replace_known_variance_mean_square_error",
    "accumulate_known_variance_mean_square_error",
    "accumulate_subsample_known_variance_mean_square_error",
]


class Pathways(NamedTuple):
    """Errors of the mean in units of the error of one real fit, regime by regime."""

    replace: float
    accumulate: float
    accumulate_subsample: float


def pathways(t: int) -> Pathways:
    r"""Growth of the squared error relative to the first fit, to leading order in 1/n.

    .. math:: \frac{n\,a_t}{\sigma_0^2} \to \begin{cases} t & \text{replace}\\
        H_t^{(2)} = \sum_{i=1}^t i^{-2} & \text{accumulate, limit } \pi^2/6\\
        3H_t^{(2)} - 2 & \text{accumulate-subsample, limit } \pi^2/2 - 2\end{cases}

    The first two are exact for every n. The third was first read off numerical solutions; it follows from the recursion
    of :func:`accumulate_subsample_known_variance_mean_square_error`. For n to infinity the pool mean has error
    :math:`\alpha_s`, the fit :math:`\alpha_s + 1 - 1/s`, and

    .. math:: \alpha_{s+1} - \alpha_s = \frac{2 - 1/s}{(s+1)^2} = \frac{3}{(s+1)^2} - \frac1s + \frac1{s+1}, \qquad
        \alpha_1 = 1,

    which telescopes to :math:`\alpha_t = 3H_t^{(2)} - 3 + 1/t`.

    Args:
        t: Number of fits, at least 1.

    Returns:
        The three factors; all are 1 at t = 1.

    Raises:
        ValueError: If t is below 1.
    """
    check_t(t)
    squares = math.fsum(1 / i**2 for i in range(1, t + 1))
    return Pathways(float(t), squares, 3 * squares - 2)


def replace_known_variance_mean_square_error(t: int, n: int, *, variance: float = 1.0) -> float:
    r"""Expected squared error of the mean when every fit sees only draws of the model before.

    .. math:: a_t = t\,\sigma_0^2/n

    Args:
        t: Number of fits, at least 1.
        n: Points per fit, at least 1.
        variance: Known variance, positive.

    Returns:
        The expectation of :math:`(\mu_t - \mu_0)^2`.

    Raises:
        ValueError: If an argument is out of its range.
    """
    _check(t, n, n, variance)
    return t * variance / n


def accumulate_known_variance_mean_square_error(
    t: int, n: int, *, n0: int | None = None, variance: float = 1.0
) -> float:
    r"""Expected squared error of the mean when every fit sees all real and all synthetic points so far.

    .. math:: a_t = \sigma_0^2\Bigl(\frac1{n_0} + \sum_{j=2}^t\frac{n}{N_j^2}\Bigr), \qquad N_j = n_0 + (j-1)n

    For :math:`n_0=n` it is :math:`\sigma_0^2 H_t^{(2)}/n`, below :math:`(\pi^2/6)\,\sigma_0^2/n` for ever.

    Args:
        t: Number of fits, at least 1.
        n: Synthetic points added per generation, at least 1.
        n0: Real points, at least 1; n if None.
        variance: Known variance, positive.

    Returns:
        The expectation of :math:`(\mu_t - \mu_0)^2`.

    Raises:
        ValueError: If an argument is out of its range.
    """
    n0 = n if n0 is None else n0
    _check(t, n, n0, variance)
    return variance * (1 / n0 + math.fsum(n / (n0 + i * n) ** 2 for i in range(1, t)))


def accumulate_subsample_known_variance_mean_square_error(
    t: int, n: int, *, size: int | None = None, n0: int | None = None, replacement: bool = False, variance: float = 1.0
) -> float:
    r"""Expected squared error of the mean of b points of the accumulated pool, which then grows by n draws.

    With a the squared error of the pool mean, P the maximum likelihood variance of the pool and N its size,

    .. math:: e = a + P\,\frac{N-b}{b(N-1)} \;\text{(without replacement)}, \qquad e = a + \frac Pb \;\text{(with)},

    .. math:: a' = \frac{N^2a + 2Nna + n^2e + n\sigma_0^2}{N'^2}, \qquad
        P' + a' = \frac{N(P+a) + n(e + \sigma_0^2)}{N'}, \qquad N' = N+n

    from :math:`N=n_0, a=\sigma_0^2/n_0, P=\sigma_0^2(1-1/n_0)`. Exact for every n: the fit is unbiased for the pool
    mean :math:`\bar X`, so the cross term :math:`\mathbb{E}(\mu_t-\mu_0)(\bar X-\mu_0)` is a. For large :math:`n_0=n=b`
    and draws without replacement it tends to the third of the :func:`pathways`.

    Args:
        t: Number of fits, at least 1.
        n: Synthetic points added per generation, at least 1.
        size: Points b of a fit, at least 1; n if None. A pool with fewer points is taken whole.
        n0: Real points, at least 1; n if None.
        replacement: Whether the b points are drawn with replacement.
        variance: Known variance, positive.

    Returns:
        The expectation e of :math:`(\mu_t - \mu_0)^2`.

    Raises:
        ValueError: If an argument is out of its range.
    """
    pool = n if n0 is None else n0
    b = n if size is None else size
    _check(t, n, pool, variance)
    check_count("size", b, 1)
    a, p = 1 / pool, 1 - 1 / pool
    error = a + p * _share_left_out(pool, b, replacement)
    for _ in range(t - 1):
        total = pool + n
        second = (pool * (p + a) + n * (error + 1)) / total
        a = ((pool**2 + 2 * pool * n) * a + n**2 * error + n) / total**2
        p, pool = second - a, total
        error = a + p * _share_left_out(pool, b, replacement)
    return variance * error


def _share_left_out(pool: int, size: int, replacement: bool) -> float:
    """Variance of the mean of a subsample about the pool mean, for a pool of unit variance."""
    if replacement:
        return 1 / size
    return 0.0 if size >= pool else (pool - size) / (size * (pool - 1))


def _check(t: int, n: int, n0: int, variance: float) -> None:
    check_t(t)
    check_count("n", n, 1)
    check_count("n0", n0, 1)
    check_positive("variance", variance)
