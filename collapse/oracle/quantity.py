"""What is measured of the fits of a chain, and the law it should obey."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from collapse.oracle.regime import Setting
from collapse.recursion import Chain

__all__ = ["Estimate", "Fits", "Law", "Quantity"]

Law = Callable[[int], float]
"""t, the number of fits -> expectation."""


class Fits:
    """The fits of a chain, numbered as in theory: fit t is generation t - 1."""

    def __init__(self, chain: Chain, setting: Setting) -> None:
        self.chain, self.setting = chain, setting
        self.state = lru_cache(maxsize=4)(self._state)

    def _state(self, t: int) -> dict[str, Tensor]:
        return self.chain.state(t - 1)


def that_fit(t: int) -> tuple[int]:
    """Fit t alone."""
    return (t,)


class Estimate(NamedTuple):
    """A mean or median over replicates with its 95 % interval, and whether the values are too heavy-tailed for it: the
    mean of a few chains' large values has an interval that shows how far apart those few are, and not more."""

    value: float
    low: float
    high: float
    heavy_tailed: bool


@dataclass(frozen=True)
class Quantity:
    """A statistic with one value per replicate and fit.

    Attributes:
        name: As tables show it.
        measure: (fits, t) -> (R,) float64.
        law: Its expectation over chains (its median, if ``median``), or None where none is known.
        median: Report the median over replicates: for statistics whose mean a few chains make.
        once: A property of the whole chain, measured at the last fit only.
        needs: t -> the fits whose parameters ``measure`` reads at t, if not t alone.
    """

    name: str
    measure: Callable[[Fits, int], Tensor]
    law: Law | None = None
    median: bool = False
    once: bool = False
    needs: Callable[[int], Collection[int]] = that_fit

    def estimate(self, values: Tensor) -> Estimate:
        """Return the estimate from (R,) values; one replicate has an infinite interval."""
        ordered, count = values.double().sort().values, len(values)
        if self.median:
            reach = 0.98 * count**0.5  # ranks of the sample median: binomial(R, 1/2), normal approximation
            low, high = max(0, int(count / 2 - reach)), min(count - 1, int(count / 2 + reach))
            return Estimate(float(ordered.quantile(0.5)), float(ordered[low]), float(ordered[high]), False)
        mean, variance = float(ordered.mean()), float(ordered.var(correction=0))
        reach = 1.96 * float(ordered.std()) / count**0.5 if count > 1 else torch.inf
        kurtosis = float((ordered - mean).pow(4).mean()) / variance**2 if variance > 0 else 0.0
        # A kurtosis of R is that of one value that differs from all others.
        return Estimate(mean, mean - reach, mean + reach, kurtosis > min(100.0, count / 4))
