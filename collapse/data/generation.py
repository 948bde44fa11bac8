"""One generation, as hooks and observers see it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from collapse.data.pool import DataPool
from collapse.seeding import Stream, generator

__all__ = ["Generation", "GenerationCallback"]


@dataclass(frozen=True, eq=False)
class Generation:
    """What is known about a generation when its training set is composed, and after it was trained.

    Attributes:
        index: Generation, from 0; generation 0 trains on gold alone.
        total: Generations of the chain.
        seed: The chain's seed.
        samples_per_generation: Rows harvested from each model.
        pool: Every row that exists when this generation trains.
        rows: (n,) or (n, R) the pool rows of its training set; empty while it is being composed.
        facts: What was measured about the training set: counts, realized real fraction, effective size, digest.
        sample: ``sample(n, stream)`` draws n rows of the trained model through the chain's sampler, on all processes
            whichever ask; inside ``on_generation_end`` only.
        deposit: The pool rows it left for the next generation; after training only.
        measured: What has been recorded of it so far, by name.
        recorder: Where ``record`` writes.
        writer: Where ``save`` writes; on the first process only.
    """

    index: int
    total: int
    seed: int
    samples_per_generation: int
    pool: DataPool
    rows: Tensor | None = None
    facts: dict[str, Any] | None = None
    sample: Callable[[int, Stream], Tensor] | None = None
    deposit: DataPool | None = None
    measured: dict[str, float] = field(default_factory=dict)
    recorder: Callable[..., None] | None = None
    writer: Callable[[str, bytes], Path] | None = None

    def record(
        self, name: str, value: float, *, n: int | None = None, extractor: str | None = None, floor: float | None = None
    ) -> None:
        """Put a measurement of this generation on the run's record.

        Args:
            name: Metric.
            value: Its value.
            n: Rows it was computed from.
            extractor: Id of the feature extractor.
            floor: The same metric between two sets of real rows.
        """
        self.measured[name] = value
        if self.recorder is not None:
            self.recorder(self.index, name, value, n=n, extractor=extractor, floor=floor)

    def save(self, name: str, content: bytes) -> Path | None:
        """Write a file of the run folder, such as a figure, completely or not at all, and on record.

        Args:
            name: Path relative to the run folder.
            content: All of its bytes.

        Returns:
            Where it stands now; None on any process but the first, which alone writes.
        """
        return None if self.writer is None else self.writer(name, content)

    @property
    def training_facts(self) -> dict[str, Any]:
        """The facts; where replicates have rows of their own, with the real fraction of each, (R,)."""
        facts = dict(self.facts or {})
        if self.rows is not None and self.rows.ndim == 2:
            facts["real_fraction"] = self.pool.is_real[self.rows].double().mean(0)
        return facts

    def generator(self, stream: Stream, *rest: int) -> torch.Generator:
        """Return a CPU generator of this generation's own in ``stream``."""
        return generator(self.seed, stream, self.index, *rest)


class GenerationCallback(pl.Callback):
    """A Lightning callback that is also told of generations. Observers and mitigations derive from it."""

    def on_generation_start(self, trainer: pl.Trainer, module: Any, generation: Generation) -> None:
        """Called when a generation's weights and optimizers are ready, before its first batch."""

    def on_generation_end(self, trainer: pl.Trainer, module: Any, generation: Generation) -> None:
        """Called on every process when a generation is trained and its samples are in the store."""
