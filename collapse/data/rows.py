"""Rows and where they come from."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from collapse.data.files import MappedArray

__all__ = ["PROVENANCE", "UNLABELED", "Batch", "Origin", "Samples", "decode", "encode", "finite", "provenance"]

UNLABELED = -1

PROVENANCE = np.dtype([("origin", "u1"), ("generation", "<i4"), ("label", "<i8")])
"""One record per row, written beside the row when the row is written."""


class Origin(enum.IntEnum):
    """Who made a row."""

    REAL = 0
    SYNTHETIC = 1


class Batch(NamedTuple):
    """Rows on their way into a model, each with its provenance.

    A NamedTuple because Lightning moves those between devices. With a replicate axis and a random draw (see
    ``Mixture.draw``) the last three are (B, R): every replicate has rows of its own.

    Attributes:
        x: (B, *S) values; images in [0, 1].
        y: (B,) int64 class labels, -1 for rows without one; None when no row of the pool has a label.
        origin: (B,) ``Origin`` of each row, uint8.
        generation: (B,) first generation allowed to train on the row, int64; 0 is gold.
        row: (B,) index into the pool, int64.
    """

    x: Tensor
    y: Tensor | None
    origin: Tensor
    generation: Tensor
    row: Tensor


@dataclass(frozen=True)
class Samples:
    """Rows without a place in a pool yet.

    Attributes:
        x: (n, *S) values. uint8 images are stored as they are and read as floats in [0, 1]; everything else is stored
            and read in its own type. ``MappedArray("rows.npy")`` for a set larger than memory.
        y: (n,) integer class labels or None.
    """

    x: Tensor | np.ndarray | MappedArray
    y: Tensor | np.ndarray | None = None

    def __post_init__(self) -> None:
        if self.y is not None and len(self.y) != len(self.x):
            raise ValueError(f"y has {len(self.y)} labels for {len(self.x)} rows of x; give one label per row")

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, rows: slice | np.ndarray | Tensor) -> Samples:
        return Samples(self.x[rows], None if self.y is None else self.y[rows])

    def tensors(self) -> tuple[Tensor, Tensor | None]:
        """Return (x, y) as a model sees them: uint8 images as floats in [0, 1], labels as int64."""
        y = None if self.y is None else torch.as_tensor(np.asarray(self.y), dtype=torch.int64)
        x = self.x[:] if isinstance(self.x, MappedArray) else self.x
        return decode(torch.as_tensor(np.asarray(x))), y


def decode(stored: Tensor) -> Tensor:
    """Turn stored values into what a model sees: uint8 becomes float32 in [0, 1], the rest stays as it is."""
    return stored.to(torch.float32).div_(255) if stored.dtype == torch.uint8 else stored


def encode(x: Tensor, dtype: np.dtype) -> np.ndarray:
    """Turn a model's values into stored ones; the inverse of ``decode`` up to rounding.

    Rounding to 8 bits is part of the recursion (every generation trains on rounded rows, as gold is), which is why
    the pool's type is gold's type and stands in every manifest.

    Raises:
        FloatingPointError: If a value is NaN or infinite: a pool must never hold one.
    """
    values = x.detach().cpu()
    if values.is_floating_point() and values.numel() and not bool(torch.isfinite(torch.stack(values.aminmax())).all()):
        raise FloatingPointError(
            "the model sampled NaN or infinite values; lower the learning rate or clip the gradients"
        )
    if dtype == np.uint8:
        values = values.float().clamp(0, 1).mul_(255).round_().to(torch.uint8)
    return values.numpy().astype(dtype, copy=False)


def provenance(rows: int, *, origin: Origin, generation: int, y: np.ndarray | Tensor | None = None) -> np.ndarray:
    """Return the provenance records of ``rows`` new rows of one origin and generation."""
    records = np.empty(rows, PROVENANCE)
    records["origin"], records["generation"] = origin, generation
    records["label"] = UNLABELED if y is None else np.asarray(y)
    return records


def finite(x: np.ndarray, first: int) -> np.ndarray:
    """Return gold rows, of which the first is row ``first``; a model fitted on NaN is NaN ever after."""
    if x.dtype.kind == "f" and x.size and not np.isfinite([x.min(), x.max()]).all():
        bad = first + np.flatnonzero(~np.isfinite(x.reshape(len(x), -1)).all(1))
        raise ValueError(
            f"the gold set holds NaN or infinite values in {len(bad)} of its rows, row {bad[0]} first; drop these rows"
        )
    return x
