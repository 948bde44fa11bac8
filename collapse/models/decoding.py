"""Decoding: ways to sample something else than the law a model has learned, for models over categories and tokens."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from collapse.nn.precision import at_least_single

__all__ = ["Decoding", "nucleus", "temperature", "top_k"]


def temperature(probabilities: Tensor, tau: float) -> Tensor:
    r"""Sharpen a law, or flatten it.

    .. math:: q_i = \frac{p_i^{1/\tau}}{\sum_j p_j^{1/\tau}}

    A category without probability gets none at any temperature. Applied t times it is one temperature
    :math:`\tau^t`: a chain at :math:`\tau < 1` ends on its most frequent category even with infinitely many rows.

    Args:
        probabilities: Laws over K categories, (..., K), each with a sum of 1.
        tau: Temperature, above 0 and finite; below 1 sharpens. 1 returns ``probabilities`` itself.

    Returns:
        The laws q, (..., K).

    Raises:
        ValueError: If ``tau`` is outside its range.
    """
    if not 0 < tau < math.inf:
        raise ValueError(f"temperature={tau} must be above 0 and finite; top_k=1 always takes the likeliest category")
    if tau == 1:
        return probabilities
    logits = probabilities.log()
    return torch.softmax((logits - logits.amax(-1, keepdim=True)) / tau, -1)  # the largest is 0 at any temperature


def top_k(probabilities: Tensor, k: int) -> Tensor:
    """Keep the k likeliest categories of a law; of equal ones those of lower index. Idempotent.

    Args:
        probabilities: Laws over K categories, (..., K), each with a sum of 1.
        k: Categories to keep, at least 1; K and more return ``probabilities`` itself.

    Returns:
        The laws without the others, (..., K), with sums of 1 again.

    Raises:
        ValueError: If ``k`` is outside its range.

    References:
        Fan, Lewis, Dauphin, "Hierarchical Neural Story Generation", ACL 2018, arXiv:1805.04833.
    """
    if k < 1:
        raise ValueError(f"top_k={k} must be at least 1 category, or None to keep all")
    if k >= probabilities.shape[-1]:
        return probabilities
    ranks = probabilities.argsort(dim=-1, descending=True, stable=True)
    return _normalized(probabilities.scatter(-1, ranks[..., k:], 0))


def nucleus(probabilities: Tensor, p: float) -> Tensor:
    """Keep the shortest list of likeliest categories with a mass of p; of equal ones those of lower index come first.

    Not idempotent: what is kept has the mass 1 afterwards, so that a shorter list may do the next time.

    Args:
        probabilities: Laws over K categories, (..., K), each with a sum of 1.
        p: Mass to keep at least, in (0, 1], up to a few roundings. 1 returns ``probabilities`` itself.

    Returns:
        The laws without the others, (..., K), with sums of 1 again.

    Raises:
        ValueError: If ``p`` is outside its range.

    References:
        Holtzman et al., "The Curious Case of Neural Text Degeneration", ICLR 2020, arXiv:1904.09751, equation 2.
    """
    if not 0 < p <= 1:
        raise ValueError(f"top_p={p} must lie in (0, 1]; 1 keeps every category")
    if p == 1:
        return probabilities
    ranked, ranks = probabilities.sort(dim=-1, descending=True, stable=True)
    before = F.pad(ranked.cumsum(-1)[..., :-1], (1, 0))  # mass of the likelier ones
    # Frequencies are fractions, and 8 x 0.1 must be 0.8: a sum that misses p by its rounding has reached it.
    surplus = before >= p * (1 - 8 * torch.finfo(before.dtype).eps)
    return _normalized(probabilities.masked_fill(surplus.scatter(-1, ranks, surplus), 0))


@dataclass(frozen=True)
class Decoding:
    """What a sampler does to the law it draws from: temperature, then top-k, then nucleus.

    Each acts on the result of the one before, so the mass of the nucleus is that of the k categories left.

    Attributes:
        temperature: Above 0; 1 is neutral.
        top_k: Categories to keep, at least 1; None for all.
        top_p: Mass to keep, in (0, 1]; 1 is neutral.

    Raises:
        ValueError: If one of them is outside its range.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float = 1.0

    def __post_init__(self) -> None:
        self.apply(torch.ones(1))  # each step checks its own argument

    def apply(self, probabilities: Tensor) -> Tensor:
        """Return the laws to draw from, (..., K); ``probabilities`` itself when everything is neutral."""
        probabilities = temperature(probabilities, self.temperature)
        if self.top_k is not None:
            probabilities = top_k(probabilities, self.top_k)
        return nucleus(probabilities, self.top_p)

    def draw(self, logits: Tensor, uniform: Tensor) -> Tensor:
        r"""Draw a category from each law by inversion, :math:`\min\{i : q_0 + \dots + q_i > u \sum_j q_j\}`.

        The sum is 1 up to roundings; with it nothing is drawn that has no probability.

        Args:
            logits: Unnormalized log-probabilities before decoding, (n, K).
            uniform: Uniform numbers u in [0, 1), (n, 1) float64, contiguous.

        Returns:
            (n, 1) int64 in [0, K); K where the logits hold a NaN.
        """
        law = self.apply(at_least_single(logits).softmax(-1))
        sums = law.cumsum(-1, dtype=torch.float64)
        return torch.searchsorted(sums, uniform * sums[:, -1:], right=True)

    @property
    def settings(self) -> dict[str, Any]:
        """What is not neutral, by name: the ``sampler_settings`` of a model."""
        neutral = Decoding()
        return {name: value for name, value in vars(self).items() if value != getattr(neutral, name)}


def _normalized(weights: Tensor) -> Tensor:
    return weights / weights.sum(-1, keepdim=True)
