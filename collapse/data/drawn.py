"""Data whose rows are drawn from a law, each set of rows once and from a key of its own."""

from __future__ import annotations

import abc
from functools import cached_property

import torch

from collapse.data.module import RecursiveDataModule
from collapse.data.rows import Samples
from collapse.seeding import Stream, generator

__all__ = ["DrawnData"]

GOLD, REFERENCE = 0, 1


class DrawnData(RecursiveDataModule):
    """Gold and reference rows drawn from one law, each once, at the first call, from a key of its own.

    Args:
        rows: Gold rows of each experiment, at least 1.
        reference_rows: Reference rows of each, at least 1.
        seed: Key of the draws.
        batch_size: Rows per process and batch; None for all rows in one batch.
        num_workers: Loader processes.
        replicates: R experiments side by side, at least 1; None for one, whose rows have no replicate axis.

    Raises:
        ValueError: If a number is below its range.
    """

    def __init__(
        self,
        rows: int,
        reference_rows: int,
        seed: int,
        batch_size: int | None,
        num_workers: int,
        replicates: int | None = None,
    ) -> None:
        super().__init__(batch_size, num_workers)
        if min(rows, reference_rows) < 1:
            raise ValueError(f"rows = {rows} and reference_rows = {reference_rows} must both be at least 1")
        if replicates is not None and replicates < 1:
            raise ValueError(f"replicates = {replicates} must be at least 1, or None for rows without a replicate axis")
        self.rows, self.reference_rows, self.seed, self.replicates = rows, reference_rows, seed, replicates

    @abc.abstractmethod
    def draw(self, rows: int, rng: torch.Generator) -> Samples:
        """Draw ``rows`` independent rows of the law with ``rng`` alone."""

    @cached_property
    def _gold(self) -> Samples:
        return self.draw(self.rows, generator(self.seed, Stream.DATA, GOLD))

    @cached_property
    def _reference(self) -> Samples:
        return self.draw(self.reference_rows, generator(self.seed, Stream.DATA, REFERENCE))

    def gold(self) -> Samples:
        """Return the rows drawn for training."""
        return self._gold

    def reference(self) -> Samples:
        """Return the rows drawn for comparison."""
        return self._reference
