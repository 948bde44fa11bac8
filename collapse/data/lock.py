"""The lock of a run folder: one process trains in it, and a crash leaves it open."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import platform
import time
import warnings
import weakref
from pathlib import Path
from typing import BinaryIO

__all__ = ["LOCK", "LockedError", "NoLocksWarning", "RunLock"]

LOCK = "lock"
PATIENCE = 5.0
"""Seconds to wait for a holder that may be a process on its way out."""

_HELD = (errno.EAGAIN, errno.EACCES)
_UNSUPPORTED = (errno.ENOLCK, errno.ENOTSUP, errno.EINVAL, errno.ENOSYS)


class LockedError(RuntimeError):
    """Another process is training in the run folder."""


class NoLocksWarning(UserWarning):
    """The file system has no locks, so nothing keeps a second process out."""


class RunLock:
    """An exclusive lock on a run folder, the kernel's: it goes with the process that holds it, however that dies.

    Args:
        root: The run folder.
    """

    def __init__(self, root: Path) -> None:
        self.path = root / LOCK
        self._file: BinaryIO | None = None

    def acquire(self) -> None:
        """Take the lock, waiting a moment for a process that is about to end; a second time does nothing.

        Raises:
            LockedError: If another process holds it, naming it.
        """
        deadline = time.monotonic() + PATIENCE
        while self._file is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            file = self.path.open("a+b", buffering=0)
            if self._take(file):
                _FILES.add(file)
                self._file = file
                with contextlib.suppress(OSError):  # a full disk: the lock holds without its holder's name
                    file.truncate(0)
                    file.write(json.dumps({"host": platform.node(), "pid": os.getpid()}).encode())
                return
            file.close()
            if time.monotonic() > deadline:
                raise LockedError(
                    f"{self.path.parent} is in use by {self._name()}; wait until it ends, or choose another folder"
                )
            time.sleep(0.1)

    def release(self) -> None:
        """Give the lock back."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def holder(self) -> str | None:
        """Return who holds the lock, as a few words; None if nobody does. Nothing is written."""
        try:
            with self.path.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError as error:
            return self._name() if error.errno in _HELD else None
        return None

    def _take(self, file: BinaryIO) -> bool:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _HELD:
                return False
            if error.errno not in _UNSUPPORTED:
                file.close()
                raise
            warnings.warn(
                f"the file system of {self.path.parent} has no locks; see to it that one process trains there",
                NoLocksWarning,
                stacklevel=4,
            )
            return True
        # Whoever held it may have removed the file: a lock on one without a name keeps nobody out.
        return self.path.exists() and os.fstat(file.fileno()).st_ino == self.path.stat().st_ino

    def _name(self) -> str:
        try:
            holder = json.loads(self.path.read_bytes())
            return f"process {holder['pid']} on {holder['host']}"
        except (OSError, ValueError, TypeError, KeyError):
            return "another process"

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_file": None}  # a spawned process takes it for itself


_FILES: weakref.WeakSet[BinaryIO] = weakref.WeakSet()


def _let_go() -> None:
    for file in list(_FILES):
        file.close()


os.register_at_fork(after_in_child=_let_go)  # a loader's worker must not hold a lock beyond its parent's end
