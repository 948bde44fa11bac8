"""Rows and where they come from."""

from __future__ import annotations

import dataclasses
import enum
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from xxhash import xxh3_128_digest

from collapse.data.files import MappedArray

__all__ = [
    "HELD",
    "NEVER",
    "NO_CANDIDATE",
    "PROVENANCE",
    "UNLABELED",
    "Batch",
    "Origin",
    "Samples",
    "decode",
    "encode",
    "finite",
    "provenance",
    "row_digests",
]

UNLABELED = -1
NO_CANDIDATE = -1
"""``candidate`` of a row that no sampler of the chain drew."""
HELD = -1
"""``generation`` of a row that no generation may train on until a mitigation names it."""

NEVER = torch.iinfo(torch.int64).max
"""Arrival, in a mixture, of a row that no generation may train on."""

PROVENANCE = np.dtype(
    [
        ("origin", "u1"),
        ("generation", "<i4"),
        ("label", "<i8"),
        ("candidate", "<i8"),
        ("score", "<f4"),
        ("digest", "u1", (16,)),
    ]
)
"""One record per row, written beside the row when the row is written.

``candidate`` is the row's place among all rows drawn for its generation, kept or not: with the manifest's seed and
chunk size it is the address of the draw. ``score`` is what curation gave it, NaN without one; ``digest`` is the
XXH3-128 of its stored bytes. What all rows of a generation share (the model's weights, the sampler's settings) stands
in the manifest.
"""


class Origin(enum.IntEnum):
    """Who made a row, as far as anyone has declared."""

    REAL = 0
    SYNTHETIC = 1
    UNKNOWN = 2


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
            and read in its own type, uint16 tokens as int32. ``MappedArray("rows.npy")`` for a set larger than memory.
        y: (n,) integer class labels or None.
        candidate: (n,) int64 places among the rows drawn for a generation; None for rows nobody drew. Selecting rows
            keeps it, so that curation need not know of it.
        score: (n,) what curation thought of each row; None for nothing.
        rejected: (m, 2) float64, candidate and score of the rows that ``select`` left out so far; None for none.
    """

    x: Tensor | np.ndarray | MappedArray
    y: Tensor | np.ndarray | None = None
    candidate: np.ndarray | None = None
    score: np.ndarray | None = None
    rejected: np.ndarray | None = None

    def __post_init__(self) -> None:
        for name, what in (("y", "labels"), ("candidate", "places"), ("score", "scores")):
            column = getattr(self, name)
            if column is not None and len(column) != len(self.x):
                one = what.removesuffix("s")
                raise ValueError(f"{name} has {len(column)} {what} for {len(self.x)} rows of x; give one {one} per row")

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, rows: slice | np.ndarray | Tensor) -> Samples:
        columns = {name: getattr(self, name) for name in ("y", "candidate", "score")}
        chosen = {name: column[rows] for name, column in columns.items() if column is not None}
        return Samples(self.x[rows], rejected=self.rejected, **chosen)

    def select(self, keep: np.ndarray | Tensor, score: np.ndarray | Tensor | None = None) -> Samples:
        """Return the rows of ``keep`` (n,) bool with their scores; those left out stay on record with theirs.

        What curation is for: the manifest of a pool then says of every row drawn for it whether and why it was kept.
        """
        chosen = np.asarray(keep, bool)
        before = np.full(len(self), np.nan) if self.score is None else self.score
        scores = np.asarray(before if score is None else score, np.float64)
        kept = dataclasses.replace(self, score=scores)[np.flatnonzero(chosen)]
        if self.candidate is None:
            return kept
        left_out = np.stack([self.candidate[~chosen], scores[~chosen]], 1)
        earlier = [] if self.rejected is None else [self.rejected]
        return dataclasses.replace(kept, rejected=np.concatenate([*earlier, left_out]))

    def tensors(self) -> tuple[Tensor, Tensor | None]:
        """Return (x, y) as a model sees them: uint8 images as floats in [0, 1], labels as int64."""
        y = None if self.y is None else torch.as_tensor(np.asarray(self.y), dtype=torch.int64)
        x = self.x[:] if isinstance(self.x, MappedArray) else self.x
        return decode(torch.as_tensor(np.asarray(x))), y


def decode(stored: Tensor) -> Tensor:
    """Turn stored values into what a model sees: images (uint8) become float32 in [0, 1], tokens (uint16) int32."""
    if stored.dtype == torch.uint8:
        return stored.to(torch.float32).div_(255)
    return stored.to(torch.int32) if stored.dtype == torch.uint16 else stored


def encode(x: Tensor, dtype: np.dtype) -> np.ndarray:
    """Turn a model's values into stored ones; the inverse of ``decode`` up to rounding.

    Rounding to 8 bits is part of the recursion (every generation trains on rounded rows, as gold is), which is why
    the pool's type is gold's type and stands in every manifest.

    Raises:
        FloatingPointError: If a value is NaN or infinite: a pool must never hold one.
        ValueError: If gold's rows are tokens or other integers, and a value is none that their type can hold.
    """
    values = x.detach().cpu()
    if values.dtype == torch.bfloat16:  # which NumPy does not know
        values = values.float()
    if values.is_floating_point() and values.numel() and not bool(torch.isfinite(torch.stack(values.aminmax())).all()):
        raise FloatingPointError(
            "the model sampled NaN or infinite values; lower the learning rate or clip the gradients"
        )
    if dtype == np.uint8:
        values = values.float().clamp(0, 1).mul_(255).round_().to(torch.uint8)
    stored = values.numpy()
    if dtype.kind in "iu" and stored.dtype != dtype and stored.size:
        _check_integers(stored, dtype)
    return stored.astype(dtype, copy=False)


def _check_integers(values: np.ndarray, dtype: np.dtype) -> None:
    """Raise ValueError unless values are integers within a type: a cast would change them in silence."""
    low, high, limits = values.min(), values.max(), np.iinfo(dtype)
    if low < limits.min or high > limits.max or (values.dtype.kind == "f" and (values != np.trunc(values)).any()):
        raise ValueError(
            f"the model sampled values from {low:g} to {high:g} of the type {values.dtype}, and gold's rows are "
            f"integers of the type {dtype}; choose a model of tokens or categories, of no more than the data have"
        )


def provenance(
    rows: int,
    *,
    origin: Origin,
    generation: int,
    y: np.ndarray | Tensor | None = None,
    candidate: np.ndarray | int = NO_CANDIDATE,
    score: np.ndarray | None = None,
) -> np.ndarray:
    """Return the provenance records (n,) of new rows; the store that writes them fills in their digests.

    Args:
        rows: Their number n.
        origin: Who made them.
        generation: First generation allowed to train on them, or ``HELD``.
        y: (n,) labels.
        candidate: (n,) places among the rows drawn for the generation, or that of the first when they follow in order.
        score: (n,) scores of curation.
    """
    records = np.zeros(rows, PROVENANCE)
    records["origin"], records["generation"] = origin, generation
    records["label"] = UNLABELED if y is None else np.asarray(y)
    follow = isinstance(candidate, int) and candidate != NO_CANDIDATE
    records["candidate"] = candidate + np.arange(rows) if follow else candidate
    records["score"] = np.nan if score is None else score
    return records


def row_digests(x: np.ndarray) -> np.ndarray:
    """Return the XXH3-128 of the stored bytes of each row (n, *S), (n, 16) uint8.

    Equal rows have equal digests in every pool, so a row can be found again wherever it went. It is no protection
    against forgery: that is the SHA-256 of the files.
    """
    if not x.size:
        return np.zeros((len(x), 16), np.uint8)
    whole = np.ascontiguousarray(x).reshape(-1).view(np.uint8).data
    width = len(whole) // len(x)
    parts = [xxh3_128_digest(whole[start : start + width]) for start in range(0, len(whole), width)]
    return np.frombuffer(b"".join(parts), np.uint8).reshape(len(x), 16)


def finite(x: np.ndarray, first: int) -> np.ndarray:
    """Return gold rows, of which the first is row ``first``; a model fitted on NaN is NaN ever after."""
    if x.dtype.kind == "f" and x.size and not np.isfinite([x.min(), x.max()]).all():
        bad = first + np.flatnonzero(~np.isfinite(x.reshape(len(x), -1)).all(1))
        raise ValueError(
            f"the gold set holds NaN or infinite values in {len(bad)} of its rows, row {bad[0]} first; drop these rows"
        )
    return x
