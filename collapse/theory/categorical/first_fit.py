r"""Laws of the first fit, for vocabularies of millions, and Zipf's law.

What n real draws see and miss needs no recursion, so these sums serve any number of categories. With
:math:`p_i = C i^{-\beta}` they are power laws in n: this is how a heavy tail turns sampling into truncation.

References:
    Dohmatob et al., "A Tale of Tails: Model Collapse as a Change of Scaling Laws", 2024. arXiv:2402.07043.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from collapse.theory._checks import check_count, check_probabilities

__all__ = [
    "first_fit_expected_support",
    "first_fit_expected_missing_mass",
    "zipf_probabilities",
    "zipf_asymptotic_support",
    "zipf_asymptotic_missing_mass",
]


def first_fit_expected_support(n: int, *, probabilities: ArrayLike) -> float:
    r"""Expected number of categories among n real draws.

    .. math:: \sum_i\bigl[1-(1-p_i)^n\bigr]

    Args:
        n: Draws, at least 1.
        probabilities: Real probabilities of the categories, (K,).

    Returns:
        The expected number.

    Raises:
        ValueError: If an argument is out of its range.
    """
    return -float(np.sum(np.expm1(n * _log_missed(n, check_probabilities(probabilities)))))


def first_fit_expected_missing_mass(n: int, *, probabilities: ArrayLike) -> float:
    r"""Expected real probability of the categories that n real draws miss.

    .. math:: \sum_i p_i\,(1-p_i)^n

    Args:
        n: Draws, at least 1.
        probabilities: Real probabilities of the categories, (K,).

    Returns:
        The expected mass, in [0, 1).

    Raises:
        ValueError: If an argument is out of its range.
    """
    p = check_probabilities(probabilities)
    return float(p @ np.exp(n * _log_missed(n, p)))


def zipf_probabilities(categories: int, *, exponent: float) -> NDArray[np.float64]:
    r"""Zipf's law on a finite vocabulary.

    .. math:: p_i = C\,i^{-\beta}, \qquad C = \Bigl(\sum_{i=1}^K i^{-\beta}\Bigr)^{-1}

    Args:
        categories: Number of categories K, at least 1.
        exponent: β, positive.

    Returns:
        The probabilities, (K,), decreasing.

    Raises:
        ValueError: If an argument is out of its range.
    """
    check_count("categories", categories, 1)
    if not 0 < exponent < math.inf:
        raise ValueError(f"exponent must be positive and finite, got {exponent}; text has one near 1")
    weights = np.arange(1, categories + 1, dtype=np.float64) ** -exponent
    return weights / weights.sum()


def zipf_asymptotic_support(n: int, *, categories: int, exponent: float) -> float:
    r"""Power law of the expected number of categories among n draws of Zipf's law.

    .. math:: \Gamma(1-1/\beta)\,(Cn)^{1/\beta}

    Reached from below on a finite vocabulary: :func:`first_fit_expected_support` is exact.
    Erratum: the cutoff rank of A Tale of Tails, of order :math:`n^{1/\beta}`, is where :math:`np_i\approx1`. The
    largest rank among n draws is of order :math:`n^{1/(\beta-1)}`, a different quantity.

    Args:
        n: Draws, at least 1.
        categories: Number of categories K, at least 1; sets the constant C.
        exponent: β, above 1.

    Returns:
        The approximate number.

    Raises:
        ValueError: If an argument is out of its range.
    """
    rank = _cutoff_rank(n, categories, exponent)
    return rank * math.gamma(1 - 1 / exponent)


def zipf_asymptotic_missing_mass(n: int, *, categories: int, exponent: float) -> float:
    r"""Power law of the expected mass that n draws of Zipf's law miss.

    .. math:: \frac{C^{1/\beta}}\beta\,\Gamma(1-1/\beta)\,n^{-(1-1/\beta)}

    Reached from below on a finite vocabulary: :func:`first_fit_expected_missing_mass` is exact.

    Args:
        n: Draws, at least 1.
        categories: Number of categories K, at least 1; sets the constant C.
        exponent: β, above 1.

    Returns:
        The approximate mass.

    Raises:
        ValueError: If an argument is out of its range.
    """
    return zipf_asymptotic_support(n, categories=categories, exponent=exponent) / (exponent * n)


def _log_missed(n: int, p: NDArray[np.float64]) -> NDArray[np.float64]:
    """Log-probability that one draw is not of a category, (K,)."""
    check_count("n", n, 1)
    with np.errstate(divide="ignore"):  # a certain category is never missed
        return np.log1p(-p)


def _cutoff_rank(n: int, categories: int, exponent: float) -> float:
    """Rank of the category that is expected once among n draws."""
    check_count("n", n, 1)
    if not exponent > 1:
        raise ValueError(f"exponent must be above 1 for a power law in n, got {exponent}; take the exact sums instead")
    return (n * float(zipf_probabilities(categories, exponent=exponent)[0])) ** (1 / exponent)
