r"""Heterozygosity of the categorical chains that mix real and synthetic draws in a fixed proportion.

With :math:`F = \sum_i p_i^2`, every regime is an affine recursion :math:`F' = \text{const} + \text{slope}\cdot F`.

Erratum: "a fixed real fraction" has meanings that differ at order 1/N. Here real draws that no fit has used before
(fresh), the same ones at every fit (anchors) and ones redrawn from a finite set are told apart by ``dataset_size``; a
random number of real draws, each draw being real with probability α, is the independent mixture, with its own laws.

References:
    Alemohammad et al., "Self-Consuming Generative Models Go MAD", 2024. arXiv:2307.01850 (fresh, anchors). Bertrand et
    al., "On the Stability of Iterative Retraining", 2024. arXiv:2310.00429 (independent mixture).
"""

from __future__ import annotations

import math

from numpy.typing import ArrayLike

from collapse.theory._checks import check_count, check_t
from collapse.theory.categorical.replace import heterozygosity

__all__ = [
    "real_fraction_expected_heterozygosity",
    "real_fraction_stationary_heterozygosity",
    "independent_mixture_expected_heterozygosity",
    "independent_mixture_stationary_heterozygosity",
]


def real_fraction_expected_heterozygosity(
    t: int,
    *,
    n_real: int,
    n_synthetic: int,
    n_first: int,
    probabilities: ArrayLike,
    dataset_size: float = math.inf,
) -> float:
    r"""Expected heterozygosity of a fit to real and synthetic draws in a fixed proportion.

    With :math:`R_m = 1/m + (1-1/m)F_0` the sum of squares of m real draws, q the frequencies of the M real draws that
    exist, and the overlap :math:`C = \mathbb{E}\langle p, q\rangle`,

    .. math:: F' &= \Bigl(\frac{n_r}N\Bigr)^2R_{n_r} + \frac{2n_rn_s}{N^2}\,C
        + \Bigl(\frac{n_s}N\Bigr)^2\Bigl[\frac1{n_s} + \Bigl(1-\frac1{n_s}\Bigr)F\Bigr], \qquad N = n_r + n_s\\
        C' &= (n_r/N)\,R_M + (n_s/N)\,C

    from :math:`F = R_{n_1}, C = R_{\max(M, n_1)}`: the smaller of the dataset and the draws of the first fit is part of
    the larger.

    Args:
        t: Number of fits, at least 1.
        n_real: Real draws per fit, at least 0.
        n_synthetic: Synthetic draws per fit, at least 0; the two together at least 1.
        n_first: Real draws of the first fit, at least 1.
        probabilities: Real probabilities of the categories, (K,).
        dataset_size: Real draws that exist, M, from which every fit takes its own without replacement. Infinite for
            fresh draws; equal to n_real for anchors, which may be fewer than the draws of the first fit.

    Returns:
        The expectation of :math:`1 - F_t`.

    Raises:
        ValueError: If an argument is out of its range.
    """
    check_t(t)
    check_count("n_first", n_first, 1)
    slope, overlap, source = _real_fraction_map(n_real, n_synthetic, dataset_size)
    synthetic = n_synthetic / (n_real + n_synthetic)
    # both relative to the heterozygosity of the real law: that of a fit, and one between a fit and the dataset
    within, between, limit = 1 - 1 / n_first, 1 - 1 / max(dataset_size, n_first), 1 - 1 / dataset_size
    for _ in range(t - 1):
        within = source + overlap * between + slope * within
        between = (1 - synthetic) * limit + synthetic * between
    return heterozygosity(probabilities) * within


def real_fraction_stationary_heterozygosity(
    *, n_real: int, n_synthetic: int, probabilities: ArrayLike, dataset_size: float = math.inf
) -> float:
    """Expected heterozygosity of a real-fraction chain after infinitely many fits.

    The fixed point of the recursion of :func:`real_fraction_expected_heterozygosity`; its first fit is forgotten.

    Args:
        n_real: Real draws per fit, at least 0; none is replace, which loses everything.
        n_synthetic: Synthetic draws per fit, at least 0; the two together at least 1.
        probabilities: Real probabilities of the categories, (K,).
        dataset_size: Real draws that exist; infinite for fresh draws, n_real for anchors.

    Returns:
        The stationary heterozygosity.

    Raises:
        ValueError: If an argument is out of its range.
    """
    slope, overlap, source = _real_fraction_map(n_real, n_synthetic, dataset_size)
    return heterozygosity(probabilities) * (source + overlap * (1 - 1 / dataset_size)) / (1 - slope)


def independent_mixture_expected_heterozygosity(
    t: int, n: int, *, real_fraction: float, probabilities: ArrayLike
) -> float:
    r"""Expected heterozygosity of a fit to n independent draws, each fresh and real with probability α.

    .. math:: F' = \frac1n + \Bigl(1-\frac1n\Bigr)\bigl[\alpha(2-\alpha)F_0 + (1-\alpha)^2F\bigr]

    from a first fit to n real draws.

    Args:
        t: Number of fits, at least 1.
        n: Draws per fit, at least 1.
        real_fraction: Probability α that a draw is real, in [0, 1].
        probabilities: Real probabilities of the categories, (K,).

    Returns:
        The expectation of :math:`1 - F_t`.

    Raises:
        ValueError: If an argument is out of its range.
    """
    check_t(t)
    slope, stationary = _independent_map(n, real_fraction)
    first = 1 - 1 / n
    return heterozygosity(probabilities) * (stationary + slope ** (t - 1) * (first - stationary))


def independent_mixture_stationary_heterozygosity(n: int, *, real_fraction: float, probabilities: ArrayLike) -> float:
    """Expected heterozygosity of an independent mixture after infinitely many fits.

    The fixed point of the recursion of :func:`independent_mixture_expected_heterozygosity`.

    Args:
        n: Draws per fit, at least 1.
        real_fraction: Probability α that a draw is real, in [0, 1]; zero is replace, which loses everything.
        probabilities: Real probabilities of the categories, (K,).

    Returns:
        The stationary heterozygosity.

    Raises:
        ValueError: If an argument is out of its range.
    """
    return heterozygosity(probabilities) * _independent_map(n, real_fraction)[1]


def _real_fraction_map(n_real: int, n_synthetic: int, dataset_size: float) -> tuple[float, float, float]:
    """Probabilities that two draws of a fit are distinct and both synthetic, one of each kind, both real."""
    check_count("n_real", n_real, 0)
    check_count("n_synthetic", n_synthetic, 0)
    n = n_real + n_synthetic
    check_count("n_real + n_synthetic", n, 1)
    check_count("dataset_size", dataset_size, max(n_real, 1))
    pairs = n_synthetic * (n_synthetic - 1), 2 * n_real * n_synthetic, n_real * (n_real - 1)
    return pairs[0] / n**2, pairs[1] / n**2, pairs[2] / n**2


def _independent_map(n: int, real_fraction: float) -> tuple[float, float]:
    """Slope and fixed point of the recursion of H over that of the real law."""
    check_count("n", n, 1)
    if not 0 <= real_fraction <= 1:
        raise ValueError(f"real_fraction must lie in [0, 1], got {real_fraction}; it is the probability of a real draw")
    distinct = 1 - 1 / n
    slope = distinct * (1 - real_fraction) ** 2
    return slope, distinct * real_fraction * (2 - real_fraction) / (1 - slope)
