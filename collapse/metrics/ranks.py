r"""Effective ranks: how many dimensions a set of embeddings uses.

All are Hill numbers of the singular values :math:`\sigma_k` of the embeddings themselves, **uncentered**: a mean that
is not zero counts as a dimension. Pass ``x - x.mean(0)`` for the ranks of the covariance.

===================  ==============  =====
name                 of the shares   order
===================  ==============  =====
rankme               σ_k / Σ σ + ε   1
effective_rank       σ_k² / Σ σ²     1
participation_ratio  σ_k² / Σ σ²     2
stable_rank          σ_k² / Σ σ²     ∞
===================  ==============  =====

RankMe and the effective rank are different numbers. The zero matrix has rank 0 by all four.
"""

import math

import torch
from torch import Tensor

from collapse.metrics.entropy import entropy_terms, hill_number
from collapse.metrics.metric import feature_set

__all__ = ["rankme", "effective_rank", "participation_ratio", "stable_rank"]


def rankme(x: Tensor, *, eps: float = 1e-7) -> Tensor:
    r"""Compute RankMe, the exponential of the entropy of the normalized singular values.

    .. math:: \exp\Bigl(-\sum_{k=1}^{\min(N, D)} p_k \ln p_k\Bigr), \qquad
        p_k = \sigma_k / \lVert\sigma\rVert_1 + \varepsilon \qquad (1)

    As in the paper, the shares are not normalized again after :math:`\varepsilon`.

    Args:
        x: Embeddings, (N, D), N >= 1.
        eps: The paper's ε, at least 0; it keeps gradients finite at singular matrices.

    Returns:
        RankMe, (), float64: 0 for the zero matrix, otherwise in [1, min(N, D)] up to ε.

    Raises:
        ValueError: If x is not a finite matrix or eps is negative.

    References:
        Garrido et al., "RankMe: Assessing the Downstream Performance of Pretrained Self-Supervised Representations by
        Their Rank", 2022. arXiv:2210.02885, equation 1.
    """
    if not eps >= 0:
        raise ValueError(f"eps = {eps}, but shares are not negative; use the paper's 1e-7, or 0.")
    values = _singular_values(x)
    total = values.sum()
    return entropy_terms(values / total + eps).sum().exp() if total > 0 else 0 * total


def effective_rank(x: Tensor) -> Tensor:
    r"""Compute the exponential of the entropy of the squared singular values, the shares of variance.

    .. math:: \exp\Bigl(-\sum_k p_k \ln p_k\Bigr), \qquad p_k = \sigma_k^2 / \textstyle\sum_j \sigma_j^2

    Args:
        x: Embeddings, (N, D), N >= 1.

    Returns:
        The effective rank, (), float64: 0 for the zero matrix, otherwise in [1, min(N, D)].

    Raises:
        ValueError: If x is not a finite matrix.

    References:
        Roy and Vetterli, "The Effective Rank: A Measure of Effective Dimensionality", 2007. Defined for the singular
        values of any matrix; here that matrix is :math:`X^\top X`, whose singular values are :math:`\sigma_k^2`.
    """
    return _hill_rank(x, 1)


def participation_ratio(x: Tensor) -> Tensor:
    r"""Compute the participation ratio of the squared singular values.

    .. math:: \Bigl(\sum_k \sigma_k^2\Bigr)^2 \Big/ \sum_k \sigma_k^4

    Args:
        x: Embeddings, (N, D), N >= 1.

    Returns:
        The ratio, (), float64: 0 for the zero matrix, otherwise in [1, min(N, D)].

    Raises:
        ValueError: If x is not a finite matrix.

    References:
        Gao et al., "A Theory of Multineuronal Dimensionality, Dynamics and Measurement", 2017.
    """
    return _hill_rank(x, 2)


def stable_rank(x: Tensor) -> Tensor:
    r"""Compute the stable rank, the squared Frobenius norm over the squared spectral norm.

    .. math:: \sum_k \sigma_k^2 \,/\, \sigma_1^2

    Args:
        x: Embeddings, (N, D), N >= 1.

    Returns:
        The stable rank, (), float64: 0 for the zero matrix, otherwise in [1, min(N, D)].

    Raises:
        ValueError: If x is not a finite matrix.

    References:
        Rudelson and Vershynin, "Sampling from Large Matrices: An Approach through Geometric Functional Analysis",
        2007. arXiv:math/0503442.
    """
    return _hill_rank(x, math.inf)


def _hill_rank(x: Tensor, order: float) -> Tensor:
    squares = _singular_values(x).square()
    total = squares.sum()
    return hill_number(squares, order) if total > 0 else 0 * total


def _singular_values(x: Tensor) -> Tensor:
    return torch.linalg.svdvals(feature_set("x", x, rows=1).double())
