"""Harvest: sample the next generation's rows, curate them, and commit them to the store."""

from __future__ import annotations

import json
from typing import Any, cast

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor

from collapse.data.generation import Generation
from collapse.data.manifest import Manifest
from collapse.data.rows import Origin, encode, provenance
from collapse.data.store import GenerationStore, StoreError
from collapse.mitigations.stack import MitigationStack
from collapse.models.generative import GenerativeModule, sampling
from collapse.models.sharding import full_state
from collapse.recursion.curation import curate_chunks
from collapse.recursion.lightning import together
from collapse.recursion.sampling import ConditionedSampler, state_digest, turns
from collapse.seeding import Stream

__all__ = ["check_replicas", "harvest", "keep", "write_samples"]


def keep(trainer: pl.Trainer, module: Any, generation: Generation, *, store: GenerationStore, weights: bool) -> None:
    """Write which rows a generation was trained on and, if they are wanted, the weights it ended with.

    Every process calls: sharded weights are gathered.

    Args:
        trainer: The running trainer.
        module: The trained module.
        generation: The generation it was trained in.
        store: Where they go.
        weights: Whether to keep the weights.
    """
    with together(trainer):
        if trainer.is_global_zero and generation.rows is not None:
            store.write_training_set(generation.index, generation.rows)
        if weights and (state := full_state(module, keep=trainer.is_global_zero)) is not None:
            store.write_state(generation.index, state)


def harvest(
    trainer: pl.Trainer,
    module: Any,
    generation: Generation,
    *,
    store: GenerationStore,
    stack: MitigationStack,
    chunk_size: int,
    parent: str,
    config: str,
    facts: dict[str, Any],
) -> Manifest:
    """Deposit what the trained module samples as the pool of the next generation.

    A pure function of (weights, seed, generation): done again after a crash it writes the same bytes; if the manifest
    had been written, nothing is sampled again, as files that are committed are never touched.

    Args:
        trainer: The running trainer.
        module: The trained module.
        generation: The generation it was trained in.
        store: Where the rows go.
        stack: Its sampler wrappers and curators apply.
        chunk_size: Rows per call of the sampler and per file.
        parent: Digest of the manifest before.
        config: Digest of what decides the run's bytes.
        facts: What else the manifest shall say.

    Returns:
        The manifest, the same on every process.
    """
    weights = check_replicas(trainer, module)
    sampler = ConditionedSampler.of(stack.sampler(module), module, trainer.datamodule)  # type: ignore[attr-defined]
    target = generation.index + 1
    model = {"generation": generation.index, "weights": weights, **(generation.facts or {})}
    found: Manifest | None = None
    with together(trainer):
        if trainer.is_global_zero and store.committed(target):
            found = _committed(store, target, parent=parent, config=config, model=model)
    found = trainer.strategy.broadcast(found)
    if found is not None:
        stack.curated()
        return found
    chunks = write_samples(trainer, module, sampler, store, generation=generation, chunk_size=chunk_size)
    trainer.strategy.barrier("collapse.harvest")
    manifest: Manifest | None = None
    with together(trainer):
        if trainer.is_global_zero:
            curated = None
            if stack.curates:
                curated = curate_chunks(store, stack, generation, chunks=chunks, chunk_size=chunk_size)
            sampling_facts = {
                "sampler": dict(getattr(module, "sampler_settings", {})),
                "seed": generation.seed,
                "chunk_size": chunk_size,
                "candidates": generation.samples_per_generation,
            }
            facts = {"model": model, **sampling_facts, **facts}
            manifest = store.seal(
                target, curated or chunks, parent=parent, facts=facts, config=config, curated=curated is not None
            )
    return cast(Manifest, trainer.strategy.broadcast(manifest))


def _committed(store: GenerationStore, target: int, *, parent: str, config: str, model: dict[str, Any]) -> Manifest:
    """Return the manifest that a harvest before a crash has written.

    Raises:
        StoreError: If that was of another model.
    """
    found = store.manifest(target)
    if (found.parent, found.config, found.facts["model"]) != (parent, config, json.loads(json.dumps(model))):
        raise StoreError(
            f"{store.folder(target)} holds the samples of another model than this run has trained again; resume on the "
            "same hardware and software (on a GPU with Trainer(deterministic=True)), or use a new run folder"
        )
    store.verify(found)
    return found


def write_samples(
    trainer: pl.Trainer,
    module: pl.LightningModule,
    sampler: ConditionedSampler,
    store: GenerationStore,
    *,
    generation: Generation,
    chunk_size: int,
) -> int:
    """Sample the next generation's rows into the store; every process makes and writes its share of the chunks.

    Chunk c depends on the weights, the seed, the generation and c: one process and many make the same pool. Every
    process calls the sampler equally often, the surplus thrown away, so that collectives inside it cannot dead-lock.
    The label that a row was sampled under is written with it; its prompt is not, being a function of the row's address.

    Args:
        trainer: The running trainer.
        module: The trained module.
        sampler: Its sampler, and what that is conditioned on.
        store: Where the chunks go.
        generation: The generation the module was trained in; its rows are for the one after.
        chunk_size: Rows per call of the sampler and per file.

    Returns:
        The number of chunks.
    """
    target, rows, pool = generation.index + 1, generation.samples_per_generation, generation.pool
    chunks, rank = -(-rows // chunk_size), trainer.global_rank
    fresh = isinstance(module, GenerativeModule) and module.fresh_samples and sampler.sample == module.sample
    with together(trainer), sampling(module):
        try:
            for turn in turns(rows, chunk_size, trainer.world_size):
                index, count = turn[rank]
                with together(trainer):  # or the others would wait for a process that fails inside the next turn
                    x, y = sampler.draw(count, (generation.seed, Stream.SAMPLE, target, index), module.device)
                    if turn.index(turn[rank]) == rank:
                        values = encode(_shaped(x, count, pool.row_shape), pool.dtype)
                        if not fresh and x.device.type == "cpu" and np.may_share_memory(values, x.detach().numpy()):
                            values = values.copy()  # x may be the model's own
                        labels, first = labels_of(y), index * chunk_size
                        records = provenance(
                            count, origin=Origin.SYNTHETIC, generation=target, y=labels, candidate=first
                        )
                        store.write_chunk(target, index, values, records)
        finally:
            store.flush()  # whatever happened: nothing is written behind the back of what comes next
    return chunks


def labels_of(y: Tensor | None) -> Tensor | None:
    """Return what samples are conditioned on, on the CPU, if it is one label a row, (n,); None for prompts (n, p)."""
    return None if y is None or y.ndim > 1 else y.cpu()


def _shaped(x: Tensor, rows: int, row_shape: tuple[int, ...]) -> Tensor:
    if x.shape != (rows, *row_shape):
        raise ValueError(
            f"the model sampled {tuple(x.shape)} where {(rows, *row_shape)} was asked for, {rows} rows of gold's "
            "shape; mend its sample(n, generator)"
        )
    return x


def check_replicas(trainer: pl.Trainer, module: pl.LightningModule) -> str:
    """Make sure that all processes sample from one model, and return the digest of its weights.

    BatchNorm statistics differ between processes until the next forward pass; the first process's are taken.

    Raises:
        RuntimeError: If the weights differ between processes.
    """
    if trainer.world_size > 1:
        for buffer in module.buffers():
            torch.distributed.broadcast(buffer, 0)
    mine = state_digest(module.state_dict())
    if trainer.world_size > 1:
        same = mine == trainer.strategy.broadcast(mine)
        if not trainer.strategy.reduce_boolean_decision(same, all=True):
            raise RuntimeError("the processes hold different weights; is an optimizer step taken on one of them only?")
    return mine
