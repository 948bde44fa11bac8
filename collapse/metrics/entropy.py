"""Entropy and effective numbers: how many classes, modes or dimensions a histogram really uses."""

import math

import torch
from torch import Tensor

__all__ = ["entropy", "entropy_terms", "hill_number"]


def entropy(weights: Tensor, base: float = math.e) -> Tensor:
    r"""Compute the Shannon entropy of a histogram, given as counts or as probabilities.

    .. math:: H = -\sum_k p_k \log_b p_k, \qquad p_k = w_k / \textstyle\sum_j w_j

    The plug-in estimate from counts is biased downwards, by about (K - 1)/(2N) nats for N counts over K classes.

    Args:
        weights: Counts or probabilities, (..., K), non-negative, at least one positive; normalized here.
        base: Base b of the logarithm, above 1: e gives nats, 2 gives bits.

    Returns:
        The entropy of each histogram, (...), float64, in [0, log_b K].

    Raises:
        ValueError: If base is not above 1, weights has a negative or non-finite entry, or a histogram is empty.

    Example:
        >>> float(entropy(torch.tensor([2, 1, 1, 0]), base=2))
        1.5
    """
    if not base > 1:
        raise ValueError(f"base = {base}, but a logarithm that grows is needed; use math.e for nats or 2 for bits.")
    return entropy_terms(_shares(weights)).sum(-1) / math.log(base)


def hill_number(weights: Tensor, order: float = 1.0) -> Tensor:
    r"""Compute the effective number of classes of a histogram.

    .. math:: D_q = \Bigl(\sum_k p_k^q\Bigr)^{1/(1-q)}, \qquad D_1 = e^{H(p)}, \qquad D_\infty = 1 / \max_k p_k

    K equally frequent classes have the number K at every order; a larger order counts rare classes less, and order 0
    counts all of them.

    Args:
        weights: Counts or probabilities, (..., K), non-negative, at least one positive; normalized here.
        order: Order q, at least 0, possibly infinite.

    Returns:
        The effective number of each histogram, (...), float64, in [1, K].

    Raises:
        ValueError: If order is negative, weights has a negative or non-finite entry, or a histogram is empty.

    References:
        Hill, "Diversity and Evenness: A Unifying Notation and Its Consequences", 1973.
    """
    if not order >= 0:
        raise ValueError(f"order = {order}, but an order is at least 0; use 1 for the exponential of the entropy.")
    p = _shares(weights)
    if order == 1:
        return entropy_terms(p).sum(-1).exp()
    if math.isinf(order):
        return 1 / p.amax(-1)
    powers = torch.where(p > 0, order * _positive(p).log(), -math.inf)  # of order 1000 they underflow
    return (powers.logsumexp(-1) / (1 - order)).exp()


def entropy_terms(p: Tensor) -> Tensor:
    """Return -p ln p of every entry, 0 with gradient 0 where p is 0."""
    return torch.special.entr(_positive(p))


def _positive(p: Tensor) -> Tensor:
    # An infinite derivative at 0 would be NaN after a masking product: 1 stands in, whose terms are 0 without gradient.
    return torch.where(p > 0, p, 1)


def _shares(weights: Tensor) -> Tensor:
    w = weights.double()
    if w.ndim == 0 or not (torch.isfinite(w).all() and (w >= 0).all()):
        raise ValueError(
            f"weights, of shape {tuple(w.shape)}, must be non-negative finite numbers along the last axis; "
            "pass counts, for example labels.bincount(), or probabilities."
        )
    total = w.sum(-1, keepdim=True)
    if (total == 0).any():
        raise ValueError("weights holds an empty histogram, whose entries sum to 0; count at least one row.")
    return w / total
