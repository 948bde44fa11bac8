"""Gold on disk once: read-only files named by their content, to which every run with the same gold links.

``runs/.gold/3f/3f9c….npy`` holds the bytes, whose SHA-256 is its name; ``runs/a/generations/gen_000`` has hard links to
such files, so that each run folder is complete in itself.
"""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path

import numpy as np

from collapse.data.files import array_parts, commit, file_digest

__all__ = ["VAULT", "GoldVault"]

VAULT = ".gold"
"""Its name beside the run folders."""

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
                path.parent.mkdir(parents=True, exist_ok=True)
                commit(path, *array_parts(array), durable=self.durable)
                path.chmod(READ_ONLY)
            link = target.with_name(f"{target.name}.tmp{os.getpid()}")
            link.unlink(missing_ok=True)
            link.hardlink_to(path)
            link.replace(target)
            link.unlink(missing_ok=True)  # renaming one of two names of a file to the other leaves both
        except OSError:
            commit(target, *array_parts(array), durable=self.durable)
            target.chmod(READ_ONLY)

    def prune(self) -> None:
        """Remove the files that no run links to any more."""
        for path in self.root.glob("*/*.npy"):
            if path.stat().st_nlink == 1:
                path.unlink(missing_ok=True)
        for folder in sorted(self.root.glob("*"), reverse=True):
            _remove_if_empty(folder)
        _remove_if_empty(self.root)


def _remove_if_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):
        folder.rmdir()
