"""Ingested data: gold is what was declared real, and the rest is held."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor
from xxhash import xxh3_64_intdigest

from collapse.data.files import MappedArray
from collapse.data.ingest.pool import IngestPool, known_digests
from collapse.data.module import RecursiveDataModule
from collapse.data.pool import DataPool
from collapse.data.rows import UNLABELED, Origin, Samples
from collapse.data.vision import expanded
from collapse.seeding import Stream, key

__all__ = ["Ingested"]


class SelectedRows(MappedArray):
    """Some rows of a pool, as an array that lives on disk.

    Args:
        pool: Where they lie.
        rows: (n,) their indices.
    """

    def __init__(self, pool: DataPool, rows: np.ndarray) -> None:
        self.pool, self.rows = pool, rows
        self.shape, self.dtype = (len(rows), *pool.row_shape), pool.dtype
        self._width = self.dtype.itemsize * int(np.prod(pool.row_shape))

    def __getitem__(self, rows: slice | np.ndarray | Tensor) -> np.ndarray:
        """Return a copy of ``rows``."""
        return self.pool.stored(self.rows[rows if isinstance(rows, slice) else np.asarray(rows)])

    def elements(self, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """Return the entries (rows_i, columns_i) of the first two axes, (B, ...)."""
        return self[rows][np.arange(len(rows)), columns]

    def release(self) -> None:
        """Leave it to the files."""


class Parts(NamedTuple):
    """What becomes of a pool's rows."""

    gold: Samples
    reference: Samples
    held: dict[Origin, Samples]
    classes: int | None


class Ingested(RecursiveDataModule):
    """Rows that ``collapse ingest`` put into a pool: gold is what was declared real, less the share held out.

    Which rows are held out depends on their bytes and the key alone: equal rows are never divided between gold and
    reference, and a pool that grows keeps most of its split. What is not declared real is held (see ``held``), unless
    it equals a reference row: nobody ever trains on that. Every byte of the pool is verified before the first use.

    A pool grows, and a chain must not: the module is described by its pool's version, and a run keeps to the one that
    it started from.

    Args:
        root: The pool's folder.
        held_out: Share of the real rows that becomes the reference set, strictly between 0 and 1; met up to the copies
            of one row.
        seed: Key of that choice.
        version: First characters of the digest of the last batch to read; None for all batches that there are.
        batch_size: Rows per process and batch; None for all rows in one batch.
        num_workers: Loader processes.

    Raises:
        FileNotFoundError: At the first read, if there is no pool.
        StoreError: At the first read, if the pool was changed.
        ValueError: If ``held_out`` is outside its range, too few rows are declared real, or there is no such version.
    """

    def __init__(
        self,
        root: str | Path,
        held_out: float = 0.1,
        seed: int = 0,
        version: str | None = None,
        *,
        batch_size: int | None = 128,
        num_workers: int = 0,
    ) -> None:
        super().__init__(batch_size, num_workers)
        if not 0 < held_out < 1:
            raise ValueError(f"held_out must lie strictly between 0 and 1, got {held_out}")
        self.root, self.held_out, self.seed, self.version = expanded(root), held_out, seed, version

    @property
    def arguments(self) -> dict[str, Any]:
        """The constructor's arguments, and the version that was found."""
        return {**super().arguments, **self.pinned()}

    def pinned(self) -> Mapping[str, Any]:
        """Return the version of the pool that is read."""
        return {"version": self._pool.version}

    def gold(self) -> Samples:
        """Return the rows that were declared real and are not held out."""
        return self._parts.gold

    def reference(self) -> Samples:
        """Return the share of them that is held out."""
        return self._parts.reference

    def held(self) -> Mapping[Origin, Samples]:
        """Return the rows that were not declared real, by origin."""
        return self._parts.held

    @cached_property
    def classes(self) -> int | None:  # type: ignore[override]
        """Number of classes of the pool; None unless every gold row has a label."""
        return self._parts.classes

    @cached_property
    def _pool(self) -> IngestPool:
        pool = IngestPool(self.root, self.version)
        if not pool.batches:
            raise FileNotFoundError(
                f"{self.root} holds no ingested data; collapse ingest PATH --origin real --out {self.root} puts some "
                "there"
            )
        return pool

    @cached_property
    def _parts(self) -> Parts:
        pool = self._pool
        pool.verify()
        origins, digests = pool.origins, pool.digests
        real = np.flatnonzero(origins == Origin.REAL)
        reference = real[held_out_rows(digests[real], self.held_out, key(self.seed, Stream.DATA))]
        gold = np.setdiff1d(real, reference, assume_unique=True)
        free = ~known_digests(digests, digests[reference])
        held = {origin: np.flatnonzero((origins == origin) & free) for origin in Origin if origin != Origin.REAL}
        parts = samples(pool.rows, gold)
        labeled = parts.y is not None and bool((np.asarray(parts.y) != UNLABELED).all())
        labels = pool.rows.labels
        return Parts(
            parts,
            samples(pool.rows, reference),
            {origin: samples(pool.rows, rows) for origin, rows in held.items() if len(rows)},
            max(len(pool.classes), int(labels.max()) + 1) if labeled and labels is not None else None,
        )


def samples(pool: DataPool, rows: np.ndarray) -> Samples:
    """Return rows (n,) of a pool with their labels; None where not one of them has any."""
    y = None if pool.labels is None else pool.labels.numpy()[rows]
    return Samples(SelectedRows(pool, rows), None if y is None or (y == UNLABELED).all() else y)


def held_out_rows(digests: np.ndarray, share: float, entropy: int) -> np.ndarray:
    """Return which rows are held out: the first ``share`` of them in the keyed order of their digests.

    Args:
        digests: (n, 16) uint8 of the rows; those that are equal stay together.
        share: In (0, 1).
        entropy: The key.

    Returns:
        Indices, rising.

    Raises:
        ValueError: If there are no two different rows.
    """
    data = digests.tobytes()
    places = np.array([xxh3_64_intdigest(data[at : at + 16], entropy) for at in range(0, len(data), 16)], np.uint64)
    order = np.argsort(places, kind="stable")
    if not len(order) or places[order[0]] == places[order[-1]]:
        raise ValueError(
            f"{len(order)} rows are declared real, and no two of them differ; gold and reference need one each at least"
        )
    ranked, cut = places[order], min(max(1, round(share * len(order))), len(order) - 1)
    first, last = (int(np.searchsorted(ranked, ranked[cut], side=side)) for side in ("left", "right"))
    return np.sort(order[: first or last])
