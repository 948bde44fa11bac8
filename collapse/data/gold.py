"""Gold on disk once: read-only files named by their content, to which every run with the same gold links.

``runs/.gold/3f/3f9c….npy`` holds the bytes, whose SHA-256 is its name; ``runs/a/generations/gen_000`` has hard links to
such files, so that each run folder is complete in itself.
"""

from __future__ import annotations

import contextlib
import os
import stat
import time
from pathlib import Path

import numpy as np

from collapse.data.files import array_parts, commit, file_digest, is_temporary, make_folder

__all__ = ["VAULT", "GoldVault"]

VAULT = ".gold"
"""Its name beside the run folders."""

ABANDONED = 3600.0
"""Seconds after which nobody is still writing a temporary file."""
READ_ONLY = stat.S_IRUSR | stat.S_IRGRP | stat.S_IROTH


class GoldVault:
    """The files that runs side by side share.

    Args:
        root: Where they lie. On another file system than the runs', or one that cannot be written, nothing is shared,
            and runs keep copies of their own.
        durable: See ``commit``.
    """

    def __init__(self, root: Path, *, durable: bool = True) -> None:
        self.root, self.durable = root, durable

    def place(self, array: np.ndarray, digest: str, target: Path) -> None:
        """Make ``target`` the read-only .npy file of ``array``, which has this SHA-256; only what is new is written."""
        path = self.root / digest[:2] / f"{digest}.npy"
        try:
            if not path.exists() or file_digest(path) != digest:  # a spoiled one is nobody's gold
                commit(path, *array_parts(array), durable=self.durable, mode=READ_ONLY)
            elif stat.S_IMODE(path.stat().st_mode) != READ_ONLY:
                path.chmod(READ_ONLY)
            make_folder(target.parent, durable=self.durable)
            link = target.with_name(f"{target.name}.tmp{os.getpid()}")
            link.unlink(missing_ok=True)
            link.hardlink_to(path)
            link.replace(target)
            link.unlink(missing_ok=True)  # renaming one of two names of a file to the other leaves both
        except OSError:
            commit(target, *array_parts(array), durable=self.durable, mode=READ_ONLY)

    def prune(self) -> None:
        """Remove the files that no run links to any more, and those that a process killed long ago was writing."""
        for path in self.root.glob("*/*"):
            with contextlib.suppress(FileNotFoundError):  # another process prunes
                status = path.stat()
                age = time.time() - status.st_mtime
                if status.st_nlink == 1 and (path.suffix == ".npy" or (is_temporary(path.name) and age > ABANDONED)):
                    path.unlink()
        for folder in sorted(self.root.glob("*"), reverse=True):
            _remove_if_empty(folder)
        _remove_if_empty(self.root)


def _remove_if_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):
        folder.rmdir()
