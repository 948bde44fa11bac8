"""Observers: told of a trained generation one after the other, sampling from it with all processes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from collapse.data.generation import Generation, GenerationCallback
from collapse.distributed import gather_processes
from collapse.models.generative import SampleFn, sampling
from collapse.recursion.lightning import OtherProcessFailed, callbacks_of, together
from collapse.recursion.sampling import ConditionedSampler, sample_rows, turns
from collapse.seeding import Stream

__all__ = ["SharedSampler", "observe"]

DONE, FAILED, ASKS = range(3)


def observe(trainer: pl.Trainer, module: Any, generation: Generation, sampler: SharedSampler) -> None:
    """Tell every observer of a trained generation, in list order; all processes attend what any of them samples."""
    for callback in callbacks_of(trainer):
        if isinstance(callback, GenerationCallback):
            with sampler.attended():
                callback.on_generation_end(trainer, module, generation)


class SharedSampler:
    """``generation.sample``: rows of the trained model, drawn by all processes whoever asks for them.

    Chunk c is drawn by process c mod W, and every process calls the sampler equally often, as in a harvest: the rows
    are those that one process would draw, in a W-th of the time. An observer may ask on every process, or on one: a
    process whose observer has returned attends the others and draws its share of what they ask for. A conditional
    model samples under the law its harvest uses.

    Args:
        trainer: The running trainer.
        module: The trained module.
        sample: Its sampler.
        address: Seed and generation.
        chunk_size: Rows per call of the sampler.
    """

    def __init__(
        self,
        trainer: pl.Trainer,
        module: pl.LightningModule,
        sample: SampleFn,
        *,
        address: tuple[int, int],
        chunk_size: int,
    ) -> None:
        self.trainer, self.module = trainer, module
        self.sampler = ConditionedSampler.of(sample, module, trainer.datamodule)  # type: ignore[attr-defined]
        self.seed, self.generation = address
        self.chunk_size = chunk_size
        self._attended = False
        self._failure: Exception | None = None

    def __call__(self, rows: int, stream: Stream) -> Tensor:
        """Draw ``rows`` rows that depend on the weights, the seed, the generation and ``stream`` alone.

        Returns:
            (rows, *S) on the CPU, on every process that asked.

        Raises:
            RuntimeError: If processes ask for different rows at once, if another one failed, or after the generation.
        """
        if rows < 1:
            raise ValueError(f"rows={rows} must be at least 1")
        if not self._attended or self._failure is not None:
            raise self._failure or RuntimeError(
                "generation.sample draws from the model as it was trained; call it inside on_generation_end"
            )
        if self.trainer.world_size == 1:
            address = (self.seed, stream, self.generation)
            return sample_rows(self.module, self.sampler, rows, address, self.chunk_size)
        try:
            self._meet(ASKS, rows, stream)
            return torch.cat(list(self._draw(rows, stream)))
        except Exception as failure:
            self._failure = failure
            raise

    @contextlib.contextmanager
    def attended(self) -> Iterator[None]:
        """Let an observer sample inside the block; a process that is through with it draws for the others."""
        self._attended, error = True, None
        try:
            yield
        except Exception as caught:
            error = caught
        try:
            while self._failure is None and (request := self._meet(DONE if error is None else FAILED)) is not None:
                for _ in self._draw(*request):
                    pass
        except Exception as failure:
            self._failure = failure
        self._attended = False
        error = error or self._failure
        if error is not None:
            raise error

    def _meet(self, kind: int, rows: int = 0, stream: int = 0) -> tuple[int, int] | None:
        """Wait for all processes, and return what those that are not through ask for: rows and stream."""
        if self.trainer.world_size == 1:
            return None
        mine = torch.tensor([kind, rows, stream], device=self.module.device)
        everybody = gather_processes(mine).tolist()
        if any(what == FAILED for what, *_ in everybody):
            raise OtherProcessFailed
        requests = {(rows, stream) for what, rows, stream in everybody if what == ASKS}
        if len(requests) > 1:
            raise RuntimeError(
                f"the processes ask for different samples at once, {' and '.join(map(str, sorted(requests)))} (rows, "
                "stream); ask alike on every process, or on the first one alone"
            )
        return requests.pop() if requests else None

    def _draw(self, rows: int, stream: int) -> Iterator[Tensor]:
        """Draw together and pass round what was drawn, one chunk per process at a time; memory stays flat."""
        size, rank, world = min(rows, self.chunk_size), self.trainer.global_rank, self.trainer.world_size
        for turn in turns(rows, size, world):
            chunk, count = turn[rank]
            with together(self.trainer), sampling(self.module):
                address = (self.seed, stream, self.generation, chunk)
                x, _ = self.sampler.draw(count, address, self.module.device)
            padded = x.new_zeros(size, *x.shape[1:])
            padded[: len(x)] = x
            drawn = dict(zip(turn, gather_processes(padded), strict=True))
            yield from (part[:count].cpu() for (_, count), part in drawn.items())
