"""The store: an append-only folder per generation that exists completely or not at all.

    generations/
      gen_000/                    gold, read-only, linked to the files of other runs with the same gold
        chunk_00000.npy           rows (n, *S)
        chunk_00000.rows.npy      their provenance (n,)
        manifest.json             names, counts and SHA-256 of the files, parent digest: written last, the commit point
      held/                       what came with gold and is not declared real; a mitigation may name it
      gen_001/                    what model 0 sampled; the first generation allowed to train on it is 1
        rejected.npy              candidates that curation left out, with their scores
      ...
    training/gen_000.npy ...      pool rows that generation 0 trained on
    weights/gen_000.pt ...        state dict of the model it trained

A folder without a manifest is a crash's leftover: it is not part of the store, and writing it again gives the same
bytes. Each manifest names the digest of the one before, so the pools form a chain that starts at gold; every other file
stands in the journal before it is written.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from collapse.data.files import MappedArray, array_digest, array_parts, commit, file_digest, remove_stale, stamp_of
from collapse.data.folder import RunFolder, StoreError
from collapse.data.gold import VAULT, GoldVault
from collapse.data.intake import records_name, rows_name, take_in
from collapse.data.manifest import Manifest, tool_versions
from collapse.data.pool import DataPool, Shard
from collapse.data.rows import HELD, PROVENANCE, Origin, Samples, row_digests
from collapse.data.writer import BackgroundWriter

__all__ = ["REJECTED", "REJECTED_NAME", "GenerationStore", "StoreError"]

REJECTED = np.dtype([("candidate", "<i8"), ("score", "<f4"), ("digest", "u1", (16,))])  # of a row drawn and left out
REJECTED_NAME = "rejected.npy"


class GenerationStore(RunFolder):
    """Append-only pools of one chain on disk, in its run folder.

    Args:
        root: The run folder; the pools lie under ``root/generations``.
        durable: Force every file to the disk. False only for a store in a temporary folder that dies with its process.
    """

    def __init__(self, root: str | Path, *, durable: bool = True) -> None:
        super().__init__(root, durable=durable)
        self.pools = self.root / "generations"
        self._manifests: dict[int, tuple[tuple[int, int, int], Manifest]] = {}
        self._verified: dict[str, tuple[tuple[int, int, int], str]] = {}
        self._folders: dict[int, Path] = {}
        self._pool: tuple[list[str], DataPool | None] = ([], None)
        self._vault = GoldVault(self.root.parent / VAULT, durable=durable)
        self._writer = BackgroundWriter()

    def folder(self, generation: int) -> Path:
        """Return the folder of the rows first trained on in ``generation``."""
        if generation not in self._folders:  # a long chain asks for all of its folders in every generation
            name = "held" if generation == HELD else f"gen_{generation:03d}"
            self._folders[generation] = self.pools / name
        return self._folders[generation]

    def chunk(self, generation: int, index: int) -> str:
        """Return the path of a chunk of rows."""
        return f"{self.folder(generation)}/{rows_name(index)}"

    def read_chunk(self, generation: int, index: int) -> tuple[Shard, np.ndarray]:
        """Return the rows of a chunk, mapped, and their records, whether its generation is committed or not."""
        self.flush()
        return self._open(self.chunk(generation, index), f"{self.folder(generation)}/{records_name(index)}")

    def __len__(self) -> int:
        """Number of committed folders, gold included."""
        count = 0
        while self.committed(count):
            count += 1
        return count

    def manifest(self, generation: int) -> Manifest:
        """Read a committed manifest.

        Raises:
            StoreError: If there is none, or it does not match its own digest.
        """
        path = f"{self.folder(generation)}/manifest.json"
        try:
            stamp = stamp_of(path)
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
        paths = self.chunk(generation, index), f"{self.folder(generation)}/{records_name(index)}"
        self._hand_over(paths, x, records.astype(PROVENANCE))

    def _hand_over(self, paths: tuple[str, str], x: np.ndarray, records: np.ndarray) -> None:
        self._writer.submit(self._put_chunk, paths, x, records)

    def _put_chunk(self, paths: tuple[str, str], x: np.ndarray, records: np.ndarray) -> None:
        """Write rows, then their records with the digests of the rows, which nobody but the writer fills in."""
        records["digest"] = row_digests(x)
        for path, array in zip(paths, (x, records), strict=True):
            self._put(path, array)

    def flush(self) -> None:
        """Wait until every chunk handed over is written."""
        self._writer.flush()

    def _put(self, path: str, array: np.ndarray) -> None:
        commit(Path(path), *array_parts(array), durable=self.durable)
        self._verified[path] = (stamp_of(path), array_digest(array))

    def write_rejected(self, generation: int, rejected: np.ndarray) -> None:
        """Write the records (m,) of the candidates that curation left out."""
        self._put(f"{self.folder(generation)}/{REJECTED_NAME}", rejected.astype(REJECTED))

    def discard(self, generation: int, *, after: int = 0) -> None:
        """Remove the chunks of a generation that is not committed, those from number ``after`` on."""
        kept = {name(index) for index in range(after) for name in (rows_name, records_name)}
        for path in self.folder(generation).glob("chunk_*.npy"):
            if path.name not in kept:
                path.unlink()

    def rejected(self, generation: int) -> np.ndarray:
        """Return the records (m,) of the candidates that curation left out."""
        return np.load(f"{self.folder(generation)}/{REJECTED_NAME}", allow_pickle=False)

    def seal(
        self,
        generation: int,
        chunks: int,
        *,
        parent: str,
        facts: Mapping[str, Any],
        config: str = "",
        curated: bool = False,
    ) -> Manifest:
        """Commit a generation: hash its ``chunks`` chunk files and write the manifest, last of all.

        Args:
            generation: Which.
            chunks: Number of its chunks.
            parent: Digest of the manifest before.
            facts: How the rows were made.
            config: Digest of what decides the run's bytes.
            curated: Whether the file of rejected candidates belongs to it.

        Raises:
            StoreError: If a manifest already stands there with other content: the same weights, seed and generation
                gave other bytes, so this machine or software does not reproduce the one that wrote it.
        """
        self.flush()
        files = []
        for index in range(chunks):
            count = self._rows(generation, index)
            for name in (rows_name(index), records_name(index)):
                files.append((name, count, self.digest(f"{self.folder(generation)}/{name}")))
        rows = sum(count for _, count, _ in files[::2])
        if curated:
            count = len(self.rejected(generation))
            files.append((REJECTED_NAME, count, self.digest(f"{self.folder(generation)}/{REJECTED_NAME}")))
        plain = json.loads(json.dumps(facts))
        manifest = Manifest(generation, rows, files, parent, plain, config, tool_versions()).sealed()
        if self.committed(generation):
            found = self.manifest(generation)
            if not found.says_the_same(manifest):
                raise StoreError(
                    f"{self.folder(generation)} holds other rows than this run makes again; resume on the same "
                    "hardware and software (on a GPU with Trainer(deterministic=True)), or use a new run folder"
                )
            return found
        self.commit_manifest(manifest)
        return manifest

    def committed(self, generation: int) -> bool:
        """Whether a generation's rows are completely there."""
        return (self.folder(generation) / "manifest.json").exists()

    def commit_manifest(self, manifest: Manifest) -> None:
        """Write a manifest, which makes its folder part of the store."""
        content = json.dumps(manifest.to_dict(), indent=1, sort_keys=True).encode()
        self.write(str((self.folder(manifest.generation) / "manifest.json").relative_to(self.root)), content)

    def write_gold(self, gold: Samples, *, facts: Mapping[str, Any]) -> Manifest:
        """Take the real rows in as generation 0, read-only; a store that holds them already only checks them.

        Raises:
            StoreError: If the store holds other gold.
            ValueError: If a row holds NaN or an infinite value.
        """
        remove_stale(self.root)
        if not len(gold):
            raise StoreError("the gold set has no rows; a chain starts from real data")
        manifest = take_in(self, {Origin.REAL: gold}, 0, parent="", facts=facts)
        if self.durable:
            self._vault.prune()
        return manifest

    def write_held(self, held: Mapping[Origin, Samples]) -> Manifest | None:
        """Take in, beside gold, rows that nobody trains on until a mitigation names them; None if there are none.

        Raises:
            StoreError: If the store holds others.
        """
        rows = {origin: samples for origin, samples in held.items() if len(samples)}
        if not rows and not self.committed(HELD):
            return None
        counts = {origin.name.lower(): len(samples) for origin, samples in rows.items()}
        return take_in(self, rows, HELD, parent=self.manifest(0).digest, facts=counts)

    def held(self) -> Manifest | None:
        """Return the manifest of the rows that are held back; None if there are none."""
        return self.manifest(HELD) if self.committed(HELD) else None

    def write_shared(self, generation: int, name: str, array: np.ndarray, digest: str) -> None:
        """Write a file that other runs may hold as well, read-only; ``digest`` is its SHA-256."""
        path = f"{self.folder(generation)}/{name}"
        self._vault.place(array, digest, Path(path))
        self._verified[path] = (stamp_of(path), digest)

    def verify(self, manifest: Manifest) -> None:
        """Check the bytes of a generation; a file unchanged in inode, size and time since its last check is trusted.

        With gold goes what is held back.

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
                found = self.digest(path)
            except FileNotFoundError:
                raise StoreError(f"{path} is missing; is the run folder on a file system every node sees?") from None
            if found != digest:
                raise StoreError(f"{path} has other bytes than its manifest says; restore it from a backup")
        if manifest.generation == 0 and (held := self.held()) is not None:
            self.verify(held)

    def pool(self, manifests: Sequence[Manifest]) -> DataPool:
        """Return the pool of the given generations, memory-mapped; what is held back comes behind gold.

        One that starts at gold grows out of the last such one: a long chain asks for it in every generation.
        """
        if not manifests or manifests[0].generation != 0:
            return DataPool(*self._joined(manifests))
        held = self.held()
        manifests = manifests if held is None else [manifests[0], held, *manifests[1:]]
        digests, (known, before) = [manifest.digest for manifest in manifests], self._pool
        if digests == known and before is not None:
            return before
        if before is None or digests[: len(known)] != known:
            known, before = [], None
        pool = DataPool(*self._joined(manifests[len(known) :]), before)
        self._pool = (digests, pool)
        return pool

    def _joined(self, manifests: Sequence[Manifest]) -> tuple[list[Shard], list[np.ndarray]]:
        parts = []
        for manifest in manifests:
            folder = self.folder(manifest.generation)
            parts += [self._open(f"{folder}/{rows}", f"{folder}/{records}") for rows, records in manifest.chunks]
        return [shard for shard, _ in parts], [records for _, records in parts]

    def _open(self, rows: str, records: str) -> tuple[Shard, np.ndarray]:
        return MappedArray(rows), np.load(records, allow_pickle=False)

    def _rows(self, generation: int, index: int) -> int:
        return len(MappedArray(self.chunk(generation, index)))

    def digest(self, path: str, *, afresh: bool = False) -> str:
        """Return the SHA-256 of a file; one unchanged in inode, size and time is hashed once, unless ``afresh``."""
        stamp = stamp_of(path)
        known = self._verified.get(path)
        if afresh or known is None or known[0] != stamp:
            known = self._verified[path] = (stamp, file_digest(Path(path)))
        return known[1]
