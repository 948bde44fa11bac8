"""The pool: every row that exists so far, real and synthetic, with its provenance."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from collapse.data.files import MappedArray
from collapse.data.rows import HELD, NEVER, UNLABELED, Batch, Origin, decode

__all__ = ["DataPool", "Shard"]

Shard = MappedArray | np.ndarray
Place = slice | np.ndarray


class DataPool:
    """All rows of a chain in writing order: gold first, then one deposit per generation. Immutable.

    Rows stay in their files (or arrays) and are read by index, a whole batch at a time; only the provenance columns
    are held in memory, 17 bytes a row; candidate, score and digest stay in their files.

    Args:
        shards: Arrays (n_i, *S) of one type and row shape.
        records: As many arrays (n_i,) of type ``PROVENANCE``.
        before: The pool that these come after; a long chain grows by a deposit a generation.
    """

    def __init__(self, shards: Sequence[Shard], records: Sequence[np.ndarray], before: DataPool | None = None) -> None:
        self.shards: list[Shard] = [*(before.shards if before else ()), *shards]
        self.ends = np.cumsum([len(shard) for shard in self.shards])
        # Column by column: joining whole records goes through them one by one.
        columns: list[Tensor] = [
            torch.from_numpy(np.concatenate([part[name] for part in records]).astype(kind))
            for name, kind in (("origin", np.uint8), ("generation", np.int64), ("label", np.int64))
        ]
        columns[1] = columns[1].where(columns[1] != HELD, NEVER)
        if before is not None:
            columns = [torch.cat(pair) for pair in zip(before._columns, columns, strict=True)]
        self._columns: list[Tensor] = columns
        self.origin, self.generation, labels = columns
        if len(self.origin) != self.ends[-1]:
            raise ValueError(f"{len(self.origin)} provenance records for {self.ends[-1]} rows; give one record per row")
        self.labels = None if bool((labels == UNLABELED).all()) else labels
        first = self.shards[0]
        self.dtype, self.row_shape = first.dtype, tuple(first.shape[1:])

    def __len__(self) -> int:
        return int(self.ends[-1])

    @property
    def is_real(self) -> Tensor:
        """(N,) bool."""
        return self.origin == Origin.REAL

    def stored(self, rows: np.ndarray) -> np.ndarray:
        """Return rows (B,) as they are stored, (B, *S), read shard by shard in rising order."""
        out = np.empty((len(rows), *self.row_shape), self.dtype)
        for index, here, local in self._by_shard(rows):
            out[here] = self.shards[index][local]
        return out

    def stored_columns(self, rows: np.ndarray) -> np.ndarray:
        """Return rows (B, R) of a pool of rows (R, *S'), (B, R, *S'): column r is read from replicate r alone."""
        out = np.empty((*rows.shape, *self.row_shape[1:]), self.dtype)
        flat, column = out.reshape(-1, *self.row_shape[1:]), np.tile(np.arange(rows.shape[1]), len(rows))
        for index, here, local in self._by_shard(rows.reshape(-1)):
            shard, columns = self.shards[index], column[here]
            if isinstance(local, slice):  # beside a list of columns it would give every row in all of them
                local = np.arange(local.start, local.stop)
            flat[here] = shard.elements(local, columns) if isinstance(shard, MappedArray) else shard[local, columns]
        return out

    def _by_shard(self, rows: np.ndarray) -> Iterator[tuple[int, Place, Place]]:
        """Yield (shard, places in ``rows``, rows within the shard); slices where rows follow one another."""
        if len(rows) and rows.min() < 0:
            raise IndexError(f"row {rows.min()} does not exist; the rows of a pool are counted from 0")
        if len(rows) and (np.diff(rows) == 1).all():
            first, last = (int(np.searchsorted(self.ends, row, side="right")) for row in (rows[0], rows[-1]))
            begin, end = int(rows[0]), int(rows[-1]) + 1
            for shard in range(first, last + 1):
                start = int(self.ends[shard - 1]) if shard else 0
                low, high = max(start, begin), min(int(self.ends[shard]), end)
                yield shard, slice(low - begin, high - begin), slice(low - start, high - start)
            return
        shard_of = np.searchsorted(self.ends, rows, side="right")
        order = np.argsort(shard_of, kind="stable")
        bounds = np.searchsorted(shard_of[order], np.arange(len(self.shards) + 1))
        for index in np.flatnonzero(np.diff(bounds)):
            here = order[bounds[index] : bounds[index + 1]]
            yield int(index), here, rows[here] - (int(self.ends[index - 1]) if index else 0)

    def gather(self, rows: Tensor) -> Batch:
        """Read a batch.

        Args:
            rows: (B,) indices; or (B, R) for rows of shape (R, *S'), where column r picks from replicate r alone.

        Returns:
            The batch, with x decoded to what a model sees.
        """
        read = self.stored_columns if rows.ndim == 2 else self.stored
        y = None if self.labels is None else self.labels[rows]
        return Batch(decode(torch.from_numpy(read(rows.numpy()))), y, self.origin[rows], self.generation[rows], rows)
