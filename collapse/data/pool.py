"""The pool: every row that exists so far, real and synthetic, with its provenance."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from collapse.data.files import MappedArray
from collapse.data.rows import PROVENANCE, UNLABELED, Batch, Origin, decode

__all__ = ["DataPool"]

Shard = MappedArray | np.ndarray


class DataPool:
    """All rows of a chain in writing order: gold first, then one deposit per generation. Immutable.

    Rows stay in their files (or arrays) and are read by index, a whole batch at a time; only the provenance columns
    are held in memory, 13 bytes a row.

    Args:
        shards: Arrays (n_i, *S) of one type and row shape.
        records: As many arrays (n_i,) of type ``PROVENANCE``.
    """

    def __init__(self, shards: Sequence[Shard], records: Sequence[np.ndarray]) -> None:
        self.shards = list(shards)
        self.ends = np.cumsum([len(shard) for shard in self.shards])
        # Column by column: joining whole records goes through them one by one.
        origin, generation, labels = (
            np.concatenate([part[name] for part in records]) for name in PROVENANCE.names or ()
        )
        if len(origin) != self.ends[-1]:
            raise ValueError(f"{len(origin)} provenance records for {self.ends[-1]} rows; give one record per row")
        self.origin = torch.from_numpy(origin)
        self.generation = torch.from_numpy(generation.astype(np.int64))
        self.labels = None if (labels == UNLABELED).all() else torch.from_numpy(labels.astype(np.int64))
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
        if len(self.shards) == 1:
            return self.shards[0][rows]
        out = np.empty((len(rows), *self.row_shape), self.dtype)
        shard_of = np.searchsorted(self.ends, rows, side="right")
        for index in np.unique(shard_of):
            here = shard_of == index
            start = self.ends[index - 1] if index else 0
            out[here] = self.shards[index][rows[here] - start]
        return out

    def gather(self, rows: Tensor) -> Batch:
        """Read a batch.

        Args:
            rows: (B,) indices; or (B, R) for rows of shape (R, *S'), where column r picks from replicate r alone.

        Returns:
            The batch, with x decoded to what a model sees.
        """
        if rows.ndim == 2:
            unique, place = torch.unique(rows, return_inverse=True)
            x = torch.from_numpy(self.stored(unique.numpy()))[place, torch.arange(rows.shape[1])]
        else:
            x = torch.from_numpy(self.stored(rows.numpy()))
        y = None if self.labels is None else self.labels[rows]
        return Batch(decode(x), y, self.origin[rows], self.generation[rows], rows)
