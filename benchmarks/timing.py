"""Alternate two measurements, so that a noisy machine disturbs both alike."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Comparison", "alternate"]


@dataclass(frozen=True)
class Comparison:
    """Two medians in seconds and the median of the ratios of neighboring runs."""

    ours: float
    other: float
    ratio: float

    @property
    def difference(self) -> float:
        """Median of ours minus median of the other, in seconds."""
        return self.ours - self.other


def alternate(ours: Callable[[], float], other: Callable[[], float], repeats: int) -> Comparison:
    """Run both in turn, each returning its own seconds, after one unmeasured round."""
    ours(), other()
    pairs = [(ours(), other()) for _ in range(repeats)]
    return Comparison(
        statistics.median(a for a, _ in pairs),
        statistics.median(b for _, b in pairs),
        statistics.median(a / b for a, b in pairs),
    )
