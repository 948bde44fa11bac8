"""Anchor replay: an exact share of real rows in every generation."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from collapse.data.generation import Generation
from collapse.data.mixture import NEVER, Mixture
from collapse.mitigations.mitigation import Claim, Mitigation, Stage
from collapse.seeding import Stream, generator

__all__ = ["AnchorReplay"]


def gold_order(mixture: Mixture, generation: Generation) -> Tensor:
    """Return gold's rows in the chain's own random order, the same in every generation."""
    gold = (mixture.is_real & (generation.pool.generation == 0)).nonzero().squeeze(1)
    gold = gold[torch.randperm(len(gold), generator=generator(generation.seed, Stream.ANCHOR))]
    if mixture.guaranteed is None:
        return gold
    # Protected rows are in every generation anyway: the first to be anchors, and the last to be dealt out.
    return gold[mixture.guaranteed[gold].sort(descending=True, stable=True).indices]


def fixed_anchors(mixture: Mixture, generation: Generation, fraction: float) -> Mixture:
    """The same rows in every generation: the first ``fraction * size`` of gold's order."""
    quota = round(fraction * mixture.size)
    weights = torch.zeros(len(mixture.weights))
    weights[gold_order(mixture, generation)[:quota]] = 1
    return mixture.with_real(weights).with_real_fraction(fraction) if quota else mixture


def redrawn_anchors(mixture: Mixture, generation: Generation, fraction: float) -> Mixture:
    """Any rows of gold, drawn anew in every generation."""
    return mixture.with_real(generation.pool.generation == 0).with_real_fraction(fraction)


def deal(mixture: Mixture, generation: Generation, quota: int) -> Tensor:
    """Return when each row arrives if gold is dealt out, (N,): ``quota`` never-used real rows to every generation from
    1 on, what is left of gold to generation 0."""
    gold = gold_order(mixture, generation)
    first = len(gold) - quota * (generation.total - 1)
    if first < 1:
        raise ValueError(
            f"AnchorReplay deals out {quota} never-used real rows to each of {generation.total - 1} generations and "
            f"leaves none for generation 0: gold has {len(gold)} rows; lower fraction, samples_per_generation or "
            "generations, or use rows='redrawn'"
        )
    arrival = mixture.arrival.clone()
    arrival[gold] = 0
    arrival[gold[first:]] = 1 + torch.arange(len(gold) - first) // max(1, quota)
    return arrival


def fresh_anchors(mixture: Mixture, generation: Generation, fraction: float) -> Mixture:
    """Rows never used before: every generation from 1 on gets q = fraction * n of them beside n - q of the n rows
    sampled for it. What is kept of earlier generations is the retention's decision."""
    size = generation.samples_per_generation
    quota = round(fraction * size)
    arrival = deal(mixture, generation, quota)
    born = generation.pool.generation  # not by origin: a row that came with gold and is held makes room for nobody
    made = ((born > 0) & (born < NEVER)).nonzero().squeeze(1)  # in writing order, generation after generation
    begin = torch.searchsorted(born[made], born[made])
    arrival[made[torch.arange(len(made)) - begin >= size - quota]] = NEVER
    return mixture.arriving(arrival)


def coin_anchors(mixture: Mixture, generation: Generation, fraction: float) -> Mixture:
    """By a coin for each row, a real one never used before or a synthetic one.

    Gold deals n rows to every generation, the most that n coins can ask for. The real rows of earlier generations are
    left out, whatever the retention.
    """
    coins = generation.samples_per_generation
    real = mixture.is_real & (deal(mixture, generation, coins) == generation.index)
    if generation.index == 0:
        return mixture.where(real)
    if mixture.size > coins:
        raise ValueError(
            f"rows='coin' throws {coins} coins, one for each row sampled, and the training set has {mixture.size} "
            "rows; let a generation train on no more than samples_per_generation rows, or use rows='fresh'"
        )
    return mixture.with_real(real).with_real_fraction(fraction, coins=True)


class Scheme(NamedTuple):
    """A way to choose the anchors, and when in the composition it acts."""

    stage: Stage
    compose: Callable[[Mixture, Generation, float], Mixture]
    deals: bool = False  # whether it holds gold back, so that generation 0, too, trains on another mixture


SCHEMES = {
    "fixed": Scheme(Stage.BALANCE, fixed_anchors),
    "redrawn": Scheme(Stage.BALANCE, redrawn_anchors),
    "fresh": Scheme(Stage.ARRIVE, fresh_anchors, deals=True),
    "coin": Scheme(Stage.BALANCE, coin_anchors, deals=True),
}


class AnchorReplay(Mitigation):
    """Give every generation a quota of real rows: exactly round(alpha * n) of its n rows, unless by ``rows="coin"``.

    The share is *set*, not bounded from below: beside ``DataAccumulation`` it replaces the share accumulation keeps.

    Args:
        fraction: Real share alpha of the training set, in [0, 1]. Zero changes nothing.
        rows: Which real rows. ``"fixed"``: the same in every generation (fixed-anchor mix). ``"redrawn"``: drawn from
            gold anew in each (redrawn-anchor mix). ``"fresh"``: rows no generation has used before (fresh-anchor mix);
            gold is dealt out, so generation 0 trains on what the later ones leave it. ``"coin"``: each row is real by
            a coin of its own, and then one no generation has used before (i.i.d. mixture): the one scheme whose share
            holds in expectation only.

    References:
        Shumailov et al., Nature 631, 2024 (10 % of the original data kept); Alemohammad et al., "Self-consuming
        generative models go MAD", ICLR 2024, arXiv:2307.01850 (fixed: synthetic augmentation loop; fresh: fresh data
        loop); Bertrand et al., ICLR 2024, arXiv:2310.00429.
    """

    claims = frozenset({Claim.REAL_FRACTION})
    citation = "Alemohammad et al. (2024), arXiv:2307.01850"

    def __init__(self, fraction: float, rows: str = "fixed") -> None:
        if not 0 <= fraction <= 1:
            raise ValueError(f"fraction must lie in [0, 1], got {fraction}")
        if rows not in SCHEMES:
            near = difflib.get_close_matches(str(rows), SCHEMES, n=1) or ["fixed"]
            raise ValueError(f"rows must be one of {', '.join(SCHEMES)}, got {rows!r}; did you mean {near[0]!r}?")
        self.fraction, self.rows = fraction, rows
        self.scheme = SCHEMES[rows]
        self.stage = self.scheme.stage

    def compose_training_set(self, mixture: Mixture, generation: Generation) -> Mixture:
        """Set the real share; generation 0 is all real as it is, unless part of gold is held back."""
        if self.fraction == 0 or (generation.index == 0 and not self.scheme.deals):
            return mixture
        return self.scheme.compose(mixture, generation, self.fraction)
