"""A text as one long vector of tokens, in memory or on disk, and its rows: blocks that do not overlap."""

from __future__ import annotations

import contextlib
import itertools
import json
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from collapse.data.cache import cache_folder
from collapse.data.files import MappedArray, commit, file_digest, make_folder
from collapse.data.gold import ABANDONED
from collapse.data.text.choosing import tokenizer_of
from collapse.data.text.tokenizers import Pieces, Tokenizer, token_type

__all__ = ["IN_MEMORY", "TokenBlocks", "Tokens", "blocks", "in_memory", "on_disk", "parts_of"]

IN_MEMORY = 64 << 20
"""Bytes of text up to which tokens are made anew in memory; those of longer texts are kept in the cache."""
PART = 1 << 20
"""Tokens that are looked at at a time."""

Vector = np.ndarray | MappedArray


class Tokens(NamedTuple):
    """A text in tokens.

    Attributes:
        tokenizer: Whose they are.
        gold: (n,) tokens of gold, each document followed by ``tokenizer.document``; uint16 or int32.
        reference: (m,) those of the reference.
    """

    tokenizer: Tokenizer
    gold: Vector
    reference: Vector

    @property
    def unknown(self) -> int:
        """How many tokens of the reference stand for something that the tokenizer does not know."""
        token = self.tokenizer.unknown
        return 0 if token is None else sum(int((part == token).sum()) for part in parts_of(self.reference))


class TokenBlocks(MappedArray):
    """A file of tokens as rows of ``length`` of them; what is left at its end is no row.

    Args:
        path: An .npy file with one axis.
        length: Tokens of a row, L.
    """

    def __init__(self, path: str | Path, length: int) -> None:
        super().__init__(path)
        self.shape = (self.shape[0] // length, length)
        self._width = self.dtype.itemsize * length


def blocks(tokens: Vector, length: int) -> Vector:
    """Cut tokens (n,) into rows (n // length, length), a view where they are in memory."""
    if isinstance(tokens, MappedArray):
        return TokenBlocks(tokens.path, length)
    return tokens[: len(tokens) // length * length].reshape(-1, length)


def parts_of(tokens: Vector) -> Iterator[np.ndarray]:
    """Yield tokens (n,) in order, a part at a time."""
    rows = blocks(tokens, PART)
    yield from (rows[row : row + 1].reshape(-1) for row in range(len(rows)))
    rest = len(rows) * PART
    if isinstance(tokens, MappedArray):
        yield tokens[rest : len(tokens)]
    else:
        yield tokens[rest:]


def in_memory(gold: Pieces, reference: Pieces, fit: Callable[[Pieces], Tokenizer]) -> Tokens:
    """Fit a tokenizer on gold and hold the tokens of both in memory."""
    tokenizer = fit(gold)
    empty = np.empty(0, token_type(tokenizer.vocabulary))
    vectors = [np.concatenate([empty, *_encoded(pieces, tokenizer)]) for pieces in (gold, reference)]
    return Tokens(tokenizer, vectors[0], vectors[1])


def on_disk(name: str, divide: Callable[[], tuple[Pieces, Pieces]], fit: Callable[[Pieces], Tokenizer]) -> Tokens:
    """Do the same in the cache, once; the memory needed does not grow with the text.

    ``tokens.json`` is written last, with the tokenizer and the SHA-256 of both vectors. Whatever does not agree with it
    is made again.

    Args:
        name: Of the folder: a digest of all that the tokens depend on.
        divide: Returns gold and reference.
        fit: Returns the tokenizer of gold.
    """
    folder = cache_folder() / "tokens" / name
    paths = [folder / "gold.npy", folder / "reference.npy"]
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        content = json.loads((folder / "tokens.json").read_bytes())
        if content["files"] == [file_digest(path) for path in paths]:
            return Tokens(tokenizer_of(content["tokenizer"]), MappedArray(paths[0]), MappedArray(paths[1]))
    parts = divide()
    tokenizer = fit(parts[0])
    for path, pieces in zip(paths, parts, strict=True):
        _write(path, _encoded(pieces, tokenizer), token_type(tokenizer.vocabulary))
    content = {"tokenizer": tokenizer.content(), "files": [file_digest(path) for path in paths]}
    commit(folder / "tokens.json", json.dumps(content).encode())
    return Tokens(tokenizer, MappedArray(paths[0]), MappedArray(paths[1]))


def _encoded(pieces: Pieces, tokenizer: Tokenizer) -> Iterator[np.ndarray]:
    """Yield the tokens of pieces, and after the last one of each document the token that ends it."""
    stored = token_type(tokenizer.vocabulary)
    end = np.array([tokenizer.document], stored)
    for _, document in itertools.groupby(pieces(), key=lambda piece: piece.document):
        for _, text in document:
            yield tokenizer.encode(text).astype(stored)
        yield end


def _write(path: Path, parts: Iterator[np.ndarray], dtype: np.dtype) -> None:
    """Write a vector whose length only its last part tells; the file is there completely or not at all."""
    make_folder(path.parent)
    for left in path.parent.glob(f"{path.name}.tmp*"):  # by a process that was killed
        with contextlib.suppress(FileNotFoundError):
            if time.time() - left.stat().st_mtime > ABANDONED:
                left.unlink()
    # Not by the process's number, which containers that share a cache have in common.
    temporary = path.with_name(f"{path.name}.tmp{uuid.uuid4().hex}")
    try:
        with temporary.open("wb") as file:
            file.write(_header(0, dtype))
            count = 0
            for part in parts:
                file.write(part.data)
                count += len(part)
            file.seek(0)
            file.write(_header(count, dtype))
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _header(count: int, dtype: np.dtype) -> bytes:
    """Return the header of an .npy file in 128 bytes, whatever the number of its values."""
    text = f"{{'descr': {np.lib.format.dtype_to_descr(dtype)!r}, 'fortran_order': False, 'shape': ({count},), }}"
    return b"\x93NUMPY\x01\x00" + (118).to_bytes(2, "little") + text.ljust(117).encode() + b"\n"
