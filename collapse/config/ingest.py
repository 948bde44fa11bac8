"""The work of ``collapse ingest``: append outside data to a pool, and say what was found."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from collapse.config.errors import ConfigError
from collapse.data.folder import StoreError
from collapse.data.ingest import Ingestion, IngestPool, Layout, ingest, open_source
from collapse.data.ingest.pool import is_pool
from collapse.data.origins import origin_named
from collapse.data.rows import Origin
from collapse.metrics.incoming import check_incoming
from collapse.seeding import Stream, generator, numpy_generator

__all__ = ["ingest_path", "pool_faults"]

CHECKED = 1000
"""Most rows of each side that are compared."""


def ingest_path(
    path: Path,
    out: Path,
    origin: str,
    *,
    shape: str | None = None,
    size: tuple[int, int] | None = None,
    length: int | None = None,
    label: str | None = None,
) -> list[str]:
    """Append what lies at ``path`` to the pool ``out``.

    Args:
        path: A file, or a folder of images or texts.
        out: The pool's folder.
        origin: ``real``, ``synthetic`` or ``unknown``.
        shape: Sides of a row, separated by commas, for arrays whose rows are flat.
        size: Height and width to resize images to.
        length: Bytes in a row of text.
        label: Column of a table that holds the labels.

    Returns:
        What there is to say, a line each, the batch's folder last.

    Raises:
        ConfigError: If the data cannot be ingested; the pool is as it was.
    """
    with _usage():
        layout = Layout(_sides(shape), size, length, label)
        done = ingest(open_source(path, layout), out, origin_named(origin))
    return [*_said(path, done), *_checked(IngestPool(out), done), str(done.batch.folder)]


def pool_faults(root: Path) -> list[str] | None:
    """Read every byte of a pool of ingested data; return a sentence for each fault, or None where there is no pool."""
    if not is_pool(root):
        return None
    try:
        return list(IngestPool(root).faults())
    except (StoreError, ValueError) as error:
        return [str(error)]


@contextmanager
def _usage() -> Iterator[None]:
    try:
        yield
    except (ValueError, FileNotFoundError, ImportError) as error:
        raise ConfigError(str(error)) from error


def _sides(shape: str | None) -> tuple[int, ...] | None:
    try:
        return None if shape is None else tuple(int(side) for side in shape.split(","))
    except ValueError:
        raise ConfigError(f"--shape={shape} must be whole numbers separated by commas, such as 1,28,28") from None


def _said(path: Path, done: Ingestion) -> list[str]:
    manifest = done.batch.manifest
    declared = "of unknown origin" if done.batch.origin == Origin.UNKNOWN else f"declared {manifest.facts['origin']}"
    lines = [
        f"{manifest.rows} rows {tuple(manifest.facts['shape'])} of {manifest.facts['dtype']} from {path}, {declared}"
    ]
    if done.known:
        found = ", ".join(f"{count} {origin.name.lower()}" for origin, count in done.known.items())
        lines.append(f"some of them equal rows that the pool held before: {found}")
    return [*lines, *done.notes]


def _checked(pool: IngestPool, done: Ingestion) -> list[str]:
    """Compare a batch with the real rows that were there before it; a finding is a warning, and refuses nothing."""
    if pool.rows.dtype.kind != "f" and pool.rows.dtype != np.uint8:
        return ["not checked against real rows: tokens have no distance"]
    first = len(pool) - done.batch.manifest.rows
    real = np.flatnonzero(pool.origins[:first] == Origin.REAL)
    if not len(real):
        return ["not checked against real rows: the pool held none before"]
    gold, incoming = (_some(pool, rows) for rows in (real, np.arange(first, len(pool))))
    try:
        report = check_incoming(gold, incoming, generator=generator(0, Stream.EVALUATE), max_rows=CHECKED)
    except ValueError as error:
        return [f"not checked against real rows: {error}"]
    return [f"warning: {report}" if report.alarms else str(report)]


def _some(pool: IngestPool, rows: np.ndarray) -> Tensor:
    """Read some rows as floats, the same ones every time."""
    chosen = numpy_generator(0, Stream.EVALUATE).permutation(len(rows))[:CHECKED]
    x = torch.from_numpy(pool.rows.stored(rows[np.sort(chosen)]).astype(np.float64))
    return x.flatten(1)
