"""Files that exist completely or not at all, and memory maps that give their memory back."""

from __future__ import annotations

import hashlib
import io
import mmap
import os
from pathlib import Path

import numpy as np

__all__ = ["MappedArray", "array_bytes", "commit", "file_digest", "remove_stale"]

_PAGE = mmap.PAGESIZE


def commit(path: Path, data: bytes, *, durable: bool = True) -> None:
    """Write ``data`` to ``path`` so that a crash leaves the old file or the new one, never a part.

    The temporary file lies in the same folder: a rename across file systems is a copy, and a copy can be cut short.

    Args:
        path: Where the file shall stand; its folder must exist.
        data: The whole content.
        durable: Force it to the disk before returning. Only a store that dies with its process may say no.
    """
    temporary = path.with_name(f"{path.name}.tmp{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if durable:
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def remove_stale(folder: Path) -> None:
    """Delete the temporary files that a killed process left under ``folder``."""
    for path in folder.rglob("*.tmp[0-9]*"):
        path.unlink(missing_ok=True)


def array_bytes(array: np.ndarray) -> bytes:
    """Return ``array`` in NumPy's .npy format, without pickle."""
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(array), allow_pickle=False)
    return buffer.getvalue()


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file as 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class MappedArray:
    """A read-only .npy file as an array whose pages can be dropped again.

    ``numpy.memmap`` keeps every page it touched resident until the map dies, so a shuffled epoch over a pool larger
    than memory slowly takes all of it. This one hands its pages back to the page cache every ``budget`` bytes.
    Pickles as its path: each worker process opens a map of its own.
    """

    def __init__(self, path: Path, budget: int = 128 << 20) -> None:
        self.path, self.budget = path, budget
        self._open()

    def _open(self) -> None:
        with self.path.open("rb") as file:
            version = np.lib.format.read_magic(file)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, fortran, dtype = read(file)
            if fortran or dtype.hasobject:
                raise ValueError(f"{self.path} is not a plain C-ordered array; it was not written by this store")
            offset = file.tell()
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self.array: np.ndarray = np.ndarray(shape, dtype, buffer=self._map, offset=offset)
        self._touched = 0

    def __len__(self) -> int:
        return len(self.array)

    def __getitem__(self, rows: np.ndarray | slice) -> np.ndarray:
        """Return a copy of ``rows`` (never a view: its pages may be dropped at any time)."""
        taken = self.array[rows].copy() if isinstance(rows, slice) else self.array[rows]
        self._touched += len(taken) * max(self.array[:1].nbytes, _PAGE)
        if self._touched > self.budget:
            self._map.madvise(mmap.MADV_DONTNEED)
            self._touched = 0
        return taken

    def __getstate__(self) -> dict[str, object]:
        return {"path": self.path, "budget": self.budget}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._open()
