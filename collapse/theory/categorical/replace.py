r"""Moments of the categorical replace chain: heterozygosity, frequencies, and what smoothing does to them.

Given :math:`p_{t-1}`, the counts :math:`n\,p_t` are multinomial. Every frequency is a martingale, and the sum of
squares :math:`F_t = \sum_i p_{t,i}^2` has :math:`\mathbb{E}[F_t\mid p_{t-1}] = 1/n + (1-1/n)F_{t-1}`.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from collapse.theory._checks import check_count, check_probabilities, check_t

__all__ = [
    "heterozygosity",
    "replace_expected_heterozygosity",
    "replace_probability_variance",
    "replace_expected_l2",
    "smoothing_expected_probabilities",
    "smoothing_expected_heterozygosity",
    "smoothing_stationary_heterozygosity",
]


def heterozygosity(probabilities: ArrayLike) -> float:
    r"""Probability that two draws differ.

    .. math:: H = 1 - \sum_i p_i^2

    Args:
        probabilities: Probabilities of the categories, (K,).

    Returns:
        A number in [0, 1 - 1/K]; zero if one category is left.

    Raises:
        ValueError: If the argument is not a probability vector.
    """
    p = check_probabilities(probabilities)
    return float(p @ (1 - p))


def replace_expected_heterozygosity(t: int, n: int, *, probabilities: ArrayLike) -> float:
    r"""Expectation of the heterozygosity of the fitted frequencies.

    .. math:: \mathbb{E}H_t = H_0\,(1 - 1/n)^t

    Args:
        t: Number of fits, at least 1.
        n: Draws per fit, at least 1.
        probabilities: Real probabilities of the categories, (K,).

    Returns:
        The expectation of :math:`1 - \sum_i p_{t,i}^2`.

    Raises:
        ValueError: If an argument is out of its range.
    """
    return heterozygosity(probabilities) * (1 - _lost(t, n))


def replace_probability_variance(t: int, n: int, *, probabilities: ArrayLike) -> NDArray[np.float64]:
    r"""Variance of each fitted frequency over chains; its expectation is the real probability.

    .. math:: \operatorname{Var}p_{t,i} = p_i(1-p_i)\bigl[1 - (1-1/n)^t\bigr]

    Args:
        t: Number of fits, at least 1.
        n: Draws per fit, at least 1.
        probabilities: Real probabilities of the categories, (K,).

    Returns:
        The variances, (K,).

    Raises:
        ValueError: If an argument is out of its range.
    """
    p = check_probabilities(probabilities)
    return p * (1 - p) * _lost(t, n)


def replace_expected_l2(t: int, n: int, *, probabilities: ArrayLike) -> float:
    r"""Expected squared Euclidean distance between the fitted and the real frequencies.

    .. math:: \mathbb{E}\lVert p_t - p_0\rVert^2 = H_0\bigl[1 - (1-1/n)^t\bigr]

    Args:
        t: Number of fits, at least 1.
        n: Draws per fit, at least 1.
        probabilities: Real probabilities of the categories, (K,).

    Returns:
        The expected squared distance.

    Raises:
        ValueError: If an argument is out of its range.
    """
    return heterozygosity(probabilities) * _lost(t, n)


def smoothing_expected_probabilities(
    t: int, n: int, *, probabilities: ArrayLike, pseudocount: float
) -> NDArray[np.float64]:
    r"""Expectation of the frequencies with β added to every count.

    .. math:: \mathbb{E}p_t = \frac1K + (1-m)^t\Bigl(p_0 - \frac1K\Bigr), \qquad m = \frac{K\beta}{n+K\beta}

    Smoothing keeps every category alive and forgets the real law: it acts like mutation.

    Args:
        t: Number of fits, at least 1.
        n: Draws per fit, at least 1.
        probabilities: Real probabilities of the categories, (K,).
        pseudocount: β, at least 0; none is replace.

    Returns:
        The expectations, (K,).

    Raises:
        ValueError: If an argument is out of its range.
    """
    check_t(t)
    p = check_probabilities(probabilities)
    uniform = 1 / len(p)
    return uniform + (1 - _smoothed_share(n, len(p), pseudocount)) ** t * (p - uniform)


def smoothing_expected_heterozygosity(t: int, n: int, *, probabilities: ArrayLike, pseudocount: float) -> float:
    r"""Expectation of the heterozygosity with β added to every count.

    .. math:: F' = (1-m)^2\Bigl[\frac1n + \Bigl(1-\frac1n\Bigr)F\Bigr] + \frac{2(1-m)m}{K} + \frac{m^2}{K}, \qquad
        m = \frac{K\beta}{n+K\beta}

    Args:
        t: Number of fits, at least 1.
        n: Draws per fit, at least 1.
        probabilities: Real probabilities of the categories, (K,).
        pseudocount: β, at least 0; none is replace.

    Returns:
        The expectation of :math:`1 - F_t`.

    Raises:
        ValueError: If an argument is out of its range.
    """
    check_t(t)
    slope, stationary = _smoothing_map(n, len(check_probabilities(probabilities)), pseudocount)
    return stationary + slope**t * (heterozygosity(probabilities) - stationary)


def smoothing_stationary_heterozygosity(n: int, *, categories: int, pseudocount: float) -> float:
    """Expectation of the heterozygosity after infinitely many smoothed fits; the real law is forgotten.

    The fixed point of the recursion of :func:`smoothing_expected_heterozygosity`; zero without smoothing.

    Args:
        n: Draws per fit, at least 1.
        categories: Number of categories K, at least 1.
        pseudocount: β, at least 0.

    Returns:
        The stationary heterozygosity.

    Raises:
        ValueError: If an argument is out of its range.
    """
    check_count("categories", categories, 1)
    return _smoothing_map(n, categories, pseudocount)[1]


def _lost(t: int, n: int) -> float:
    """Share of the heterozygosity that t fits have turned into differences between chains."""
    check_t(t)
    check_count("n", n, 1)
    return -math.expm1(t * math.log1p(-1 / n)) if n > 1 else 1.0


def _smoothed_share(n: int, categories: int, pseudocount: float) -> float:
    """Share m of a smoothed fit that is uniform."""
    check_count("n", n, 1)
    check_count("pseudocount", pseudocount, 0)
    return categories * pseudocount / (n + categories * pseudocount)


def _smoothing_map(n: int, categories: int, pseudocount: float) -> tuple[float, float]:
    """Slope and fixed point of the recursion of the heterozygosity."""
    m = _smoothed_share(n, categories, pseudocount)
    slope = (1 - m) ** 2 * (1 - 1 / n)
    source = m * (2 - m) * (1 - 1 / categories)  # of H = 1 - F: two draws of which at least one is uniform
    return slope, source / (1 - slope)
