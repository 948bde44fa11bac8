"""Taking rows into a store that no model of the run made: gold, and what came with it undeclared."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from collapse.data.files import array_digest
from collapse.data.folder import StoreError
from collapse.data.manifest import Manifest
from collapse.data.rows import Origin, Samples, finite, provenance, row_digests

if TYPE_CHECKING:
    from collapse.data.store import GenerationStore

__all__ = ["CHUNK_BYTES", "records_name", "rows_name", "take_in"]

CHUNK_BYTES = 64 << 20


def rows_name(index: int) -> str:
    """Return the name of a file of rows."""
    return f"chunk_{index:05d}.npy"


def records_name(index: int) -> str:
    """Return the name of the file of their records."""
    return f"chunk_{index:05d}.rows.npy"


def take_in(
    store: GenerationStore, rows: Mapping[Origin, Samples], generation: int, *, parent: str, facts: Mapping[str, Any]
) -> Manifest:
    """Write rows, or compare them with those that are there.

    Args:
        store: Where to.
        rows: By origin.
        generation: 0, or ``HELD``.
        parent: Digest of the manifest before.
        facts: What the manifest shall say of them.

    Raises:
        StoreError: If the store holds others.
        ValueError: If a row holds NaN or an infinite value.
    """
    known = store.manifest(generation) if store.committed(generation) else None
    total, chunks = sum(map(len, rows.values())), 0
    if known is not None and known.rows != total:
        raise StoreError(
            f"{store.folder(generation)} holds {known.rows} rows, the data set has {total}; use a new run folder"
        )
    if known is None:
        store.discard(generation)  # of a start that was cut short, perhaps with other rows
    for origin, samples in rows.items():
        size = max(1, CHUNK_BYTES // max(1, np.asarray(samples.x[:1]).nbytes))
        for start in range(0, len(samples), size):
            part = samples[start : start + size]
            x = finite(np.asarray(part.x), start)
            records = provenance(len(part), origin=origin, generation=generation, y=part.y)
            records["digest"] = row_digests(x)
            for place, (name, array) in enumerate(((rows_name(chunks), x), (records_name(chunks), records))):
                digest = array_digest(array)
                if known is None:
                    store.write_shared(generation, name, array, digest)
                elif digest != known.files[2 * chunks + place][2]:
                    raise StoreError(
                        f"{store.folder(generation)} holds other rows than the data set; use a new run folder"
                    )
            chunks += 1
    if known is not None:
        return known
    return store.seal(generation, chunks, parent=parent, facts=facts)
