"""Text as rows of bytes: .txt files, one document each, and .jsonl files, one document a line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from collapse.data.ingest.layout import BLOCK_BYTES, Block, Findings, Layout

__all__ = ["json_texts", "read_text"]

LONGEST_LINE = 64 << 20
"""Bytes of a line of JSON, which is parsed whole."""


def read_text(path: Path, files: list[Path], layout: Layout, findings: Findings) -> Iterator[Block]:
    """Cut documents into rows of ``layout.length`` bytes, uint16 tokens in 0...255; no row holds two documents.

    Args:
        path: A file, or a folder of .txt files.
        files: In the order of the rows.
        layout: ``length`` of a row.
        findings: Told what was left over.

    Raises:
        ValueError: If no length is given, a line is no JSON object with a text, or every document is too short.
    """
    if layout.length is None:
        raise ValueError(f"{path} is text, which is cut into rows of equal length; give --length BYTES")
    length, documents, rows, dropped = layout.length, 0, 0, 0
    for file in files:
        for document in READERS[file.suffix.lower()](file, length * max(1, BLOCK_BYTES // (2 * length))):
            documents += 1
            for piece in document:
                whole = len(piece) // length
                dropped += len(piece) - whole * length
                rows += whole
                if whole:
                    tokens = np.frombuffer(piece, np.uint8, whole * length).astype(np.uint16)
                    yield Block(tokens.reshape(whole, length))
    if not rows:
        raise ValueError(f"{path} has no document of {length} bytes or more; lower --length")
    findings.notes.append(f"read {documents} documents; dropped {dropped} bytes, remainders shorter than {length}")


def _file(path: Path, piece: int) -> Iterator[Iterator[bytes]]:
    with path.open("rb") as file:
        yield iter(lambda: file.read(piece), b"")


def _lines(path: Path, piece: int) -> Iterator[Iterator[bytes]]:
    for text in json_texts(path):
        yield iter([text.encode()])


def json_texts(path: Path, field: str = "text") -> Iterator[str]:
    """Read one text from every line of a .jsonl file that is not blank.

    Args:
        path: The file.
        field: Key of the text in a line's object.

    Raises:
        ValueError: If a line is no JSON object with such a text, with its number.
    """
    with path.open("rb") as file:
        for number, line in enumerate(iter(lambda: file.readline(LONGEST_LINE + 1), b""), 1):
            if len(line) > LONGEST_LINE:
                raise ValueError(f"{path}, line {number} is longer than {LONGEST_LINE} bytes; is it one object a line?")
            if line.strip():
                yield _text(line, field, f"{path}, line {number}")


def _text(line: bytes, field: str, where: str) -> str:
    try:
        content = json.loads(line)
        text = content[field] if isinstance(content, dict) else None
        if isinstance(text, str):
            text.encode()
            return text
    except (ValueError, KeyError, RecursionError):  # UnicodeEncodeError, a lone surrogate, is a ValueError
        pass
    raise ValueError(f'{where} must be a JSON object with a string "{field}"; mend or remove it')


READERS = {".txt": _file, ".jsonl": _lines}
"""Suffix -> function that yields the documents of a file, each in pieces of whole rows but for the last."""
