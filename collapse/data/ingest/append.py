"""Ingest: append what lies at a path to a pool, as one batch that exists completely or not at all."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from collapse.data.files import array_digest, array_parts, commit, sync_folder
from collapse.data.ingest.layout import Block, Findings
from collapse.data.ingest.pool import LAYOUT, MANIFEST, IngestedBatch, IngestPool, batch_name, known_digests
from collapse.data.ingest.source import Source
from collapse.data.intake import CHUNK_BYTES, records_name, rows_name
from collapse.data.lock import LOCK, RunLock
from collapse.data.manifest import Manifest, tool_versions
from collapse.data.rows import HELD, UNLABELED, Origin, provenance, row_digests

__all__ = ["Ingestion", "ingest"]

MISFITS = {
    "dtype": "its values are {}, the pool's {}; convert them",
    "shape": "its rows are {}, the pool's {}; bring them into that shape",
    "columns": "its columns are {}, the pool's {}; write these in this order",
    "labels": "its labels are {0}, the pool's {1}; label it by {1} (folders called 0, 1, 2 give numbers) or not at all",
}
"""Fact of the layout -> what to say where a source's is another than the pool's."""


@dataclass(frozen=True)
class Ingestion:
    """What an ingestion did.

    Attributes:
        batch: What it left.
        known: Rows of it that were in the pool already, by origin.
        notes: Sentences on what was changed or left out.
    """

    batch: IngestedBatch
    known: dict[Origin, int]
    notes: list[str]


def ingest(source: Source, root: str | Path, origin: Origin) -> Ingestion:
    """Append a source to the pool at ``root``.

    Args:
        source: Outside data.
        root: The pool's folder; made if it is not there.
        origin: Who made the rows, as far as anyone declares. What is not declared real is held: no generation trains
            on it until a mitigation names it.

    Returns:
        What was done.

    Raises:
        LockedError: If another process is writing to the pool.
        StoreError: If the pool was changed.
        ValueError: If the source is in the pool already, does not fit it, or is damaged; the pool is as it was.
    """
    root = Path(root)
    if source.path.is_dir() and source.path.resolve() in (root.resolve(), *root.resolve().parents):
        raise ValueError(f"{root} lies within {source.path}, which would be read while it is written; choose another")
    IngestPool(root)  # a folder that is none is left alone
    new, lock = [folder for folder in (root, *root.parents) if not folder.exists()], RunLock(root)
    lock.acquire()
    try:
        return _appended(IngestPool(root), source, origin)
    except BaseException:
        if new:
            (root / LOCK).unlink(missing_ok=True)
        _remove_empty(*new)
        raise
    finally:
        lock.release()


def _appended(pool: IngestPool, source: Source, origin: Origin) -> Ingestion:
    for batch in pool.batches:
        if batch.manifest.facts["sha256"] == source.digest:
            raise ValueError(f"{source.path} is in the pool already: {batch.folder} has the same content")
    _remove_interrupted(pool)
    folder = pool.root / origin.name.lower() / batch_name(len(pool.batches))
    try:
        folder.mkdir(parents=True)
        manifest, known = _write(pool, source, origin, folder)
        commit(folder / MANIFEST, json.dumps(manifest.to_dict(), indent=1, sort_keys=True).encode())
    except BaseException:
        (folder / MANIFEST).unlink(missing_ok=True)  # first: a batch without its files must not look like one
        shutil.rmtree(folder, ignore_errors=True)
        _remove_empty(folder.parent)
        raise
    (folder / MANIFEST).chmod(0o444)
    for parent in (folder.parent, pool.root):
        sync_folder(parent)
    return Ingestion(IngestedBatch(folder, manifest), known, source.findings.notes)


def _remove_interrupted(pool: IngestPool) -> None:
    committed = {batch.folder for batch in pool.batches}
    for folder in pool.root.glob("*/batch_*"):
        if folder not in committed:
            shutil.rmtree(folder)


def _remove_empty(*folders: Path) -> None:
    with contextlib.suppress(OSError):  # something lies there
        for folder in folders:
            folder.rmdir()


def _write(pool: IngestPool, source: Source, origin: Origin, folder: Path) -> tuple[Manifest, dict[Origin, int]]:
    """Write the chunks of a batch; return its manifest, and how many rows were known before."""
    generation = 0 if origin == Origin.REAL else HELD
    classes, files, digests, layout = list(pool.classes), list[tuple[str, int, str]](), [], dict[str, Any]()
    for index, (x, y) in enumerate(_chunks(source.blocks())):
        layout = _layout(x, y, source.findings)
        _check_fit(pool, source, layout)
        records = provenance(len(x), origin=origin, generation=generation, y=_numbers(y, classes, source))
        records["digest"] = row_digests(x)
        digests.append(records["digest"])
        for name, array in ((rows_name(index), x), (records_name(index), records)):
            commit(folder / name, *array_parts(array))
            (folder / name).chmod(0o444)
            files.append((name, len(array), array_digest(array)))
    if not files:
        raise ValueError(f"{source.path} holds no rows")
    known = _known(pool, np.concatenate(digests))
    facts = {
        **layout,
        "batch": len(pool.batches),
        "origin": origin.name.lower(),
        "source": source.path.resolve().name,
        "sha256": source.digest,
        "kind": source.kind.name,
        "settings": {name: getattr(source.layout, name) for name in source.layout.given},
        "classes": classes,
        "known": {each.name.lower(): count for each, count in known.items()},
        "notes": source.findings.notes,
    }
    facts, rows = json.loads(json.dumps(facts)), sum(map(len, digests))
    return Manifest(generation, rows, files, pool.digest, facts, tools=tool_versions()).sealed(), known


def _chunks(blocks: Iterator[Block]) -> Iterator[Block]:
    """Join blocks to chunks as large as the store's."""
    waiting, size = list[Block](), 0
    for block in blocks:
        waiting.append(block)
        size += block.x.nbytes
        if size >= CHUNK_BYTES:
            yield _joined(waiting)
            waiting, size = [], 0
    if size:
        yield _joined(waiting)


def _joined(blocks: list[Block]) -> Block:
    labels = [block.y for block in blocks if block.y is not None]
    return Block(np.concatenate([block.x for block in blocks]), np.concatenate(labels) if labels else None)


def _layout(x: np.ndarray, y: np.ndarray | None, findings: Findings) -> dict[str, Any]:
    labels = None if y is None else "names" if y.dtype.kind == "U" else "numbers"
    columns = findings.facts.get("columns")
    return dict(zip(LAYOUT, (str(x.dtype), list(x.shape[1:]), columns, labels), strict=True))


def _check_fit(pool: IngestPool, source: Source, layout: dict[str, Any]) -> None:
    for name, wanted in pool.layout.items():
        if layout[name] not in (wanted, None):
            fault = MISFITS[name].format(layout[name], wanted)
            raise ValueError(f"{source.path} does not fit {pool.root}: {fault}, or ingest it into another pool")


def _numbers(y: np.ndarray | None, classes: list[str], source: Source) -> np.ndarray | None:
    """Return labels as numbers; names that are new are appended to ``classes``."""
    if y is None or y.dtype.kind != "U":
        if y is not None and not (y.min() >= UNLABELED and y.max() <= np.iinfo(np.int64).max):
            raise ValueError(f"labels of {source.path} must be at least 0, or -1 for none, got {y.min()}...{y.max()}")
        return y
    classes += sorted(set(y.tolist()).difference(classes))
    number = {name: index for index, name in enumerate(classes)}
    return np.array([number[name] for name in y.tolist()])


def _known(pool: IngestPool, digests: np.ndarray) -> dict[Origin, int]:
    """Return how many rows are in the pool already, by origin."""
    counts = {
        origin: int(known_digests(digests, pool.digests[pool.origins == origin]).sum())
        for origin in sorted(pool.counts())
    }
    return {origin: count for origin, count in counts.items() if count}
