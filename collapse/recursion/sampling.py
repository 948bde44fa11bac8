"""Drawing rows from a trained module, addressed by chunk; and the digest of its weights."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator

import pytorch_lightning as pl
import torch
from torch import Tensor

from collapse.models.generative import SampleFn
from collapse.seeding import generator, key, keyed_rng

__all__ = ["draw_chunk", "sample_rows", "sampling", "state_digest"]


def state_digest(state: dict[str, Tensor]) -> str:
    """Return the SHA-256 of a state dict: names, types, shapes and bytes, in the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(state):
        value = state[name].detach().cpu().contiguous()
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


def sample_rows(
    module: pl.LightningModule, sample: SampleFn, rows: int, address: tuple[int, ...], chunk_size: int
) -> Tensor:
    """Draw ``rows`` rows on this process, chunk by chunk.

    Returns:
        (rows, *S) on the CPU.
    """
    with sampling(module):
        starts = range(0, rows, chunk_size)
        drawn = [
            draw_chunk(sample, min(chunk_size, rows - start), (*address, chunk), module.device).cpu()
            for chunk, start in enumerate(starts)
        ]
    return torch.cat(drawn)
