"""The pool that outside data are ingested into: append-only, in partitions by origin, its batches a chain.

    POOL/
      real/batch_00000/             what was declared real
        chunk_00000.npy             rows (n, *S)
        chunk_00000.rows.npy        their provenance (n,): origin, label, digest
        manifest.json               where they came from; names the batch before: written last, the commit point
      unknown/batch_00001/          what nobody vouches for
      synthetic/batch_00002/        what is known to be made by a model

Batches are counted through all partitions. A folder without a manifest is an interrupted ingestion: it is not part of
the pool, and the next one removes it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from collapse.data.files import MappedArray, file_digest
from collapse.data.folder import StoreError
from collapse.data.lock import LOCK
from collapse.data.manifest import Manifest
from collapse.data.origins import ORIGINS
from collapse.data.pool import DataPool
from collapse.data.rows import PROVENANCE, Origin

__all__ = ["IngestPool", "IngestedBatch", "is_pool", "known_digests"]

MANIFEST = "manifest.json"
VERSION = 12
"""Characters of a digest that name it."""
LAYOUT = ("dtype", "shape", "columns", "labels")
"""Facts in which all batches agree: type and shape of a row, names of its columns, and what its labels are."""


class IngestedBatch(NamedTuple):
    """What one ingestion left."""

    folder: Path
    manifest: Manifest

    @property
    def origin(self) -> Origin:
        """Who made its rows, as far as anyone has declared."""
        return ORIGINS[self.manifest.facts["origin"]]


class IngestPool:
    """Ingested rows, read-only.

    Args:
        root: The folder; one that does not exist, or is empty, is a pool without batches.
        version: First characters of the digest of the last batch to read, for the pool as it was before it grew; None
            for all batches.

    Attributes:
        batches: In the order of their ingestion.

    Raises:
        StoreError: If a batch is missing, lies in another partition than its own, or its manifest was changed.
        ValueError: If the folder holds something else, or never was of that version.
    """

    def __init__(self, root: str | Path, version: str | None = None) -> None:
        self.root = Path(root)
        check_folder(self.root)
        self.batches: list[IngestedBatch] = []
        folders = {path.parent.name: path.parent for path in self.root.glob(f"*/batch_*/{MANIFEST}")}
        for index in range(len(folders)):
            folder = folders.get(batch_name(index))
            if folder is None:
                raise StoreError(f"{self.root} has no {batch_name(index)}; restore it from a backup")
            self.batches.append(IngestedBatch(folder, self._manifest(folder, index)))
        if version is not None and self.batches:
            del self.batches[self._last(version) + 1 :]

    def _last(self, version: str) -> int:
        found = [index for index, batch in enumerate(self.batches) if batch.manifest.digest.startswith(version)]
        if len(found) != 1:
            raise ValueError(
                f"version={version!r} fits {len(found)} of the {len(self.batches)} batches of {self.root}, the newest "
                f"of which is {self.version}; give the pool that it is of, or another version"
            )
        return found[0]

    def _manifest(self, folder: Path, index: int) -> Manifest:
        try:
            manifest = Manifest.from_dict(json.loads((folder / MANIFEST).read_text()))
            missing = {"batch", "origin", "sha256", "classes", *LAYOUT} - manifest.facts.keys()
            if missing:
                raise ValueError(f"it does not say its {min(missing)}")
        except (ValueError, TypeError, KeyError) as error:
            raise StoreError(f"{folder / MANIFEST} is not a manifest ({error}); restore it from a backup") from None
        changed = manifest.sealed().digest != manifest.digest or manifest.parent != self.digest
        if changed or (manifest.facts["batch"], manifest.facts["origin"]) != (index, folder.parent.name):
            raise StoreError(f"{folder / MANIFEST} was changed or moved after it was written; restore it from a backup")
        return manifest

    def __len__(self) -> int:
        """Number of rows."""
        return sum(batch.manifest.rows for batch in self.batches)

    @property
    def digest(self) -> str:
        """Digest of the newest manifest, which stands for the whole pool; empty for an empty one."""
        return self.batches[-1].manifest.digest if self.batches else ""

    @property
    def version(self) -> str:
        """First characters of the digest: enough to name the pool as it is now."""
        return self.digest[:VERSION]

    @property
    def layout(self) -> dict[str, Any]:
        """What the rows of all batches have in common, as far as a batch says so."""
        said = [batch.manifest.facts for batch in self.batches]
        return {name: facts[name] for name in LAYOUT for facts in said if facts[name] is not None}

    @property
    def classes(self) -> list[str]:
        """Names of the labels, in the order of their numbers; empty where labels are numbers."""
        return self.batches[-1].manifest.facts["classes"] if self.batches else []

    def counts(self) -> dict[Origin, int]:
        """Return the number of rows of each origin."""
        return {
            origin: sum(batch.manifest.rows for batch in self.batches if batch.origin == origin) for origin in Origin
        }

    def verify(self) -> None:
        """Read every byte.

        Raises:
            StoreError: If a file is missing or has other bytes than its manifest says, or does not belong here.
        """
        for fault in self.faults():
            raise StoreError(fault)

    def faults(self) -> Iterator[str]:
        """Read every byte, and yield a sentence for each file that is not as it was written."""
        for folder, manifest in self.batches:
            known = {name: digest for name, _, digest in manifest.files}
            found = {path.name for path in folder.iterdir()} - {MANIFEST}
            for name in sorted(known.keys() ^ found):
                fault = "is missing" if name in known else "was not written by collapse"
                yield f"{folder / name} {fault}; restore the pool from a backup"
            for name, digest in known.items():
                if name in found and file_digest(folder / name) != digest:
                    yield f"{folder / name} has other bytes than its manifest says; restore it from a backup"

    @cached_property
    def records(self) -> list[np.ndarray]:
        """Provenance of the rows, an array for each chunk."""
        return [
            np.load(folder / name, allow_pickle=False)
            for folder, manifest in self.batches
            for _, name in manifest.chunks
        ]

    @cached_property
    def rows(self) -> DataPool:
        """The rows, memory-mapped.

        Raises:
            StoreError: If there are none.
        """
        if not self.batches:
            raise StoreError(f"{self.root} holds no rows; collapse ingest PATH --out {self.root} puts some there")
        shards = [MappedArray(folder / name) for folder, manifest in self.batches for name, _ in manifest.chunks]
        return DataPool(shards, self.records)

    @property
    def digests(self) -> np.ndarray:
        """XXH3-128 of the bytes of each row, (N, 16) uint8."""
        return self._column("digest")

    @property
    def origins(self) -> np.ndarray:
        """``Origin`` of each row, (N,) uint8."""
        return self._column("origin")

    def _column(self, name: str) -> np.ndarray:
        return np.concatenate([part[name] for part in (np.empty(0, PROVENANCE), *self.records)])


def known_digests(digests: np.ndarray, among: np.ndarray) -> np.ndarray:
    """Return which of the rows' ``digests`` (n, 16) are ``among`` (m, 16) others, (n,) bool.

    The halves are looked up one by one: that both are found in different rows has a probability below n m^2 / 2^128.
    """
    halves, others = (np.ascontiguousarray(each).view("<u8") for each in (digests, among))
    return np.isin(halves[:, 0], others[:, 0]) & np.isin(halves[:, 1], others[:, 1])


def batch_name(index: int) -> str:
    """Return the name of a batch's folder."""
    return f"batch_{index:05d}"


def is_pool(root: Path) -> bool:
    """Whether a folder holds ingested data, sound or not."""
    return any(True for origin in ORIGINS for _ in (root / origin).glob("batch_*"))


def check_folder(root: Path) -> None:
    """Raise ValueError if a folder holds anything but a pool."""
    if root.exists() and not root.is_dir():
        raise ValueError(f"{root} is a file; choose a folder")
    for path in sorted(root.glob("*")):
        if path.name == LOCK and path.is_file():
            continue
        partition = path.name in ORIGINS and path.is_dir()
        if not partition or any(not inside.name.startswith("batch_") for inside in path.iterdir()):
            raise ValueError(f"{root} is no pool of ingested data: it holds {path.name}; choose another folder")
