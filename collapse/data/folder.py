"""The run folder: every file in it is written completely or not at all, and on record."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from collapse.data.files import array_parts, commit, sync_folder, tensor_bytes
from collapse.data.journal import Journal
from collapse.data.lock import RunLock

__all__ = ["RunFolder", "StoreError"]


class StoreError(RuntimeError):
    """A store that cannot be trusted: a file is missing, has other bytes, or belongs to another chain."""


class RunFolder:
    """What one run leaves on disk.

    Args:
        root: The folder.
        durable: Force every file to the disk. False only for a folder that dies with its process.

    Attributes:
        journal: What the folder may hold.
        lock: Held by the one process that writes.
    """

    def __init__(self, root: str | Path, *, durable: bool = True) -> None:
        self.root, self.durable = Path(root), durable
        self.journal, self.lock = Journal(self.root, durable=durable), RunLock(self.root)

    def write(self, name: str, content: bytes) -> Path:
        """Write a file of the run folder, on record: a crash leaves the old one or the new one, and both are known.

        Args:
            name: Path relative to the run folder.
            content: All of its bytes.

        Returns:
            Where it stands now.
        """
        path = self.root / name
        with self._announced({name: hashlib.sha256(content).hexdigest()}):
            commit(path, content, durable=self.durable)
        return path

    def remove(self, *names: str) -> None:
        """Remove files of the run folder, on record."""
        if not names:
            return
        with self._announced(dict.fromkeys(names)):
            for name in names:
                (self.root / name).unlink(missing_ok=True)
            for folder in {(self.root / name).parent for name in names} if self.durable else ():
                sync_folder(folder)

    def hold(self) -> None:
        """Take the folder's lock; what other processes wrote until then is known from now on.

        Raises:
            LockedError: If another process holds it.
        """
        self.lock.acquire()
        self.journal.forget()

    @contextlib.contextmanager
    def _announced(self, changes: Mapping[str, str | None]) -> Iterator[None]:
        """Do in the block what the journal then says; if it fails, the next entry finds out how far it came."""
        self.journal.announce(changes)
        try:
            yield
        except BaseException:
            self.journal.forget()
            raise

    def write_state(self, generation: int, state: Mapping[str, Tensor]) -> None:
        """Write the state dict of the model trained at ``generation``, on the CPU; same bytes for same weights."""
        content = {name: value.detach().cpu() for name, value in state.items()}
        self.write(f"weights/gen_{generation:03d}.pt", tensor_bytes(content))

    def write_training_set(self, generation: int, rows: Tensor) -> None:
        """Write which pool rows (n,) or (n, R) ``generation`` trained on."""
        self.write(f"training/gen_{generation:03d}.npy", b"".join(array_parts(rows.numpy().astype("<u4"))))

    def training_set(self, generation: int) -> np.ndarray:
        """Read which pool rows ``generation`` trained on, (n,) or (n, R).

        Raises:
            StoreError: If it is not known.
        """
        path = self.root / "training" / f"gen_{generation:03d}.npy"
        if not path.exists():
            raise StoreError(f"{path} does not exist: what generation {generation} trained on was not kept")
        return np.load(path, allow_pickle=False)

    def state(self, generation: int) -> dict[str, Tensor]:
        """Read the state dict of the model trained at ``generation``, without unpickling objects.

        Raises:
            StoreError: If it was not kept.
        """
        path = self.root / "weights" / f"gen_{generation:03d}.pt"
        if not path.exists():
            raise StoreError(f"{path} does not exist: the weights of generation {generation} were not kept")
        return torch.load(path, weights_only=True, map_location="cpu")
