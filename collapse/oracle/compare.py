"""Run a chain and put what theory predicts beside what it did."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from collapse.oracle.quantity import Fits, Quantity
from collapse.oracle.regime import Setting
from collapse.oracle.registry import quantities
from collapse.recursion import run_chain

__all__ = ["Comparison", "Confrontation", "compare", "fits_to_show"]

SIGMAS = 4.5
"""Distance of a mean from its law that chance alone exceeds about seven times in a million."""


@dataclass(frozen=True)
class Comparison:
    """One quantity at one fit: plain numbers, which go from process to process.

    Attributes:
        name: The quantity.
        t: Number of fits.
        predicted: What the law says, or NaN.
        measured: Mean, or median, over replicates.
        low, high: Its 95 % interval.
        replicates: R.
        heavy_tailed: Whether the interval is not to be trusted.
    """

    name: str
    t: int
    predicted: float
    measured: float
    low: float
    high: float
    replicates: int
    heavy_tailed: bool = False

    @property
    def z(self) -> float:
        """Distance from the law in standard errors; NaN without a law, or where the replicates do not differ: what
        happens in one chain of a million is in the law, and not in the mean of a thousand."""
        width = (self.high - self.low) / (2 * 1.96)
        if math.isclose(self.measured, self.predicted, rel_tol=1e-9, abs_tol=1e-12):
            return 0.0
        return (self.measured - self.predicted) / width if 0 < width < math.inf else math.nan

    @property
    def misses(self) -> bool:
        """Whether the chain contradicts the law."""
        return abs(self.z) > SIGMAS and not self.heavy_tailed


@dataclass(frozen=True)
class Confrontation:
    """A chain beside its laws.

    Attributes:
        rows: One comparison per quantity and fit, quantity by quantity.
        curves: (t, expectation) of each quantity with a law, at many fits.
    """

    rows: list[Comparison]
    curves: dict[str, list[tuple[int, float]]]


def compare(setting: Setting, at: Sequence[int] | None = None, *, curves: bool = False) -> Confrontation:
    """Run a chain in memory and compare its fits with the laws of its regime.

    Args:
        setting: The chain.
        at: Fits to compare; ``fits_to_show`` of all when None.
        curves: Evaluate the laws at many fits as well.
    """
    found = quantities(setting)
    last = setting.generations
    times = fits_to_show(last) if at is None else list(at)
    wanted = [(quantity, t) for quantity in found for t in times if t == last or not quantity.once]
    chain = run_chain(
        setting.model,
        setting.data,
        generations=setting.generations,
        samples_per_generation=setting.samples,
        mitigations=setting.mitigations,
        seed=setting.seed,
        chunk_size=setting.chunk_size,
        initialization=setting.initialization,
        evaluate=False,
        keep_weights={fit - 1 for quantity, t in wanted for fit in quantity.needs(t)},
    )
    fits = Fits(chain, setting)
    rows = [_comparison(quantity, fits, t) for quantity, t in wanted]
    grid = sorted({*range(1, min(last, 50) + 1), *(round(last ** (i / 100)) for i in range(101))})
    laws = {quantity.name: quantity.law for quantity in found if quantity.law is not None and not quantity.once}
    return Confrontation(rows, {name: [(t, law(t)) for t in grid] for name, law in laws.items()} if curves else {})


def _comparison(quantity: Quantity, fits: Fits, t: int) -> Comparison:
    values = quantity.measure(fits, t)
    predicted = math.nan if quantity.law is None else quantity.law(t)
    value, low, high, heavy = quantity.estimate(values)
    return Comparison(quantity.name, t, predicted, value, low, high, len(values), heavy)


def fits_to_show(generations: int) -> list[int]:
    """Return 1, 2, 5, 10, 20, 50, ... and the last fit."""
    steps = [digit * 10**power for power in range(9) for digit in (1, 2, 5)]
    return sorted({t for t in steps if t < generations} | {generations})
