"""SIGReg: keep a latent's distribution at N(0, I), so that decoding N(0, I) is decoding what was learned."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from collapse.data.rows import Batch
from collapse.metrics.normality import random_directions, sliced_epps_pulley
from collapse.mitigations.mitigation import Mitigation
from collapse.models.generative import GenerativeModule
from collapse.seeding import Clock, Stream

__all__ = ["SIGReg"]


class SIGReg(Mitigation):
    r"""Add :math:`\lambda \cdot \frac1S \sum_s T(Z a_s)`, the sliced Epps-Pulley distance of a latent from N(0, I).

    On a VAE the latent is the *sampled* z = mu + sigma * eps, whose law over the data is the aggregate posterior: the
    term pulls that to the prior that the next generation is decoded from, which is the part of the evidence bound that
    recursion depends on. It does not prevent posterior collapse (q(z|x) = N(0, I) for every x satisfies it).

    The statistic carries a factor N, so the strength is lambda times the (global) batch size; under gradient
    accumulation N is the micro-batch. Over several processes the statistic is that of the global batch, in value and in
    gradient. Directions are drawn anew at every step from a key of their own and touch no other stream.

    Args:
        weight: Strength lambda, at least 0. Zero changes nothing.
        slices: Random directions per step, at least 1; 64 to 128 do for 16 to 64 dimensions.
        target: Output of the module to regularize, (B, D).
        unbiased: Use the U-statistic, whose minimum is at unit variance; the plain form shrinks by 1/N.
        t_max: Largest frequency.
        knots: Number of frequencies.

    References:
        Balestriero, LeCun, "LeJEPA: provable and scalable self-supervised learning without the heuristics", 2025,
        arXiv:2511.08544, algorithms 1 and 2.
    """

    citation = "Balestriero, LeCun (2025), arXiv:2511.08544"

    def __init__(
        self,
        weight: float,
        slices: int = 64,
        target: str = "latent",
        unbiased: bool = True,
        t_max: float = 3.0,
        knots: int = 17,
    ) -> None:
        for name, value, least in (("weight", weight, 0), ("slices", slices, 1), ("knots", knots, 2)):
            if not least <= value < math.inf:  # NaN is not
                raise ValueError(f"{name} must be at least {least}, got {value}")
        if not 0 < t_max < math.inf:
            raise ValueError(f"t_max must be above 0 and finite, got {t_max}")
        self.weight, self.slices, self.target, self.unbiased = weight, slices, target, unbiased
        self.t_max, self.knots = t_max, knots
        self.needs = frozenset({target})

    def regularize(self, outputs: Mapping[str, Tensor], batch: Batch, module: GenerativeModule) -> Tensor:
        """Return the weighted statistic of the target, ()."""
        latent = outputs[self.target].flatten(1)
        if self.weight == 0:
            return latent.new_zeros(())
        key = (module.clock or Clock()).key(Stream.REGULARIZE)  # without the rank: every process the same directions
        directions = random_directions(latent.shape[1], self.slices, torch.Generator().manual_seed(key))
        statistic = sliced_epps_pulley(
            latent, directions, t_max=self.t_max, knots=self.knots, unbiased=self.unbiased, across_processes=True
        )
        return self.weight * statistic
