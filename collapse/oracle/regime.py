"""Which regime a setting is, in the numbers that a law takes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from collapse.data import RecursiveDataModule
from collapse.mitigations import AnchorReplay, DataAccumulation, Mitigation, RealOnly, Replace, WeightedLikelihood
from collapse.models import GenerativeModule

__all__ = [
    "Accumulate",
    "AccumulateFresh",
    "Coin",
    "Fraction",
    "Regime",
    "ReplaceRegime",
    "Setting",
    "Subsample",
    "Weighted",
    "regime_of",
]


@dataclass(frozen=True, eq=False)
class Setting:
    """A chain that can be run.

    Attributes:
        model: The estimator.
        data: Its data.
        mitigations: Its mitigations.
        generations: Models to fit, T.
        samples: Rows sampled from each, n.
        seed: The chain's seed.
        chunk_size: Rows per call of the sampler.
        initialization: ``"fresh"``, ``"same"`` or ``"warm"``; the laws are of fresh fits.
    """

    model: GenerativeModule
    data: RecursiveDataModule
    mitigations: tuple[Mitigation, ...]
    generations: int
    samples: int
    seed: int = 0
    chunk_size: int = 1024
    initialization: str = "fresh"

    @property
    def gold(self) -> int:
        """Rows of gold."""
        return len(self.data.gold())


@dataclass(frozen=True)
class Regime:
    """The numbers every regime has: ``n`` rows sampled per generation, ``first`` rows in the first fit."""

    n: int
    first: int


@dataclass(frozen=True)
class ReplaceRegime(Regime):
    """Each fit sees the rows sampled from the one before."""


@dataclass(frozen=True)
class Accumulate(Regime):
    """Each fit sees everything so far."""


@dataclass(frozen=True)
class Subsample(Regime):
    """Each fit sees ``size`` rows drawn from everything so far, with or without ``replacement``."""

    size: int
    replacement: bool


@dataclass(frozen=True)
class Fraction(Regime):
    """Each fit sees ``real`` rows, drawn from a set of ``dataset``, beside ``synthetic`` ones of the fit before.

    ``dataset`` is infinite where no real row is used twice, and ``real`` where they are always the same.
    """

    real: int
    synthetic: int
    dataset: float


@dataclass(frozen=True)
class Coin(Regime):
    """Each of n rows is a real one never used before with probability ``fraction``, else one of the fit before."""

    fraction: float


@dataclass(frozen=True)
class AccumulateFresh(Regime):
    """Each generation adds ``real`` rows never used before and ``synthetic`` ones; each fit sees everything so far."""

    real: int
    synthetic: int


@dataclass(frozen=True)
class Weighted(Fraction):
    """As ``Fraction``, the real rows having the share ``weight`` of the likelihood."""

    weight: float


def regime_of(setting: Setting) -> Regime | None:
    """Return the regime that a setting's mitigations make, or None for one without known laws."""
    by_kind = {type(mitigation): mitigation for mitigation in setting.mitigations}
    recognized = RECOGNIZED.get(frozenset(by_kind))
    return None if recognized is None else recognized(setting, by_kind)


Mitigations = dict[type[Mitigation], Mitigation]


def _replace(setting: Setting, by_kind: Mitigations) -> Regime:
    return ReplaceRegime(setting.samples, setting.gold)


def _real_only(setting: Setting, by_kind: Mitigations) -> Regime | None:
    same = setting.samples == setting.gold  # else other draws of gold in every generation
    return Fraction(setting.samples, setting.gold, setting.gold, 0, setting.gold) if same else None


def _accumulate(setting: Setting, by_kind: Mitigations) -> Regime:
    retention = by_kind[DataAccumulation]
    assert isinstance(retention, DataAccumulation)
    if not retention.limited:
        return Accumulate(setting.samples, setting.gold)
    return Subsample(setting.samples, setting.gold, retention.size(setting.samples), retention.replacement)


def _fraction(setting: Setting, by_kind: Mitigations) -> Regime:
    anchors = by_kind[AnchorReplay]
    assert isinstance(anchors, AnchorReplay)
    n, gold, later = setting.samples, setting.gold, setting.generations - 1
    real = round(anchors.fraction * n)
    if anchors.rows == "coin":
        return Coin(n, gold - later * n, anchors.fraction)
    first = gold - later * real if anchors.scheme.deals else gold
    dataset = {"fresh": math.inf, "fixed": float(real), "redrawn": float(gold)}[anchors.rows]
    return Fraction(n, first, real, n - real, dataset)


def _accumulate_fresh(setting: Setting, by_kind: Mitigations) -> Regime | None:
    anchors, pool = _fraction(setting, by_kind), _accumulate(setting, by_kind)
    fresh = isinstance(anchors, Fraction) and anchors.dataset == math.inf and isinstance(pool, Accumulate)
    return AccumulateFresh(setting.samples, anchors.first, anchors.real, anchors.synthetic) if fresh else None  # type: ignore[attr-defined]


def _weighted(setting: Setting, by_kind: Mitigations) -> Regime | None:
    anchors, likelihood = _fraction(setting, by_kind), by_kind[WeightedLikelihood]
    assert isinstance(likelihood, WeightedLikelihood)
    if not isinstance(anchors, Fraction) or anchors.dataset != math.inf or likelihood.share is None:
        return None
    return Weighted(**vars(anchors), weight=likelihood.share)


RECOGNIZED: dict[frozenset[type[Mitigation]], Callable[[Setting, Mitigations], Regime | None]] = {
    frozenset(): _replace,
    frozenset({Replace}): _replace,
    frozenset({RealOnly}): _real_only,
    frozenset({DataAccumulation}): _accumulate,
    frozenset({AnchorReplay}): _fraction,
    frozenset({AnchorReplay, DataAccumulation}): _accumulate_fresh,
    frozenset({AnchorReplay, WeightedLikelihood}): _weighted,
}
"""Mitigations, by their classes -> the regime they make together."""
