"""Batches as a pure function of (seed, generation, epoch, batch), on any number of processes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from collapse.data.pool import DataPool
from collapse.data.rows import Batch
from collapse.seeding import Stream, generator, numpy_generator

__all__ = ["GenerationLoader", "KeyedBatches", "TrainingSet", "TrainingSource"]


@dataclass(frozen=True, eq=False)
class TrainingSet:
    """What one epoch of one generation trains on.

    Attributes:
        pool: The pool of that generation.
        rows: (n,) or (n, R) pool rows, drawn from the generation's mixture; the same for all of its epochs.
        seed: The chain's seed.
        generation: The generation it belongs to.
        epoch: Epoch within the generation.
        steps: Batches per epoch, over as many laps as that takes; None for one lap.
    """

    pool: DataPool
    rows: Tensor
    seed: int = 0
    generation: int = 0
    epoch: int = 0
    steps: int | None = None


class TrainingSource(Protocol):
    """Where a data module asks what to serve next; ``RecursiveTrainer`` is one."""

    def upcoming(self) -> TrainingSet:
        """Return the training set of the next epoch."""


class RowDataset(Dataset):
    """The rows of a training set, read a whole batch at a time."""

    def __init__(self, pool: DataPool, rows: Tensor) -> None:
        self.pool, self.rows = pool, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitems__(self, positions: Tensor) -> Batch:
        return self.pool.gather(self.rows[positions])

    def __getitem__(self, position: int) -> Batch:
        return self.pool.gather(self.rows[position : position + 1])


class KeyedBatches(Sampler[Tensor]):
    """Global batch b is a slice of a keyed permutation; a process takes its share of the slice.

    So the union over the processes does not depend on how many there are, given the global batch size. An epoch visits
    every row once: its batches differ in size by one row at most, so there is no odd small one at the end. A step
    budget takes batches of exactly the global size, lap after lap, each lap a permutation of its own. All rows in one
    batch come in their own order: that of the pool, in which a file is read in one piece.

    It has no ``set_epoch``: Lightning would write its run-wide epoch there, and after the first batch was prefetched.

    Args:
        rows: Rows to visit.
        batch_size: Rows per process and batch; None for all rows in one batch.
        seed: The chain's seed.
        generation: Generation, which with the epoch keys the order.
        rank: This process.
        world: Number of processes.
        steps: Batches per epoch; None for one lap.

    Raises:
        ValueError: If there are fewer rows than processes.
    """

    def __init__(
        self,
        rows: int,
        batch_size: int | None,
        *,
        seed: int = 0,
        generation: int = 0,
        rank: int = 0,
        world: int = 1,
        steps: int | None = None,
    ) -> None:
        if rows < world:
            raise ValueError(
                f"the training set has {rows} rows for {world} processes; use fewer processes or more rows"
            )
        self.rows, self.seed, self.generation, self.rank, self.world = rows, seed, generation, rank, world
        self.whole = batch_size is None
        self.size = rows if batch_size is None else batch_size * world
        self.laps = steps is not None
        self.steps = steps or min(-(-rows // self.size), rows // world)
        self.epoch = self.skip = 0

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[Tensor]:
        first, self.skip = self.skip, 0
        lap, order = -1, np.empty(0, np.int64)
        for batch in range(first, self.steps):
            start, stop = self._bounds(batch)
            (place, stop), parts = self._share(start, stop), []
            while place < stop:  # once, but for a batch that runs over the end of a lap
                if place // self.rows != lap:
                    lap = place // self.rows
                    order = self._order(lap)
                end = min(stop, (lap + 1) * self.rows)
                parts.append(order[place - lap * self.rows : end - lap * self.rows])
                place = end
            yield torch.from_numpy(parts[0] if len(parts) == 1 else np.concatenate(parts))

    def _bounds(self, batch: int) -> tuple[int, int]:
        if self.laps:
            return batch * self.size, (batch + 1) * self.size
        return batch * self.rows // self.steps, (batch + 1) * self.rows // self.steps

    def _share(self, start: int, stop: int) -> tuple[int, int]:
        size = stop - start
        return start + size * self.rank // self.world, start + size * (self.rank + 1) // self.world

    def factor(self, batch: int) -> float:
        """Return W B_r / B for this process's B_r of a batch's B rows: 1 where the W processes have equally many.

        Gradients are averaged over the processes, so a mean over B_r rows times this becomes the mean over all B.
        """
        start, stop = self._bounds(batch)
        mine, end = self._share(start, stop)
        return (end - mine) * self.world / (stop - start)

    def _order(self, lap: int) -> np.ndarray:
        if self.whole:
            return np.arange(self.rows)
        return numpy_generator(self.seed, Stream.ORDER, self.generation, self.epoch, lap).permutation(self.rows)


def _as_is(batch: Batch) -> Batch:
    return batch


class GenerationLoader(DataLoader):
    """A DataLoader that knows how far it got: Lightning saves that in a checkpoint written within an epoch.

    Args:
        training_set: What to serve.
        batch_size: Rows per process and batch; None for all.
        rank: This process.
        world: Number of processes.
        num_workers: Worker processes; they only read.
    """

    def __init__(
        self, training_set: TrainingSet, batch_size: int | None, *, rank: int = 0, world: int = 1, num_workers: int = 0
    ) -> None:
        self.batches = KeyedBatches(
            len(training_set.rows),
            batch_size,
            seed=training_set.seed,
            rank=rank,
            world=world,
            generation=training_set.generation,
            steps=training_set.steps,
        )
        self._consumed = 0
        super().__init__(
            RowDataset(training_set.pool, training_set.rows),
            batch_sampler=self.batches,  # type: ignore[arg-type]
            collate_fn=_as_is,  # type: ignore[arg-type]
            num_workers=num_workers,
            persistent_workers=num_workers > 0,
            pin_memory=torch.cuda.is_available(),
            # Without a generator of its own, every iter() would draw a worker seed from the global one.
            generator=generator(training_set.seed, Stream.LOADER, training_set.generation),
        )

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        # A generator: Lightning asks for an iterator twice per epoch and drops one, which must cost nothing.
        self._consumed = self.batches.skip
        try:
            for batch in super().__iter__():
                self._consumed += 1  # batches handed over, not batches prefetched
                yield batch
        except (ConnectionError, EOFError) as error:  # or torch's own RuntimeError, if it notices first
            raise RuntimeError(
                f"a DataLoader worker (one of {self.num_workers}) died, perhaps for want of memory; lower num_workers, "
                "and continue the chain where it stopped"
            ) from error

    def state_dict(self) -> dict[str, Any]:
        """Return how many batches of which epoch were handed over."""
        return {"consumed": self._consumed, "generation": self.batches.generation, "epoch": self.batches.epoch}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Start the next iteration after the batches handed over before, if they were of this very epoch."""
        here = (self.batches.generation, self.batches.epoch)
        if (state["generation"], state["epoch"]) == here and state["consumed"] < len(self.batches):
            self.batches.skip = state["consumed"]
