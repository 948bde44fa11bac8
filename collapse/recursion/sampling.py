"""Drawing rows from a trained module, addressed by chunk; and the digest of its weights."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator

import pytorch_lightning as pl
import torch
from torch import Tensor

from collapse.models.generative import SampleFn
from collapse.models.sharding import full_tensor
from collapse.seeding import generator, key, keyed_rng

__all__ = ["draw_chunk", "sample_rows", "sampling", "state_digest", "turns"]


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


@contextlib.contextmanager
def sampling(module: pl.LightningModule) -> Iterator[None]:
    """Put a module in evaluation mode without gradients, and back."""
    was_training = module.training
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        module.train(was_training)


def draw_chunk(sample: SampleFn, rows: int, address: tuple[int, ...], device: torch.device) -> Tensor:
    """Draw ``rows`` rows that depend on the weights and ``address`` alone, even if a sampler uses global randomness."""
    with keyed_rng(key(*address)):
        return sample(rows, generator(*address, device=device))


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
    module: pl.LightningModule, sample: SampleFn, rows: int, address: tuple[int, ...], chunk_size: int
) -> Tensor:
    """Draw ``rows`` rows on this process, chunk by chunk.

    Returns:
        (rows, *S) on the CPU.
    """
    with sampling(module):
        drawn = [
            draw_chunk(sample, count, (*address, chunk), module.device).cpu()
            for [(chunk, count)] in turns(rows, chunk_size, processes=1)
        ]
    return torch.cat(drawn)
