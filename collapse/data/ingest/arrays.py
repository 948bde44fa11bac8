"""Arrays in NumPy's formats: .npy read in pieces, .npz unpacked in memory. Objects, which are pickles, are refused."""

from __future__ import annotations

import contextlib
import math
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np

from collapse.data.ingest.layout import BLOCK_BYTES, Block, Findings, Layout, stored

__all__ = ["read_arrays"]

UNPACKED_BYTES = 4 << 30
"""Largest array of an .npz file, which is unpacked whole."""


def read_arrays(path: Path, files: list[Path], layout: Layout, findings: Findings) -> Iterator[Block]:
    """Read the one array of an .npy file, or x and the optional labels y of an .npz file.

    Args:
        path: The file.
        files: That file alone.
        layout: ``shape`` of a row, where rows are stored flat.
        findings: Told which other arrays there are.

    Raises:
        ValueError: If the file is damaged, holds objects, or has no rows.
    """
    with _named(path):
        x, y = _unpacked(path, findings) if path.suffix.lower() == ".npz" else (_mapped(path), None)
    x = _arranged(x, layout, path)
    size = max(1, BLOCK_BYTES // max(1, x[:1].nbytes))
    for start in range(0, len(x), size):
        part = slice(start, start + size)
        yield Block(stored(np.asarray(x[part]), str(path), start), None if y is None else y[part])


@contextlib.contextmanager
def _named(path: Path) -> Iterator[None]:
    """Make one sentence of whatever a damaged file raises: with zipfile, zlib and NumPy's parser that is anything."""
    try:
        yield
    except Exception as error:
        if str(path) in str(error):  # a sentence already
            raise
        raise ValueError(
            f"{path} is damaged ({type(error).__name__}: {' '.join(str(error).split())[:200]}); fetch it again"
        ) from None


def _mapped(path: Path) -> np.ndarray:
    with path.open("rb") as file:
        _header(file, str(path), path.stat().st_size)
    return np.load(path, mmap_mode="r", allow_pickle=False)


def _unpacked(path: Path, findings: Findings) -> tuple[np.ndarray, np.ndarray | None]:
    with zipfile.ZipFile(path) as archive:
        members = {name.removesuffix(".npy"): archive.getinfo(name) for name in archive.namelist()}
        if "x" not in members:
            raise ValueError(f"{path} holds {', '.join(members) or 'nothing'} and no x; save rows as x and labels as y")
        others = sorted(set(members) - {"x", "y"})
        if others:
            findings.notes.append(f"left out the arrays {', '.join(others)}")
        arrays = {}
        for name in ("x", "y") if "y" in members else ("x",):
            where, size = f"{name} in {path}", members[name].file_size
            if size > UNPACKED_BYTES:
                raise ValueError(f"{where} unpacks to {size} bytes; save it as .npy, which is read in pieces")
            with archive.open(members[name]) as file:
                _header(file, where, size)
            with archive.open(members[name]) as file:
                arrays[name] = np.lib.format.read_array(file, allow_pickle=False)
    y = arrays.get("y")
    return arrays["x"], None if y is None else _labels(y, len(arrays["x"]), path)


def _header(file: IO[bytes], where: str, size: int) -> None:
    """Check what an array says about itself before memory is set aside for it."""
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    if dtype.hasobject:
        raise ValueError(f"{where} holds objects; those are pickles, which run code; save numbers alone")
    if file.tell() + math.prod(shape) * dtype.itemsize > size:
        raise ValueError(f"{where} is cut short: it says that it holds {shape} of {dtype}; fetch it again")


def _arranged(x: np.ndarray, layout: Layout, path: Path) -> np.ndarray:
    if x.ndim == 0 or not x.size:
        raise ValueError(f"{path} holds no rows: its shape is {x.shape}")
    if layout.shape is None:
        return x[:, None] if x.ndim == 1 else x
    if math.prod(x.shape[1:]) != math.prod(layout.shape):
        raise ValueError(f"shape={layout.shape} does not fit the rows of {path}, which are {x.shape[1:]}")
    return x.reshape(len(x), *layout.shape)


def _labels(y: np.ndarray, rows: int, path: Path) -> np.ndarray:
    if y.shape != (rows,) or y.dtype.kind not in "iuU":
        raise ValueError(f"y in {path} must be {rows} integers or names, one per row, got {y.shape} of {y.dtype}")
    return y
