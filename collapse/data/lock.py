"""The lock of a run folder: one process trains in it, and a crash leaves it open."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import platform
import time
import warnings
from pathlib import Path
from typing import BinaryIO

__all__ = ["LOCK", "LockedError", "RunLock"]

LOCK = "lock"
PATIENCE = 5.0
"""Seconds to wait for a holder that may be a process on its way out."""

_UNSUPPORTED = (errno.ENOLCK, errno.ENOTSUP, errno.EINVAL, errno.ENOSYS)


class LockedError(RuntimeError):
    """Another process is training in the run folder."""


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
        if self._file is not None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        file = self.path.open("a+b", buffering=0)
        try:
            self._wait_for(file)
        except BaseException:
            file.close()
            raise
        os.register_at_fork(after_in_child=file.close)  # a loader's worker must not hold it beyond its parent's end
        file.truncate(0)
        file.write(json.dumps({"host": platform.node(), "pid": os.getpid()}).encode())
        self._file = file

    def release(self) -> None:
        """Give the lock back."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _wait_for(self, file: BinaryIO) -> None:
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno in _UNSUPPORTED:
                    warnings.warn(
                        f"the file system of {self.path.parent} has no locks; see to it that one process trains there",
                        stacklevel=4,
                    )
                    return
                if time.monotonic() > deadline:
                    raise LockedError(
                        f"{self.path.parent} is in use by {self._holder()}; wait until it ends, or choose another "
                        "folder"
                    ) from None
                time.sleep(0.1)
            else:
                return

    def _holder(self) -> str:
        try:
            holder = json.loads(self.path.read_bytes())
            return f"process {holder['pid']} on {holder['host']}"
        except (OSError, ValueError, TypeError, KeyError):
            return "another process"

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_file": None}  # a spawned process takes it for itself
