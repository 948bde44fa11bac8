"""How outside data become rows: what a reader is told, what it gives, and what it says about it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

__all__ = ["BLOCK_BYTES", "Block", "Findings", "Layout", "stored"]

BLOCK_BYTES = 16 << 20
"""Bytes of rows that a reader holds at a time."""

STORABLE = {np.dtype(name) for name in ("u1", "i1", "i2", "i4", "i8", "u2", "f2", "f4", "f8")}


@dataclass(frozen=True)
class Layout:
    """How a source is cut into rows. Each setting belongs to one kind of source and is refused for the others.

    Attributes:
        shape: Of a row, for arrays whose rows are stored flat.
        size: Height and width in pixels that every image is resized to.
        length: Bytes in a row of text, each of them a token; at least 1.
        label: Column of a table that holds the labels.
    """

    shape: tuple[int, ...] | None = None
    size: tuple[int, int] | None = None
    length: int | None = None
    label: str | None = None

    def __post_init__(self) -> None:
        for name in ("shape", "size", "length"):
            value = getattr(self, name)
            if value is not None and not (np.size(value) and np.min(value) >= 1):
                raise ValueError(f"{name}={value} must be at least 1 in every place")

    @property
    def given(self) -> list[str]:
        """Names of the settings that were given."""
        return [name for name, value in vars(self).items() if value is not None]


class Block(NamedTuple):
    """Some rows of a source, in its order.

    Attributes:
        x: (b, *S) values.
        y: (b,) labels, integers or names; None for none.
    """

    x: np.ndarray
    y: np.ndarray | None = None


@dataclass
class Findings:
    """What a reader has to say beside the rows; complete when its last block is read.

    Attributes:
        facts: What belongs on record: names of columns.
        notes: Sentences on what it changed or left out.
    """

    facts: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def stored(x: np.ndarray, where: str, first: int) -> np.ndarray:
    """Return rows in a type and byte order that a pool can hold; ``first`` is the number of the first one.

    Raises:
        ValueError: If there is none, or a value is NaN or infinite.
    """
    native = x.astype(x.dtype.newbyteorder("="), copy=False)
    if native.dtype not in STORABLE:
        raise ValueError(f"{where} holds values of type {x.dtype}, which no model reads; convert them to float32")
    if native.dtype.kind == "f" and native.size and not np.isfinite([native.min(), native.max()]).all():
        bad = first + int(np.flatnonzero(~np.isfinite(native.reshape(len(native), -1)).all(1))[0])
        raise ValueError(f"{where} holds NaN or infinite values in row {bad}; drop such rows")
    return np.ascontiguousarray(native)
