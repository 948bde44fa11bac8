"""Harvest: sample the next generation's rows, curate them, and commit them to the store."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor

from collapse.data.generation import Generation
from collapse.data.manifest import Manifest
from collapse.data.rows import Origin, Samples, encode, provenance
from collapse.data.store import GenerationStore
from collapse.mitigations.stack import MitigationStack
from collapse.models.generative import GenerativeModule, SampleFn
from collapse.recursion.lightning import together
from collapse.recursion.sampling import draw_chunk, sampling, state_digest
from collapse.seeding import Stream

__all__ = ["check_replicas", "harvest", "write_samples"]


def harvest(
    trainer: pl.Trainer,
    module: Any,
    generation: Generation,
    *,
    store: GenerationStore,
    stack: MitigationStack,
    chunk_size: int,
    parent: str,
    facts: dict[str, Any],
) -> Manifest:
    """Deposit what the trained module samples as the pool of the next generation.

    A pure function of (weights, seed, generation): done again after a crash it writes the same bytes, and finds the
    manifest of the first time if that had been written.

    Args:
        trainer: The running trainer.
        module: The trained module.
        generation: The generation it was trained in.
        store: Where the rows go.
        stack: Its sampler wrappers and curators apply.
        chunk_size: Rows per call of the sampler and per file.
        parent: Digest of the manifest before.
        facts: What else the manifest shall say.

    Returns:
        The manifest, the same on every process.
    """
    check_replicas(trainer, module)
    sampler, target = stack.sampler(module), generation.index + 1
    chunks = write_samples(trainer, module, sampler, store, generation=generation, chunk_size=chunk_size)
    trainer.strategy.barrier("collapse.harvest")
    manifest: Manifest | None = None
    with together(trainer):
        if trainer.is_global_zero:
            if stack.curates:
                candidates = _read_chunks(store, target, chunks)
                kept = stack.curate(candidates, generation)
                chunks = _write_kept(store, kept, target, chunk_size=chunk_size, dtype=generation.pool.dtype)
            model = {"generation": generation.index, "weights": state_digest(module.state_dict())}
            model.update(generation.facts or {})
            sampling_facts = {
                "sampler": dict(getattr(module, "sampler_settings", {})),
                "seed": generation.seed,
                "candidates": generation.samples_per_generation,
            }
            manifest = store.seal(target, chunks, parent=parent, facts={"model": model, **sampling_facts, **facts})
    return cast(Manifest, trainer.strategy.broadcast(manifest))


def write_samples(
    trainer: pl.Trainer,
    module: pl.LightningModule,
    sample: SampleFn,
    store: GenerationStore,
    *,
    generation: Generation,
    chunk_size: int,
) -> int:
    """Sample the next generation's rows into the store; every process makes and writes its share of the chunks.

    Chunk c depends on the weights, the seed, the generation and c: one process and many make the same pool. Every
    process calls the sampler equally often, the surplus thrown away, so that collectives inside it cannot dead-lock.

    Args:
        trainer: The running trainer.
        module: The trained module.
        sample: Its sampler.
        store: Where the chunks go.
        generation: The generation the module was trained in; its rows are for the one after.
        chunk_size: Rows per call of the sampler and per file.

    Returns:
        The number of chunks.
    """
    target, rows, pool = generation.index + 1, generation.samples_per_generation, generation.pool
    chunks, world = -(-rows // chunk_size), trainer.world_size
    fresh = isinstance(module, GenerativeModule) and module.fresh_samples and sample == module.sample
    with together(trainer), sampling(module):
        try:
            for turn in range(-(-chunks // world)):
                index = min(turn * world + trainer.global_rank, chunks - 1)
                count = min(chunk_size, rows - index * chunk_size)
                x = draw_chunk(sample, count, (generation.seed, Stream.SAMPLE, target, index), module.device)
                if turn * world + trainer.global_rank == index:
                    values = encode(_shaped(x, count, pool.row_shape), pool.dtype)
                    if not fresh and x.device.type == "cpu" and np.may_share_memory(values, x.detach().numpy()):
                        values = values.copy()  # x may be the model's own
                    records = provenance(count, origin=Origin.SYNTHETIC, generation=target)
                    store.write_chunk(target, index, values, records)
        finally:
            store.flush()  # whatever happened: nothing is written behind the back of what comes next
    return chunks


def _shaped(x: Tensor, rows: int, row_shape: tuple[int, ...]) -> Tensor:
    if x.shape != (rows, *row_shape):
        raise ValueError(
            f"the model sampled {tuple(x.shape)} where {(rows, *row_shape)} was asked for, {rows} rows of gold's "
            "shape; mend its sample(n, generator)"
        )
    return x


def _read_chunks(store: GenerationStore, generation: int, chunks: int) -> Samples:
    candidates = [store.read_chunk(generation, index) for index in range(chunks)]
    return Samples(Samples(np.concatenate(candidates)).tensors()[0])


def _write_kept(store: GenerationStore, kept: Samples, generation: int, *, chunk_size: int, dtype: np.dtype) -> int:
    """Write what curation kept in place of the candidates."""
    if not len(kept):
        raise ValueError(f"curation kept none of the candidates of generation {generation}; loosen its threshold")
    x, y = kept.tensors()
    chunks = -(-len(kept) // chunk_size)
    try:
        for index in range(chunks):
            part = slice(index * chunk_size, (index + 1) * chunk_size)
            labels = None if y is None else y[part]
            records = provenance(len(x[part]), origin=Origin.SYNTHETIC, generation=generation, y=labels)
            store.write_chunk(generation, index, encode(x[part], dtype).copy(), records)
    finally:
        store.flush()
    return chunks


def check_replicas(trainer: pl.Trainer, module: pl.LightningModule) -> None:
    """Make sure that all processes sample from one model.

    BatchNorm statistics differ between processes until the next forward pass; the first process's are taken.

    Raises:
        RuntimeError: If the weights differ between processes.
    """
    if trainer.world_size == 1:
        return
    for buffer in module.buffers():
        torch.distributed.broadcast(buffer, 0)
    mine = state_digest(module.state_dict())
    if not trainer.strategy.reduce_boolean_decision(mine == trainer.strategy.broadcast(mine), all=True):
        raise RuntimeError("the processes hold different weights; is an optimizer step taken on one of them only?")
