"""The store: an append-only folder per generation that exists completely or not at all.

    generations/
      gen_000/                    gold, read-only
        chunk_00000.npy           rows (n, *S)
        chunk_00000.rows.npy      their provenance (n,)
        manifest.json             names, counts and SHA-256 of the files, parent digest: written last, the commit point
      gen_001/                    what model 0 sampled; the first generation allowed to train on it is 1
      ...

A folder without a manifest is a crash's leftover: it is not part of the store, and writing it again gives the same
bytes. Each manifest names the digest of the one before, so the pools form a chain that starts at gold.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from collapse.data.files import MappedArray, array_bytes, commit, file_digest, remove_stale
from collapse.data.pool import DataPool
from collapse.data.rows import PROVENANCE, Origin, Samples, provenance

__all__ = ["GOLD_CHUNK_BYTES", "GenerationStore", "Manifest", "StoreError"]

SCHEMA = 1
GOLD_CHUNK_BYTES = 64 << 20


class StoreError(RuntimeError):
    """A store that cannot be trusted: a file is missing, has other bytes, or belongs to another chain."""


@dataclass(frozen=True)
class Manifest:
    """What one generation's folder holds, and where it came from.

    Attributes:
        generation: First generation allowed to train on these rows; 0 is gold.
        rows: Number of rows.
        files: (name, rows, sha256) of every file, in order.
        parent: Digest of the manifest before; empty for gold.
        facts: How the rows were made: model digest, sampler settings, seed, what the model was trained on.
        digest: SHA-256 of all of the above.
    """

    generation: int
    rows: int
    files: list[tuple[str, int, str]]
    parent: str
    facts: dict[str, Any] = field(default_factory=dict)
    schema: int = SCHEMA
    digest: str = ""

    def sealed(self) -> Manifest:
        """Return the manifest with its digest filled in."""
        content = {name: value for name, value in asdict(self).items() if name != "digest"}
        digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
        return Manifest(**content, digest=digest)

    def to_dict(self) -> dict[str, Any]:
        """Plain dicts, lists and numbers: safe in a checkpoint and in JSON."""
        return json.loads(json.dumps(asdict(self)))

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Manifest:
        """Inverse of ``to_dict``; a file name that leaves the folder is a ValueError."""
        strange = [name for name, _, _ in content["files"] if not name or Path(name).name != name]
        if strange:
            raise ValueError(f"{strange[0]!r} is no file name")
        return cls(**{**content, "files": [(str(n), int(r), str(h)) for n, r, h in content["files"]]})


class GenerationStore:
    """Append-only pools of one chain on disk.

    Args:
        root: The run folder; the pools lie under ``root/generations``.
        durable: Force every file to the disk. False only for a store in a temporary folder that dies with its process.
    """

    def __init__(self, root: str | Path, *, durable: bool = True) -> None:
        self.root, self.durable = Path(root), durable
        self.pools = self.root / "generations"
        self._opened: dict[str, list[tuple[MappedArray, np.ndarray]]] = {}
        self._manifests: dict[int, tuple[tuple[int, int, int], Manifest]] = {}
        self._verified: dict[Path, tuple[tuple[int, int, int], str]] = {}

    def folder(self, generation: int) -> Path:
        """Return the folder of the rows first trained on in ``generation``."""
        return self.pools / f"gen_{generation:03d}"

    def __len__(self) -> int:
        """Number of committed folders, gold included."""
        count = 0
        while (self.folder(count) / "manifest.json").exists():
            count += 1
        return count

    def manifest(self, generation: int) -> Manifest:
        """Read a committed manifest.

        Raises:
            StoreError: If there is none, or it does not match its own digest.
        """
        path = self.folder(generation) / "manifest.json"
        try:
            stamp = _stamp(path)
            if generation in self._manifests and self._manifests[generation][0] == stamp:
                return self._manifests[generation][1]
            manifest = Manifest.from_dict(json.loads(path.read_text()))
        except FileNotFoundError:
            raise StoreError(f"{path} does not exist; generation {generation} was never committed") from None
        except (ValueError, TypeError, KeyError) as error:
            raise StoreError(f"{path} is not a manifest ({error}); restore it from a backup") from None
        if manifest.sealed().digest != manifest.digest:
            raise StoreError(f"{path} was changed after it was written; restore it from a backup")
        self._manifests[generation] = (stamp, manifest)
        return manifest

    def write_chunk(self, generation: int, index: int, x: np.ndarray, records: np.ndarray) -> None:
        """Write chunk ``index`` of a generation: rows and their provenance."""
        folder = self.folder(generation)
        folder.mkdir(parents=True, exist_ok=True)
        commit(folder / _name(index), array_bytes(x), durable=self.durable)
        commit(folder / _records_name(index), array_bytes(records.astype(PROVENANCE)), durable=self.durable)

    def seal(self, generation: int, chunks: int, *, parent: str, facts: Mapping[str, Any]) -> Manifest:
        """Commit a generation: hash its ``chunks`` chunk files and write the manifest, last of all.

        Raises:
            StoreError: If a manifest already stands there with other content: the same weights, seed and generation
                gave other bytes, so this machine or software does not reproduce the one that wrote it.
        """
        files = []
        for index in range(chunks):
            count = len(MappedArray(self.folder(generation) / _name(index)))
            for name in (_name(index), _records_name(index)):
                files.append((name, count, self._digest(self.folder(generation) / name)))
        rows = sum(count for _, count, _ in files[::2])
        manifest = Manifest(generation, rows, files, parent, json.loads(json.dumps(facts))).sealed()
        path = self.folder(generation) / "manifest.json"
        if path.exists():
            if self.manifest(generation).digest != manifest.digest:
                raise StoreError(
                    f"{path} holds other rows than this run makes again; resume on the same hardware and software "
                    "(on a GPU with Trainer(deterministic=True)), or use a new run folder"
                )
            return manifest
        commit(path, json.dumps(manifest.to_dict(), indent=1, sort_keys=True).encode(), durable=self.durable)
        return manifest

    def write_gold(self, gold: Samples, *, facts: Mapping[str, Any]) -> Manifest:
        """Copy the real rows in as generation 0, read-only; a store that holds them already only checks them.

        Raises:
            StoreError: If the store holds other gold.
        """
        remove_stale(self.root)
        if not len(gold):
            raise StoreError("the gold set has no rows; a chain starts from real data")
        width = max(1, np.asarray(gold.x[:1]).nbytes)
        rows = max(1, GOLD_CHUNK_BYTES // width)
        starts = range(0, len(gold), rows)
        if len(self) and len(gold) != self.manifest(0).rows:
            raise StoreError(
                f"{self.folder(0)} holds {self.manifest(0).rows} rows, the data set has {len(gold)}; "
                "use a new run folder"
            )
        if not len(self):
            for index, start in enumerate(starts):
                part = gold[start : start + rows]
                records = provenance(len(part), origin=Origin.REAL, generation=0, y=part.y)
                self.write_chunk(0, index, np.asarray(part.x), records)
            manifest = self.seal(0, len(starts), parent="", facts=facts)
            for name, _, _ in manifest.files:
                (self.folder(0) / name).chmod(0o444)
            return manifest
        self._compare_gold(gold, rows)
        return self.manifest(0)

    def _compare_gold(self, gold: Samples, rows: int) -> None:
        for index, start in enumerate(range(0, len(gold), rows)):
            part = gold[start : start + rows]
            records = provenance(len(part), origin=Origin.REAL, generation=0, y=part.y)
            digests = [hashlib.sha256(array_bytes(array)).hexdigest() for array in (np.asarray(part.x), records)]
            if digests != [digest for _, _, digest in self.manifest(0).files[2 * index : 2 * index + 2]]:
                raise StoreError(f"{self.folder(0)} holds other rows than the data set; use a new run folder")

    def verify(self, manifest: Manifest) -> None:
        """Check the bytes of a generation; a file unchanged in inode, size and time since its last check is trusted.

        Raises:
            StoreError: If a file is missing or has other bytes, naming it.
        """
        if self.manifest(manifest.generation).digest != manifest.digest:
            raise StoreError(
                f"{self.folder(manifest.generation)} holds another pool than the one this run was working with; "
                "restore it from a backup"
            )
        for name, _, digest in manifest.files:
            path = self.folder(manifest.generation) / name
            try:
                found = self._digest(path)
            except FileNotFoundError:
                raise StoreError(f"{path} is missing; is the run folder on a file system every node sees?") from None
            if found != digest:
                raise StoreError(f"{path} has other bytes than its manifest says; restore it from a backup")

    def pool(self, manifests: Sequence[Manifest]) -> DataPool:
        """Return the pool of the given generations, memory-mapped."""
        parts = [part for manifest in manifests for part in self._parts(manifest)]
        return DataPool([shard for shard, _ in parts], [records for _, records in parts])

    def _parts(self, manifest: Manifest) -> list[tuple[MappedArray, np.ndarray]]:
        """Open a generation's files, once: a chain asks for all of them in every generation."""
        if manifest.digest not in self._opened:
            folder = self.folder(manifest.generation)
            names = [name for name, _, _ in manifest.files]
            self._opened[manifest.digest] = [
                (MappedArray(folder / rows), np.load(folder / records, allow_pickle=False))
                for rows, records in zip(names[::2], names[1::2], strict=True)
            ]
        return self._opened[manifest.digest]

    def _digest(self, path: Path) -> str:
        stamp = _stamp(path)
        known = self._verified.get(path)
        if known is None or known[0] != stamp:
            known = self._verified[path] = (stamp, file_digest(path))
        return known[1]


def _stamp(path: Path) -> tuple[int, int, int]:
    status = path.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns


def _name(index: int) -> str:
    return f"chunk_{index:05d}.npy"


def _records_name(index: int) -> str:
    return f"chunk_{index:05d}.rows.npy"
