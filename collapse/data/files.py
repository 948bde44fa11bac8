"""Files that exist completely or not at all, and memory maps that give their memory back."""

from __future__ import annotations

import hashlib
import io
import itertools
import math
import os
import re
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = [
    "MappedArray",
    "array_digest",
    "array_parts",
    "commit",
    "file_digest",
    "is_temporary",
    "make_folder",
    "remove_stale",
    "stamp_of",
    "sync_folder",
    "tensor_bytes",
]


_COUNTER = itertools.count()
_TEMPORARY = re.compile(r".+\.(npy|json|jsonl|yaml|pt|ckpt|png|txt)\.tmp\d+")


def commit(path: Path, *parts: bytes | memoryview, durable: bool = True, mode: int | None = None) -> None:
    """Write ``parts`` to ``path`` so that a crash leaves the old file or the new one, never a part.

    The temporary file lies in the same folder: a rename across file systems is a copy, and a copy can be cut short.

    Args:
        path: Where the file shall stand; its folder is made if it is not there.
        parts: The whole content, in order.
        durable: Force it to the disk before returning. Only a store that dies with its process may say no.
        mode: Permissions of the file, from its first moment; the usual ones when None.
    """
    make_folder(path.parent, durable=durable)
    temporary = path.with_name(f"{path.name}.tmp{os.getpid()}{next(_COUNTER):06d}")  # of no other thread's
    try:
        with temporary.open("wb") as file:
            for part in parts:
                file.write(part)
            file.flush()
            if mode is not None:
                os.fchmod(file.fileno(), mode)
            if durable:
                os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(path)  # a full disk does not say where
        raise
    if durable:
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Force the names in a folder to the disk: of files made, renamed or removed."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def make_folder(folder: Path, *, durable: bool = True) -> None:
    """Make a folder and those above it, unless they are there, and force their names to the disk."""
    if folder.is_dir():
        return
    make_folder(folder.parent, durable=durable)
    folder.mkdir(exist_ok=True)
    if durable:
        sync_folder(folder.parent)


def is_temporary(name: str) -> bool:
    """Whether a file of this name is one that ``commit`` had not renamed yet when its process was killed."""
    return _TEMPORARY.fullmatch(name) is not None


def remove_stale(root: Path) -> None:
    """Delete the temporary files that a killed process left in a run folder, and nothing else."""
    own = (root / name for name in ("checkpoints", "figures", "training", "weights"))
    folders = (root, *own, *root.glob("generations/*"))
    for folder in folders:
        for path in folder.glob("*.tmp*"):
            if is_temporary(path.name):
                path.unlink(missing_ok=True)


def array_parts(array: np.ndarray) -> tuple[bytes, memoryview]:
    """Return header and data of ``array`` in NumPy's .npy format, the data without a copy where it is contiguous."""
    buffer = io.BytesIO()
    contiguous = np.ascontiguousarray(array)
    np.lib.format.write_array_header_1_0(buffer, np.lib.format.header_data_from_array_1_0(contiguous))
    return buffer.getvalue(), contiguous.reshape(-1).view(np.uint8).data


def array_digest(array: np.ndarray) -> str:
    """Return the SHA-256 of the .npy file of an array as 64 hex digits."""
    digest = hashlib.sha256()
    for part in array_parts(array):
        digest.update(part)
    return digest.hexdigest()


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file as 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def stamp_of(path: str) -> tuple[int, int, int]:
    """Return inode, size and time of a file: while they are the same, so are its bytes, unless somebody meant it."""
    status = os.stat(path)  # noqa: PTH116 - a Path takes longer to make than to ask
    return status.st_ino, status.st_size, status.st_mtime_ns


def tensor_bytes(content: dict[str, Any]) -> bytes:
    """Return what ``torch.save`` writes; the same bytes for the same content, as the file's name is not part of it."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


class MappedArray:
    """A read-only .npy file as an array that lives on disk.

    ``numpy.memmap`` keeps every page it touched resident until the map dies (and kernels map up to 2 MiB at a touch),
    so that a shuffled epoch over a pool larger than memory slowly takes all of it; and it keeps one file descriptor
    per file, of which a long chain runs out. These maps hold no descriptor and share a budget per process: arrays
    that do not fit into it are read row by row instead. Pickles as its path: each worker makes maps of its own.

    Args:
        path: A C-ordered array without objects.

    Raises:
        ValueError: If the file holds anything else.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        with self.path.open("rb") as file:
            version = np.lib.format.read_magic(file)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            self.shape, fortran, self.dtype = read(file)
            self._offset = file.tell()
        if fortran or self.dtype.hasobject:
            raise ValueError(f"{self.path} is not a plain C-ordered array; save it with numpy.save(allow_pickle=False)")
        self._width = self.dtype.itemsize * math.prod(self.shape[1:])
        self._array: np.ndarray | None = None

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def nbytes(self) -> int:
        """Size of the array in bytes."""
        return self._width * len(self)

    def __getitem__(self, rows: slice | np.ndarray | Tensor) -> np.ndarray:
        """Return a copy of ``rows``."""
        if _MAPS.admits(self):
            self._array = self._map() if self._array is None else self._array
            return self._array[rows].copy() if isinstance(rows, slice) else self._array[np.asarray(rows)]
        return self._read(np.arange(len(self))[rows] if isinstance(rows, slice) else np.asarray(rows))

    def elements(self, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """Return the entries (rows_i, columns_i) of the first two axes, (B, ...)."""
        if _MAPS.admits(self):
            self._array = self._map() if self._array is None else self._array
            return self._array[rows, columns]
        return self._read(rows)[np.arange(len(rows)), columns]

    def release(self) -> None:
        """Drop the map, and with it every resident page."""
        self._array = None

    def _map(self) -> np.ndarray:
        # torch, unlike Python's mmap before 3.13, closes the descriptor of a mapped file.
        size = self.path.stat().st_size
        whole = torch.from_file(str(self.path), shared=False, size=size, dtype=torch.uint8).numpy()
        return whole[self._offset : self._offset + self.nbytes].view(self.dtype).reshape(self.shape)

    def _read(self, rows: np.ndarray) -> np.ndarray:
        out = np.empty((len(rows), *self.shape[1:]), self.dtype)
        flat, width = out.reshape(-1).view(np.uint8).data, self._width
        with self.path.open("rb", buffering=0) as file:
            for place, row in enumerate(rows.tolist()):
                file.seek(self._offset + row * width)
                if file.readinto(flat[place * width : (place + 1) * width]) != width:
                    raise ValueError(f"{self.path} ends before its row {row}; restore it from a backup")
        return out

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_array": None}


class _Maps:
    """Which arrays this process has mapped, within a budget of bytes.

    An array that was not read for a while makes room for another; one that finds no room is not mapped. So the files of
    a pool that fits stay mapped, and those of a pool that does not never push each other out.
    """

    def __init__(self, budget: int, patience: int = 1000) -> None:
        self.budget, self.patience, self.reads, self.full_until = budget, patience, 0, 0
        self.last_read: weakref.WeakKeyDictionary[MappedArray, int] = weakref.WeakKeyDictionary()

    def admits(self, array: MappedArray) -> bool:
        """Whether ``array`` is or may be mapped."""
        self.reads += 1
        if array not in self.last_read and (self.reads < self.full_until or not self._make_room(array.nbytes)):
            return False
        self.last_read[array] = self.reads
        return True

    def _make_room(self, size: int) -> bool:
        room = self.budget - sum(mapped.nbytes for mapped in self.last_read)
        for mapped, read in sorted(self.last_read.items(), key=lambda item: item[1]):
            if room >= size or self.reads - read < self.patience:
                break
            mapped.release()
            del self.last_read[mapped]
            room += mapped.nbytes
        if room < size:
            self.full_until = self.reads + self.patience // 10  # do not count again for every array turned away
        return room >= size


_MAPS = _Maps(512 << 20)
