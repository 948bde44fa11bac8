"""Likelihoods: what the values a decoder returns say of a row."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["BernoulliLikelihood", "GaussianLikelihood", "Likelihood"]


class Likelihood(Protocol):
    """The law p(x | z) of a row, given what the decoder returns for z."""

    def negative_log_likelihood(self, parameters: Tensor, x: Tensor) -> Tensor:
        """Return -log p(x | z) in nats, (B,), for parameters and rows (B, *S)."""

    def mean(self, parameters: Tensor) -> Tensor:
        """Return E[x | z], (B, *S)."""

    def draw(self, parameters: Tensor, generator: torch.Generator) -> Tensor:
        """Draw x from p(x | z), (B, *S)."""


@dataclass(frozen=True)
class BernoulliLikelihood:
    """Independent bits with the decoder's values as logits; gray values in [0, 1] count as probabilities of a bit."""

    def negative_log_likelihood(self, parameters: Tensor, x: Tensor) -> Tensor:
        """Return the cross-entropy summed over a row, (B,)."""
        return F.binary_cross_entropy_with_logits(parameters, x, reduction="none").flatten(1).sum(1)

    def mean(self, parameters: Tensor) -> Tensor:
        """Return the probabilities, (B, *S) in (0, 1)."""
        return parameters.sigmoid()

    def draw(self, parameters: Tensor, generator: torch.Generator) -> Tensor:
        """Draw bits, (B, *S) in {0, 1}."""
        return torch.bernoulli(parameters.sigmoid(), generator=generator)


@dataclass(frozen=True)
class GaussianLikelihood:
    """Independent normal values around the decoder's, with one fixed standard deviation.

    Attributes:
        scale: Standard deviation in the units of x, above 0.
    """

    scale: float

    def negative_log_likelihood(self, parameters: Tensor, x: Tensor) -> Tensor:
        """Return the squared distance over twice the variance plus the normalizing constant, (B,)."""
        constant = math.prod(x.shape[1:]) * (math.log(self.scale) + 0.5 * math.log(2 * math.pi))
        return ((x - parameters) / self.scale).square().flatten(1).sum(1).mul(0.5).add(constant)

    def mean(self, parameters: Tensor) -> Tensor:
        """Return the parameters themselves."""
        return parameters

    def draw(self, parameters: Tensor, generator: torch.Generator) -> Tensor:
        """Draw normal values, (B, *S)."""
        return torch.normal(parameters, self.scale, generator=generator)
