"""A store whose rows stay in memory, for chains that are gone with their process."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from torch import Tensor

from collapse.data.files import array_digest, array_parts, commit
from collapse.data.intake import records_name, rows_name
from collapse.data.journal import JOURNAL
from collapse.data.manifest import Manifest
from collapse.data.pool import Shard
from collapse.data.store import REJECTED_NAME, GenerationStore, StoreError

__all__ = ["MemoryStore"]

SMALL = 1 << 18
"""Bytes that are hashed sooner than a thread is started."""


class MemoryStore(GenerationStore):
    """Pools, manifests and weights in memory until somebody asks for the files.

    The same manifests, digests and order of events as on disk; what is left out is the disk, which an estimator with
    thousands of replicates would spend most of its time on. One process only.

    Args:
        root: The run folder.
    """

    def __init__(self, root: str | Path) -> None:
        super().__init__(root, durable=False)
        self._arrays: dict[str, np.ndarray] = {}
        self._digests: dict[str, str] = {}
        self._states: dict[int, dict[str, Tensor]] = {}

    def write_files(self) -> None:
        """Write rows, manifests and weights to the run folder, where ``GenerationStore`` finds them."""
        self.flush()
        disk = GenerationStore(self.root, durable=False)
        for path, array in self._arrays.items():
            if not Path(path).exists():
                commit(Path(path), *array_parts(array), durable=False)
        for generation, (_, manifest) in self._manifests.items():
            if not disk.committed(generation):
                disk.commit_manifest(manifest)
        for generation, state in self._states.items():
            if not (self.root / "weights" / f"gen_{generation:03d}.pt").exists():
                disk.write_state(generation, state)
        for file in self.root.glob("*.json*"):
            if file.name != JOURNAL and file.name not in disk.journal.states():
                disk.write(file.name, file.read_bytes())

    def hold(self) -> None:
        """Nothing: no other process knows of the folder."""

    def write(self, name: str, content: bytes) -> Path:
        """Write a file of the run folder, which is nobody's business until somebody asks for it."""
        commit(self.root / name, content, durable=False)
        return self.root / name

    def write_training_set(self, generation: int, rows: Tensor) -> None:
        """Nothing: its digest is in the manifest, and the rows themselves would be most of what is kept."""

    def write_shared(self, generation: int, name: str, array: np.ndarray, digest: str) -> None:
        """Keep an array that is not written at all."""
        path = f"{self.folder(generation)}/{name}"
        self._arrays[path], self._digests[path] = array, digest

    def write_state(self, generation: int, state: Mapping[str, Tensor]) -> None:
        """Keep the state dict of the model trained at ``generation``."""
        self._states[generation] = {name: value.detach().cpu().clone() for name, value in state.items()}

    def state(self, generation: int) -> dict[str, Tensor]:
        """Return the state dict of the model trained at ``generation``."""
        if generation not in self._states:
            raise StoreError(f"the weights of generation {generation} were not kept")
        return {name: value.clone() for name, value in self._states[generation].items()}

    def discard(self, generation: int, *, after: int = 0) -> None:
        """Forget the chunks of a generation that is not committed, those from number ``after`` on."""
        kept = {f"{self.folder(generation)}/{name(i)}" for i in range(after) for name in (rows_name, records_name)}
        start = f"{self.folder(generation)}/chunk_"
        self._arrays = {path: a for path, a in self._arrays.items() if path in kept or not path.startswith(start)}

    def rejected(self, generation: int) -> np.ndarray:
        """Return the records of the candidates that curation left out."""
        return self._arrays[f"{self.folder(generation)}/{REJECTED_NAME}"]

    def manifest(self, generation: int) -> Manifest:
        """Return a committed manifest."""
        return self._manifests[generation][1] if generation in self._manifests else super().manifest(generation)

    def verify(self, manifest: Manifest) -> None:
        """Check that the store has not been given another pool in the meantime; there are no files to be changed."""
        if self.manifest(manifest.generation).digest != manifest.digest:
            raise StoreError(f"{self.folder(manifest.generation)} holds another pool than the one this run was using")

    def committed(self, generation: int) -> bool:
        """Whether a generation's rows are completely there."""
        return generation in self._manifests or super().committed(generation)

    def commit_manifest(self, manifest: Manifest) -> None:
        """Make a generation part of the store."""
        self._manifests[manifest.generation] = ((0, 0, 0), manifest)

    def _hand_over(self, paths: tuple[str, str], x: np.ndarray, records: np.ndarray) -> None:
        if x.nbytes < SMALL:
            self._put_chunk(paths, x, records)
        else:
            super()._hand_over(paths, x, records)

    def _put(self, path: str, array: np.ndarray) -> None:
        self._arrays[path], self._digests[path] = array, array_digest(array)

    def _open(self, rows: str, records: str) -> tuple[Shard, np.ndarray]:
        if rows not in self._arrays:
            raise StoreError(f"{rows} was in the memory of another process, and is gone with it")
        return self._arrays[rows], self._arrays[records]

    def _rows(self, generation: int, index: int) -> int:
        return len(self._arrays[self.chunk(generation, index)])

    def digest(self, path: str, *, afresh: bool = False) -> str:
        """Return the SHA-256 of what would be a file."""
        return self._digests[path]
