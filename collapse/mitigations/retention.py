"""Which generations' rows are kept: the regimes of the literature."""

from __future__ import annotations

from collapse.data.generation import Generation
from collapse.data.mixture import Mixture
from collapse.mitigations.mitigation import Claim, Mitigation, Stage

__all__ = ["DataAccumulation", "RealOnly", "Replace", "SlidingWindow"]


class Replace(Mitigation):
    """Train generation t on the rows sampled from model t-1 alone: the default, and the regime that collapses.

    References:
        Shumailov et al., "AI models collapse when trained on recursively generated data", Nature 631, 2024.
    """

    stage, control = Stage.RETAIN, True
    claims = frozenset({Claim.RETENTION})
    citation = "Shumailov et al. (2024), Nature 631:755"

    def compose_training_set(self, mixture: Mixture, generation: Generation) -> Mixture:
        """Keep the rows that arrived with this generation."""
        return mixture.over(mixture.arrival == generation.index)


class DataAccumulation(Mitigation):
    """Train generation t on gold and everything sampled since: gold ∪ S_1 ∪ ... ∪ S_t.

    Args:
        subsample: Draw this many rows from all of those instead of taking them all (accumulate-subsample); all while
            there are fewer. At least 1.
        replacement: Draw the subsample independently, with replacement.
        fixed_size: Let the subsample have as many rows as are sampled in a generation.

    References:
        Gerstgrasser et al., "Is model collapse inevitable?", COLM 2024, arXiv:2404.01413; the subsample: Kazdan et
        al., "Collapse or thrive?", 2024, arXiv:2410.16713.
    """

    stage = Stage.RETAIN
    citation = "Gerstgrasser et al. (2024), arXiv:2404.01413"

    def __init__(self, subsample: int | None = None, replacement: bool = False, fixed_size: bool = False) -> None:
        if subsample is not None and subsample < 1:
            raise ValueError(f"subsample must be at least 1 row or None for all, got {subsample}")
        if fixed_size and subsample is not None:
            raise ValueError(f"subsample={subsample} and fixed_size=True are two sizes; give one of them")
        self.limited = fixed_size or subsample is not None
        if replacement and not self.limited:
            raise ValueError("replacement=True needs a subsample to draw; give subsample=n or fixed_size=True")
        self.subsample, self.replacement, self.fixed_size = subsample, replacement, fixed_size
        self.claims = frozenset({Claim.RETENTION} | ({Claim.BUDGET} if self.limited else set()))

    def compose_training_set(self, mixture: Mixture, generation: Generation) -> Mixture:
        """Keep every row that has arrived so far."""
        everything = mixture.over(mixture.arrival <= generation.index)
        if not self.limited:
            return everything
        wanted = self.size(generation.samples_per_generation)
        size = wanted if self.replacement else min(wanted, everything.size)
        return everything.resized(size, replacement=self.replacement)

    def size(self, samples_per_generation: int) -> int:
        """Return the rows of a subsample."""
        return samples_per_generation if self.subsample is None else self.subsample


class SlidingWindow(Mitigation):
    """Train generation t on the rows of the last k generations; gold counts as generation 0's.

    Args:
        k: Length of the window, at least 1. One is ``Replace``.
    """

    stage = Stage.RETAIN
    claims = frozenset({Claim.RETENTION})
    citation = "Alemohammad et al. (2024), arXiv:2307.01850"

    def __init__(self, k: int) -> None:
        if k < 1:
            raise ValueError(f"k must be at least 1 generation, got {k}")
        self.k = k

    def compose_training_set(self, mixture: Mixture, generation: Generation) -> Mixture:
        """Keep the rows that arrived in generations t-k+1 to t."""
        age = generation.index - mixture.arrival
        return mixture.over((age >= 0) & (age < self.k))


class RealOnly(Mitigation):
    """Train every generation on real rows only, as many as the other arms train on: the control.

    From generation 1 on, ``samples_per_generation`` gold rows: all of them when that is their number, a new draw of
    them when it is smaller, laps over them when it is larger.
    """

    stage, control = Stage.RETAIN, True
    claims = frozenset({Claim.RETENTION, Claim.REAL_FRACTION})
    citation = "control"

    def compose_training_set(self, mixture: Mixture, generation: Generation) -> Mixture:
        """Keep the real rows."""
        real = mixture.over(mixture.is_real & (mixture.arrival <= generation.index))
        return real.resized(generation.samples_per_generation) if generation.index else real
