"""Curation: what is kept of the candidates, and a record of those that are not."""

from __future__ import annotations

import numpy as np
import torch

from collapse.data.generation import Generation
from collapse.data.rows import NO_CANDIDATE, UNLABELED, Origin, Samples, decode, encode, provenance
from collapse.data.store import REJECTED, GenerationStore
from collapse.mitigations.stack import MitigationStack

__all__ = ["curate_chunks"]


def curate_chunks(
    store: GenerationStore, stack: MitigationStack, generation: Generation, *, chunks: int, chunk_size: int
) -> int | None:
    """Let the mitigations curate the candidates of the next generation, and write what they keep in their place.

    Args:
        store: It holds the candidates, not committed yet.
        stack: The mitigations.
        generation: The generation whose model made them.
        chunks: Number of chunks of candidates.
        chunk_size: Rows per chunk.

    Returns:
        The number of chunks kept; None if the mitigations left the candidates alone.

    Raises:
        ValueError: If nothing is kept.
    """
    target = generation.index + 1
    candidates, digests = _candidates(store, target, chunks)
    kept = stack.curate(candidates, generation)
    if kept is candidates:
        return None
    if not len(kept):
        raise ValueError(f"curation kept none of the candidates of generation {target}; loosen its threshold")
    left = -(-len(kept) // chunk_size)
    try:
        for index in range(left):
            part = kept[index * chunk_size : (index + 1) * chunk_size]
            x, y = part.tensors()
            records = provenance(
                len(part),
                origin=Origin.SYNTHETIC,
                generation=target,
                y=y,
                candidate=NO_CANDIDATE if part.candidate is None else part.candidate,
                score=part.score,
            )
            store.write_chunk(target, index, encode(x, generation.pool.dtype).copy(), records)
    finally:
        store.flush()
    store.discard(target, after=left)
    store.write_rejected(target, _rejected(digests, kept))
    return left


def _candidates(store: GenerationStore, target: int, chunks: int) -> tuple[Samples, np.ndarray]:
    """Return the candidates as a model sees them, with their labels, and the digests (n, 16) of what is stored.

    They are decoded chunk by chunk into one array, so that the memory taken is that of the candidates and a chunk.
    """
    parts = [store.read_chunk(target, index) for index in range(chunks)]
    records = np.concatenate([records for _, records in parts])
    first = decode(torch.from_numpy(parts[0][0][:1]))
    x, end = first.new_empty(len(records), *first.shape[1:]), 0
    for rows, _ in parts:
        begin, end = end, end + len(rows)
        x[begin:end] = decode(torch.from_numpy(rows[:]))
    y = None if (records["label"] == UNLABELED).all() else records["label"]
    return Samples(x, y, candidate=np.arange(len(x))), records["digest"]


def _rejected(digests: np.ndarray, kept: Samples) -> np.ndarray:
    """Return the records of the candidates that were not kept, in the order they were drawn."""
    left_out = np.ones(len(digests), bool)
    if kept.candidate is not None:
        left_out[kept.candidate] = False
    scores = np.full(len(digests), np.nan, np.float32)
    if kept.rejected is not None:
        scores[kept.rejected[:, 0].astype(np.int64)] = kept.rejected[:, 1]
    places = np.flatnonzero(left_out)
    records = np.zeros(len(places), REJECTED)
    records["candidate"], records["score"], records["digest"] = places, scores[places], digests[places]
    return records
