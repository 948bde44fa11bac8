"""Admission: the one way in for rows that nobody declared real."""

from __future__ import annotations

import torch
from torch import Tensor

from collapse.data.generation import Generation
from collapse.data.mixture import NEVER, Mixture
from collapse.data.origins import origin_named
from collapse.data.rows import Origin
from collapse.mitigations.mitigation import Mitigation, Stage

__all__ = ["Admit"]


def admitted(arrival: Tensor, held: Tensor, generation: int) -> Tensor:
    """Return when each row arrives, (N,), if those of ``held`` (N,) bool do so in ``generation`` at the latest."""
    return torch.where(held, arrival.clamp(max=generation), arrival)


class Admit(Mitigation):
    """Let rows of one origin train that came with the data and are held: those of ``collapse ingest --origin unknown``.

    They arrive in one generation, as if its predecessor had sampled them; whether later ones keep them is decided by
    the retention, as of any row: replacing, they train once. Without this, no generation ever trains on them.

    Args:
        origin: Whose rows, ``"unknown"`` or ``"synthetic"``. Real rows are not held.
        from_generation: Generation they arrive in, at least 0; 0 trains on them beside gold.

    References:
        What a web scrape holds beside real data, and what it does to a generative model: Hataya, Bao, Arai, "Will
        large-scale generative models corrupt future datasets?", ICCV 2023, arXiv:2211.08095.
    """

    stage = Stage.ARRIVE
    citation = "Hataya, Bao, Arai (2023), arXiv:2211.08095"

    def __init__(self, origin: str = "unknown", from_generation: int = 1) -> None:
        self.origin, self.from_generation = origin_named(origin), from_generation
        if self.origin == Origin.REAL:
            raise ValueError("origin='real' needs no admission: real rows are gold; give 'unknown' or 'synthetic'")
        if from_generation < 0:
            raise ValueError(f"from_generation must be at least 0, got {from_generation}")

    def compose_training_set(self, mixture: Mixture, generation: Generation) -> Mixture:
        """Set the arrival of the held rows of the origin.

        Raises:
            ValueError: If the chain ends before they arrive.
        """
        if self.from_generation >= generation.total:
            raise ValueError(
                f"{self!r} admits rows in a generation that never comes: the last one is {generation.total - 1}; lower "
                "from_generation"
            )
        held = (generation.pool.generation == NEVER) & (mixture.origin == self.origin)
        if not bool(held.any()):
            return mixture
        return mixture.arriving(admitted(mixture.arrival, held, self.from_generation))
