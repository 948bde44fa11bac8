"""Drawing rows from a trained module, addressed by chunk; and the digest of its weights."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import pytorch_lightning as pl
import torch
from torch import Tensor

from collapse.data.module import RecursiveDataModule
from collapse.models.conditions import Conditions
from collapse.models.generative import GenerativeModule, SampleFn, sampling
from collapse.models.sharding import full_tensor
from collapse.seeding import Stream, generator, key, keyed_rng

__all__ = ["ConditionedSampler", "draw_chunk", "sample_rows", "state_digest", "turns"]


def state_digest(state: dict[str, Tensor]) -> str:
    """Return the SHA-256 of a state dict: names, types, shapes and bytes, in the order of the names.

    Sharded tensors are gathered one by one, for which every process must call.
    """
    digest = hashlib.sha256()
    for name in sorted(state):
        value = full_tensor(state[name].detach()).cpu().contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


@dataclass(frozen=True)
class ConditionedSampler:
    """A sampler and the law of what it is conditioned on: everything that a chain samples is drawn by one.

    Attributes:
        sample: The module's sampler with every wrapper around it.
        conditions: The law of its ``y``; None for a sampler that is called without.
    """

    sample: SampleFn
    conditions: Conditions | None = None

    @classmethod
    def of(cls, sample: SampleFn, module: pl.LightningModule, data: RecursiveDataModule) -> ConditionedSampler:
        """Join a module's sampler with the law that the module takes its conditions from."""
        return cls(sample, module.conditions(data) if isinstance(module, GenerativeModule) else None)

    def draw(self, rows: int, address: tuple[int, ...], device: torch.device) -> tuple[Tensor, Tensor | None]:
        """Draw ``rows`` rows that depend on the weights, the law and ``address`` alone.

        Args:
            rows: Their number.
            address: Seed, stream and counters of the rows. That of the conditions is the same one with
                ``Stream.CONDITION`` behind the seed, so that they can be drawn again without the model.
            device: The module's.

        Returns:
            x (rows, *S), and what it is conditioned on: y (rows,) labels or (rows, p) prompts, or None.
        """
        y = None
        if self.conditions is not None:
            seed, *rest = address
            y = self.conditions.draw(rows, generator(seed, Stream.CONDITION, *rest, device=device))
        return draw_chunk(self.sample, rows, address, device, y), y


def draw_chunk(
    sample: SampleFn, rows: int, address: tuple[int, ...], device: torch.device, y: Tensor | None = None
) -> Tensor:
    """Draw ``rows`` rows that depend on the weights, ``address`` and ``y`` alone, even if a sampler uses global
    randomness; without ``y`` it may be any function of a number and a generator."""
    with keyed_rng(key(*address)):
        drawn = generator(*address, device=device)
        return sample(rows, drawn) if y is None else sample(rows, drawn, y)


def turns(rows: int, chunk_size: int, processes: int) -> Iterator[list[tuple[int, int]]]:
    """Share out ``rows`` rows: chunk c is process c mod W's.

    Yields:
        What each process draws in one turn, (chunk, rows); every process has as many turns as every other, so that
        collectives inside a sampler cannot dead-lock. One that has no chunk left draws the last one over again.
    """
    chunks = -(-rows // chunk_size)
    for first in range(0, chunks, processes):
        drawn = (min(first + process, chunks - 1) for process in range(processes))
        yield [(chunk, min(chunk_size, rows - chunk * chunk_size)) for chunk in drawn]


def sample_rows(
    module: pl.LightningModule, sampler: ConditionedSampler, rows: int, address: tuple[int, ...], chunk_size: int
) -> Tensor:
    """Draw ``rows`` rows on this process, chunk by chunk.

    Returns:
        (rows, *S) on the CPU.
    """
    with sampling(module):
        drawn = [
            sampler.draw(count, (*address, chunk), module.device)[0].cpu()
            for [(chunk, count)] in turns(rows, chunk_size, processes=1)
        ]
    return torch.cat(drawn)
