"""N-grams of token rows (N, L): what of the reference's language is left, counted without leaving tensors.

No n-gram crosses a row. Sets of one size and one length compare; numbers that grow with either do not.
"""

import math

import torch
from einops import rearrange
from torch import Tensor

from collapse.metrics.entropy import entropy

__all__ = ["distinct_ngrams", "ngram_coverage", "ngram_entropy", "ngram_variation", "rare_ngram_mass", "repetition"]


def distinct_ngrams(reference: Tensor, generated: Tensor, n: int = 1) -> Tensor:
    """Compute the share of generated n-grams that are distinct, pooled over all rows: ``distinct_n`` of whole tensors.

    Args:
        reference: Tokens of held-out real rows, (N, L); not looked at.
        generated: Tokens of generated rows, (M, L), integers, L >= n.
        n: Length of the n-grams, at least 1.

    Returns:
        The share in (0, 1], (), float64.

    Raises:
        ValueError: If a set is not a non-empty matrix of integers with rows of n tokens or more.

    References:
        Li et al., "A Diversity-Promoting Objective Function for Neural Conversation Models", 2016. arXiv:1510.03055.
    """
    counts = _counts(_numbered(n, generated=generated)[0])
    return len(counts) / counts.sum().double()


def ngram_entropy(reference: Tensor, generated: Tensor, n: int = 1) -> Tensor:
    r"""Estimate the entropy of the law of generated n-grams, with the bias of counting taken off.

    .. math:: \hat H = -\sum_k \frac{c_k}{T} \ln \frac{c_k}{T} + \frac{K - 1}{2T}

    for the K n-grams that occur, :math:`c_k` times each, T times together. Relative frequencies alone are too low by
    about the last term, the more so the richer the text; what never occurs is still missed.

    Args:
        reference: Tokens of held-out real rows, (N, L); not looked at.
        generated: Tokens of generated rows, (M, L), integers, L >= n.
        n: Length of the n-grams, at least 1.

    Returns:
        The entropy in nats, (), float64, at least 0.

    Raises:
        ValueError: If a set is not a non-empty matrix of integers with rows of n tokens or more.

    References:
        Miller, "Note on the bias of information estimates", 1955; Paninski, "Estimation of Entropy and Mutual
        Information", 2003, equation 4.
    """
    counts = _counts(_numbered(n, generated=generated)[0])
    return entropy(counts) + (len(counts) - 1) / (2 * int(counts.sum()))


def repetition(reference: Tensor, generated: Tensor, n: int = 4) -> Tensor:
    r"""Compute the share of n-grams that their own row has held before, averaged over rows.

    .. math:: 1 - \frac{\#\text{ unique n-grams of a row}}{\#\text{ n-grams of a row}}

    Args:
        reference: Tokens of held-out real rows, (N, L); not looked at.
        generated: Tokens of generated rows, (M, L), integers, L >= n.
        n: Length of the n-grams, at least 1.

    Returns:
        The share in [0, 1), (), float64: 0 if no row repeats itself.

    Raises:
        ValueError: If a set is not a non-empty matrix of integers with rows of n tokens or more.

    References:
        Welleck et al., "Neural Text Generation with Unlikelihood Training", 2020. arXiv:1908.04319, section 6
        (seq-rep-n).
    """
    grams = _numbered(n, generated=generated)[0].sort(dim=1).values
    return (grams[:, 1:] == grams[:, :-1]).double().sum(1).mean() / grams.shape[1]


def ngram_coverage(reference: Tensor, generated: Tensor, n: int = 1) -> Tensor:
    """Compute the share of the reference's distinct n-grams that occur in the generated rows.

    Args:
        reference: Tokens of held-out real rows, (N, L), integers, L >= n.
        generated: Tokens of generated rows, (M, L), integers, L >= n.
        n: Length of the n-grams, at least 1.

    Returns:
        The share in [0, 1], (), float64: 1 if nothing that the reference uses has been lost.

    Raises:
        ValueError: If a set is not a non-empty matrix of integers with rows of n tokens or more.
    """
    wanted, found = _histograms(n, reference, generated)
    return (found[wanted > 0] > 0).double().mean()


def ngram_variation(reference: Tensor, generated: Tensor, n: int = 1) -> Tensor:
    r"""Compute the total variation distance between the frequencies of n-grams.

    .. math:: \tfrac12 \sum_k \lvert p_k - q_k \rvert

    Args:
        reference: Tokens of held-out real rows, (N, L), integers, L >= n.
        generated: Tokens of generated rows, (M, L), integers, L >= n.
        n: Length of the n-grams, at least 1.

    Returns:
        The distance in [0, 1], (), float64. Two sets of one law are not at 0: show this floor.

    Raises:
        ValueError: If a set is not a non-empty matrix of integers with rows of n tokens or more.
    """
    wanted, found = _histograms(n, reference, generated)
    return (wanted / wanted.sum() - found / found.sum()).abs().sum() / 2


def rare_ngram_mass(reference: Tensor, generated: Tensor, n: int = 1, q: float = 0.05) -> Tensor:
    r"""Compute the share of generated n-grams that are rare in the reference, or not in it at all: its tail.

    .. math:: \sum_{k \in \mathcal R} q_k, \qquad \mathcal R = \text{the rarest n-grams with } \sum_{\mathcal R} p_k
        \le q

    Ties are taken whole or not at all, so that the order of n-grams does not matter. Collapse moves it to 0; noise
    moves it up, and so do other real rows a little, as the rare ones were chosen by their frequencies in the
    reference. Show this floor.

    Args:
        reference: Tokens of held-out real rows, (N, L), integers, L >= n.
        generated: Tokens of generated rows, (M, L), integers, L >= n.
        n: Length of the n-grams, at least 1.
        q: Share of the reference's n-grams that is called its tail, in (0, 1).

    Returns:
        The share in [0, 1], (), float64.

    Raises:
        ValueError: If q is out of range, or a set is not a non-empty matrix of integers with rows of n tokens or more.

    References:
        Tails as the first thing that collapse takes: Shumailov et al., "AI models collapse when trained on recursively
        generated data", 2024. arXiv:2305.17493.
    """
    if not 0 < q < 1:
        raise ValueError(f"q = {q}, but the share of a tail lies between 0 and 1; use 0.05.")
    wanted, found = _histograms(n, reference, generated)
    levels, group = torch.unique(wanted, return_inverse=True)  # n-grams of one frequency, rarest first
    mass = torch.zeros_like(levels).index_add_(0, group, wanted).cumsum(0) / wanted.sum()
    return found[(mass <= q + 1e-12)[group]].sum() / found.sum()


def _histograms(n: int, reference: Tensor, generated: Tensor) -> tuple[Tensor, Tensor]:
    """Count the n-grams of both sets over those of either, both (K,) float64."""
    grams = _numbered(n, reference=reference, generated=generated)
    kinds = 1 + max(int(part.max()) for part in grams)
    return tuple(part.flatten().bincount(minlength=kinds).double() for part in grams)  # type: ignore[return-value]


def _counts(grams: Tensor) -> Tensor:
    """Return how often each n-gram occurs, (K,) int64, without those that do not."""
    return torch.unique(grams, return_counts=True)[1]


def _numbered(n: int, **sets: Tensor) -> list[Tensor]:
    """Return the number of the n-gram at every place of every set, (N, L - n + 1) int64, one numbering for all."""
    for name, rows in sets.items():
        if rows.ndim != 2 or len(rows) == 0 or rows.is_floating_point():
            raise ValueError(
                f"{name} has shape {tuple(rows.shape)} and dtype {rows.dtype}, but a matrix of tokens (N, L) is "
                "needed; pass integer rows of one length."
            )
        if not 1 <= n <= rows.shape[1]:
            raise ValueError(
                f"n = {n}, but the rows of {name} have {rows.shape[1]} tokens and an n-gram at least one; "
                "use a smaller n, or longer rows."
            )
    tokens = [rows.long() for rows in sets.values()]
    grams = tokens
    for place in range(1, n):
        # Numbered anew at every length, so that the product stays far below 2^63 for any n and vocabulary.
        base = 1 + max(int(rows.max()) for rows in tokens)
        pairs = [part[:, :-1] * base + rows[:, place:] for part, rows in zip(grams, tokens, strict=True)]
        sizes = [math.prod(pair.shape) for pair in pairs]
        numbers = torch.unique(torch.cat([pair.flatten() for pair in pairs]), return_inverse=True)[1].split(sizes)
        grams = [rearrange(part, "(n l) -> n l", n=len(pair)) for part, pair in zip(numbers, pairs, strict=True)]
    return grams
