r"""Laws of the categorical chains that keep their draws: accumulate, a batch Pólya urn, and accumulate-subsample.

The first pool has :math:`n_0` real draws, every generation adds n draws of the last fit, :math:`N_t = n_0 + (t-1)n`.
Frequencies are martingales: under accumulate every one of them converges to a random positive limit, so no category is
lost after the first fit.

References:
    Regimes: Gerstgrasser et al., "Is Model Collapse Inevitable?", 2024. arXiv:2404.01413. Kazdan et al., "Collapse or
    Thrive?", 2024. arXiv:2410.16713.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from collapse.theory._checks import check_count, check_probabilities, check_t
from collapse.theory.categorical.first_fit import first_fit_expected_support
from collapse.theory.categorical.replace import heterozygosity
from collapse.theory.gaussian.accumulate import accumulate_limit_variance, accumulate_variance

__all__ = [
    "SubsampleHeterozygosity",
    "accumulate_expected_heterozygosity",
    "accumulate_limit_heterozygosity",
    "accumulate_probability_variance",
    "accumulate_expected_l2",
    "accumulate_expected_support",
    "accumulate_subsample_expected_heterozygosity",
]


class SubsampleHeterozygosity(NamedTuple):
    """Expected heterozygosity of the fit, and of the pool that it is drawn from."""

    model: float
    pool: float


def accumulate_expected_heterozygosity(t: int, n: int, *, probabilities: ArrayLike, n0: int | None = None) -> float:
    r"""Expectation of the heterozygosity of the fitted frequencies.

    .. math:: \mathbb{E}H_t = H_0\Bigl(1-\frac1{n_0}\Bigr)\prod_{j=2}^t\Bigl(1-\frac n{N_j^2}\Bigr)

    The law of the Gaussian variance under maximum likelihood, with :math:`H_0` for the real variance.

    Args:
        t: Number of fits, at least 1.
        n: Draws added per generation, at least 1.
        probabilities: Real probabilities of the categories, (K,).
        n0: Real draws, at least 2; n if None.

    Returns:
        The expectation of :math:`1 - \sum_i p_{t,i}^2`.

    Raises:
        ValueError: If an argument is out of its range.
    """
    return heterozygosity(probabilities) * accumulate_variance(t, n, ddof=0, n0=n0)


def accumulate_limit_heterozygosity(n: int, *, probabilities: ArrayLike, n0: int | None = None) -> float:
    r"""Limit of the expected heterozygosity after infinitely many fits.

    .. math:: \mathbb{E}H_\infty = H_0\,\frac{\sin(\pi/\sqrt n)}{\pi/\sqrt n} \quad (n_0 = n)

    Args:
        n: Draws added per generation, at least 1.
        probabilities: Real probabilities of the categories, (K,).
        n0: Real draws, at least 2; n if None.

    Returns:
        The limit, positive if the real law has two categories.

    Raises:
        ValueError: If an argument is out of its range.
    """
    return heterozygosity(probabilities) * accumulate_limit_variance(n, ddof=0, n0=n0)


def accumulate_probability_variance(
    t: int, n: int, *, probabilities: ArrayLike, n0: int | None = None
) -> NDArray[np.float64]:
    r"""Variance of each fitted frequency over chains; its expectation is the real probability.

    .. math:: \operatorname{Var}p_{t,i} = p_i(1-p_i)\,\bigl(1 - \mathbb{E}H_t/H_0\bigr)

    Args:
        t: Number of fits, at least 1.
        n: Draws added per generation, at least 1.
        probabilities: Real probabilities of the categories, (K,).
        n0: Real draws, at least 2; n if None.

    Returns:
        The variances, (K,).

    Raises:
        ValueError: If an argument is out of its range.
    """
    p = check_probabilities(probabilities)
    return p * (1 - p) * (1 - accumulate_variance(t, n, ddof=0, n0=n0))


def accumulate_expected_l2(t: int, n: int, *, probabilities: ArrayLike, n0: int | None = None) -> float:
    r"""Expected squared Euclidean distance between the fitted and the real frequencies.

    .. math:: \mathbb{E}\lVert p_t - p_0\rVert^2 = H_0 - \mathbb{E}H_t

    Args:
        t: Number of fits, at least 1.
        n: Draws added per generation, at least 1.
        probabilities: Real probabilities of the categories, (K,).
        n0: Real draws, at least 2; n if None.

    Returns:
        The expected squared distance.

    Raises:
        ValueError: If an argument is out of its range.
    """
    return float(np.sum(accumulate_probability_variance(t, n, probabilities=probabilities, n0=n0)))


def accumulate_expected_support(t: int, n: int, *, probabilities: ArrayLike, n0: int | None = None) -> float:
    r"""Expected number of categories that are left: those of the first fit, for ever.

    .. math:: \sum_i\bigl[1-(1-p_i)^{n_0}\bigr]

    Args:
        t: Number of fits, at least 1; without influence.
        n: Draws added per generation, at least 1.
        probabilities: Real probabilities of the categories, (K,).
        n0: Real draws, at least 1; n if None.

    Returns:
        The expected number.

    Raises:
        ValueError: If an argument is out of its range.
    """
    check_t(t)
    check_count("n", n, 1)
    return first_fit_expected_support(n if n0 is None else n0, probabilities=probabilities)


def accumulate_subsample_expected_heterozygosity(
    t: int, n: int, *, size: int, probabilities: ArrayLike, n0: int | None = None, replacement: bool = False
) -> SubsampleHeterozygosity:
    r"""Expected heterozygosity of b draws out of the accumulated pool, which then grows by n draws of the fit.

    With H the heterozygosity of the pool and N its size, that of the fit is

    .. math:: H^{(b)} = H\,\frac{N(b-1)}{b(N-1)} \;\text{(without replacement)}, \qquad
        H^{(b)} = H\,\frac{b-1}b \;\text{(with)},

    .. math:: N'^2\,H' = (N^2 + 2Nn)\,H + n^2\Bigl(1-\frac1n\Bigr)H^{(b)}, \qquad N' = N + n,

    from :math:`N = n_0, H = H_0(1-1/n_0)`. While the pool has fewer than b draws, a fit without replacement takes all.

    Args:
        t: Number of fits, at least 1.
        n: Draws added per generation, at least 1.
        size: Draws b of a fit, at least 1.
        probabilities: Real probabilities of the categories, (K,).
        n0: Real draws, at least 1; n if None.
        replacement: Whether the b draws are made with replacement.

    Returns:
        The expectations for fit t and for its pool.

    Raises:
        ValueError: If an argument is out of its range.
    """
    check_t(t)
    check_count("n", n, 1)
    check_count("size", size, 1)
    pool = n if n0 is None else n0
    check_count("n0", pool, 1)
    kept = heterozygosity(probabilities) * (1 - 1 / pool)
    fitted = kept * _share_seen(pool, size, replacement)
    for _ in range(t - 1):
        total = pool + n
        kept = ((pool**2 + 2 * pool * n) * kept + (n**2 - n) * fitted) / total**2
        pool = total
        fitted = kept * _share_seen(pool, size, replacement)
    return SubsampleHeterozygosity(fitted, kept)


def _share_seen(pool: int, size: int, replacement: bool) -> float:
    """Heterozygosity of a subsample relative to that of the pool."""
    if replacement:
        return 1 - 1 / size
    return 1.0 if size >= pool else pool * (size - 1) / (size * (pool - 1))
