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

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from collapse.data.files import MappedArray, array_digest, array_parts, commit, file_digest, remove_stale, tensor_bytes
from collapse.data.manifest import Manifest
from collapse.data.pool import DataPool, Shard
from collapse.data.rows import PROVENANCE, Origin, Samples, finite, provenance
from collapse.data.writer import BackgroundWriter

__all__ = ["GOLD_CHUNK_BYTES", "GenerationStore", "StoreError"]

GOLD_CHUNK_BYTES = 64 << 20


class StoreError(RuntimeError):
    """A store that cannot be trusted: a file is missing, has other bytes, or belongs to another chain."""


class GenerationStore:
    """Append-only pools of one chain on disk.

    Args:
        root: The run folder; the pools lie under ``root/generations``.
        durable: Force every file to the disk. False only for a store in a temporary folder that dies with its process.
    """

    def __init__(self, root: str | Path, *, durable: bool = True) -> None:
        self.root, self.durable = Path(root), durable
        self.pools = self.root / "generations"
        self._opened: dict[str, list[tuple[Shard, np.ndarray]]] = {}
        self._manifests: dict[int, tuple[tuple[int, int, int], Manifest]] = {}
        self._verified: dict[str, tuple[tuple[int, int, int], str]] = {}
        self._folders: dict[int, Path] = {}
        self._pool: tuple[list[str], DataPool | None] = ([], None)
        self._writer = BackgroundWriter()

    def folder(self, generation: int) -> Path:
        """Return the folder of the rows first trained on in ``generation``."""
        if generation not in self._folders:  # a long chain asks for all of its folders in every generation
            self._folders[generation] = self.pools / f"gen_{generation:03d}"
        return self._folders[generation]

    def chunk(self, generation: int, index: int) -> str:
        """Return the path of a chunk of rows."""
        return f"{self.folder(generation)}/{_name(index)}"

    def read_chunk(self, generation: int, index: int) -> np.ndarray:
        """Return the rows of a chunk, whether its generation is committed or not."""
        self.flush()
        return MappedArray(self.chunk(generation, index))[:]

    def __len__(self) -> int:
        """Number of committed folders, gold included."""
        count = 0
        while self._committed(count):
            count += 1
        return count

    def manifest(self, generation: int) -> Manifest:
        """Read a committed manifest.

        Raises:
            StoreError: If there is none, or it does not match its own digest.
        """
        path = f"{self.folder(generation)}/manifest.json"
        try:
            stamp = _stamp(path)
            if generation in self._manifests and self._manifests[generation][0] == stamp:
                return self._manifests[generation][1]
            manifest = Manifest.from_dict(json.loads(Path(path).read_text()))
        except FileNotFoundError:
            raise StoreError(f"{path} does not exist; generation {generation} was never committed") from None
        except (ValueError, TypeError, KeyError) as error:
            raise StoreError(f"{path} is not a manifest ({error}); restore it from a backup") from None
        if manifest.sealed().digest != manifest.digest:
            raise StoreError(f"{path} was changed after it was written; restore it from a backup")
        self._manifests[generation] = (stamp, manifest)
        return manifest

    def write_chunk(self, generation: int, index: int, x: np.ndarray, records: np.ndarray) -> None:
        """Write chunk ``index`` of a generation, rows and their provenance, while the caller goes on sampling.

        ``x`` must not change any more. An error shows in a later call, at the latest in ``flush`` or ``seal``.
        """
        self._hand_over(self.chunk(generation, index), x)
        self._hand_over(f"{self.folder(generation)}/{_records_name(index)}", records.astype(PROVENANCE))

    def _hand_over(self, path: str, array: np.ndarray) -> None:
        self._writer.submit(self._put, path, array)

    def flush(self) -> None:
        """Wait until every chunk handed over is written."""
        self._writer.flush()

    def _put(self, path: str, array: np.ndarray) -> None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        commit(Path(path), *array_parts(array), durable=self.durable)
        self._verified[path] = (_stamp(path), array_digest(array))

    def write_state(self, generation: int, state: Mapping[str, Tensor]) -> None:
        """Write the state dict of the model trained at ``generation``, on the CPU; same bytes for same weights."""
        path = self._state_path(generation)
        path.parent.mkdir(parents=True, exist_ok=True)
        content = {name: value.detach().cpu() for name, value in state.items()}
        commit(path, tensor_bytes(content), durable=self.durable)

    def state(self, generation: int) -> dict[str, Tensor]:
        """Read the state dict of the model trained at ``generation``, without unpickling objects.

        Raises:
            StoreError: If it was not kept.
        """
        path = self._state_path(generation)
        if not path.exists():
            raise StoreError(f"{path} does not exist: the weights of generation {generation} were not kept")
        return torch.load(path, weights_only=True, map_location="cpu")

    def _state_path(self, generation: int) -> Path:
        return self.root / "weights" / f"gen_{generation:03d}.pt"

    def seal(self, generation: int, chunks: int, *, parent: str, facts: Mapping[str, Any]) -> Manifest:
        """Commit a generation: hash its ``chunks`` chunk files and write the manifest, last of all.

        Raises:
            StoreError: If a manifest already stands there with other content: the same weights, seed and generation
                gave other bytes, so this machine or software does not reproduce the one that wrote it.
        """
        self.flush()
        files = []
        for index in range(chunks):
            count = self._rows(generation, index)
            for name in (_name(index), _records_name(index)):
                files.append((name, count, self._digest(f"{self.folder(generation)}/{name}")))
        rows = sum(count for _, count, _ in files[::2])
        manifest = Manifest(generation, rows, files, parent, json.loads(json.dumps(facts))).sealed()
        if self._committed(generation):
            if self.manifest(generation).digest != manifest.digest:
                raise StoreError(
                    f"{self._manifest_path(generation)} holds other rows than this run makes again; resume on the same "
                    "hardware and software (on a GPU with Trainer(deterministic=True)), or use a new run folder"
                )
            return manifest
        self._commit(manifest)
        return manifest

    def _manifest_path(self, generation: int) -> Path:
        return self.folder(generation) / "manifest.json"

    def _committed(self, generation: int) -> bool:
        return self._manifest_path(generation).exists()

    def _commit(self, manifest: Manifest) -> None:
        content = json.dumps(manifest.to_dict(), indent=1, sort_keys=True).encode()
        commit(self._manifest_path(manifest.generation), content, durable=self.durable)

    def write_gold(self, gold: Samples, *, facts: Mapping[str, Any]) -> Manifest:
        """Copy the real rows in as generation 0, read-only; a store that holds them already only checks them.

        Raises:
            StoreError: If the store holds other gold.
            ValueError: If a row holds NaN or an infinite value.
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
            try:
                for index, start in enumerate(starts):
                    part = gold[start : start + rows]
                    records = provenance(len(part), origin=Origin.REAL, generation=0, y=part.y)
                    self.write_chunk(0, index, finite(np.asarray(part.x), start), records)
            finally:
                self.flush()
            manifest = self.seal(0, len(starts), parent="", facts=facts)
            self._protect(manifest)
            return manifest
        self._compare_gold(gold, rows)
        return self.manifest(0)

    def _compare_gold(self, gold: Samples, rows: int) -> None:
        for index, start in enumerate(range(0, len(gold), rows)):
            part = gold[start : start + rows]
            records = provenance(len(part), origin=Origin.REAL, generation=0, y=part.y)
            digests = [array_digest(array) for array in (np.asarray(part.x), records)]
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
            path = f"{self.folder(manifest.generation)}/{name}"
            try:
                found = self._digest(path)
            except FileNotFoundError:
                raise StoreError(f"{path} is missing; is the run folder on a file system every node sees?") from None
            if found != digest:
                raise StoreError(f"{path} has other bytes than its manifest says; restore it from a backup")

    def pool(self, manifests: Sequence[Manifest]) -> DataPool:
        """Return the pool of the given generations, memory-mapped."""
        digests, (known, before) = [manifest.digest for manifest in manifests], self._pool
        if digests == known and before is not None:
            return before
        if before is None or digests[: len(known)] != known:
            known, before = [], None
        parts = [part for manifest in manifests[len(known) :] for part in self._parts(manifest)]
        pool = DataPool([shard for shard, _ in parts], [records for _, records in parts], before)
        self._pool = (digests, pool)
        return pool

    def _parts(self, manifest: Manifest) -> list[tuple[Shard, np.ndarray]]:
        """Open a generation's files, once: a chain asks for all of them in every generation."""
        if manifest.digest not in self._opened:
            paths = [f"{self.folder(manifest.generation)}/{name}" for name, _, _ in manifest.files]
            self._opened[manifest.digest] = [
                self._open(rows, records) for rows, records in zip(paths[::2], paths[1::2], strict=True)
            ]
        return self._opened[manifest.digest]

    def _open(self, rows: str, records: str) -> tuple[Shard, np.ndarray]:
        return MappedArray(rows), np.load(records, allow_pickle=False)

    def _rows(self, generation: int, index: int) -> int:
        return len(MappedArray(self.chunk(generation, index)))

    def _protect(self, manifest: Manifest) -> None:
        for name, _, _ in manifest.files:
            (self.folder(manifest.generation) / name).chmod(0o444)

    def _digest(self, path: str) -> str:
        stamp = _stamp(path)
        known = self._verified.get(path)
        if known is None or known[0] != stamp:
            known = self._verified[path] = (stamp, file_digest(Path(path)))
        return known[1]


def _stamp(path: str) -> tuple[int, int, int]:
    status = os.stat(path)  # noqa: PTH116 - a Path takes longer to make than to ask
    return status.st_ino, status.st_size, status.st_mtime_ns


def _name(index: int) -> str:
    return f"chunk_{index:05d}.npy"


def _records_name(index: int) -> str:
    return f"chunk_{index:05d}.rows.npy"
