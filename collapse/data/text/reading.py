"""Text files as documents, read piece by piece: a file may be larger than memory."""

from __future__ import annotations

import codecs
import difflib
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from collapse.data.ingest.text import json_texts

__all__ = ["RULES", "Piece", "Rule", "named_rule", "numbered", "read_json_lines", "read_plain"]

BLOCK = 1 << 20
"""Bytes of a file that are read at a time."""


class Piece(NamedTuple):
    """Some text of a document; its pieces follow each other, and their text joined is the document's.

    Attributes:
        document: Number of the document, from 0 and without gaps.
        text: Never empty.
    """

    document: int
    text: str


class Rule(NamedTuple):
    """What divides a file into documents.

    Attributes:
        line: Matches the end of the line before a dividing line, and that line but for its own end; a pattern that
            begins with a line's end is found ten times as fast as one that begins with ``^``. None for no such lines.
        kept: Whether it is the first line of the next document; it belongs to no document otherwise.
    """

    line: re.Pattern[str] | None
    kept: bool = False


RULES = {
    "file": Rule(None),
    "paragraph": Rule(re.compile(r"\n[ \t\r]*(?=\n)")),
    "article": Rule(re.compile(r"\n ?= [^=\s](?:.*[^=\s])? =[ \t\r]*(?=\n|\Z)"), kept=True),
    "end_of_text": Rule(re.compile(r"\n<\|endoftext\|>[ \t\r]*(?=\n|\Z)")),
}
"""What a document is -> what divides a file: nothing; blank lines; WikiText's ``= Title =``; a line <|endoftext|>."""


def named_rule(documents: str) -> Rule:
    """Return the rule of this name, or say which names there are."""
    if documents not in RULES:
        nearest = difflib.get_close_matches(str(documents), RULES, n=1, cutoff=0)[0]
        raise ValueError(f"documents = {documents!r} is not one of {', '.join(RULES)}; did you mean {nearest!r}?")
    return RULES[documents]


def read_plain(path: Path, rule: Rule) -> Iterator[Piece]:
    """Read the documents of a text file; those of white space alone are left out.

    Args:
        path: A file in UTF-8.
        rule: What divides it.

    Raises:
        ValueError: If a byte is not UTF-8, with its place.
    """
    number, begun = 0, False
    for block in _blocks(path):
        at = 0
        # with one end of a line before the block, a line's place in it is that of the end before it
        for line in rule.line.finditer("\n" + block) if rule.line else ():
            if begun or block[at : line.start()].strip():
                if at < line.start():
                    yield Piece(number, block[at : line.start()])
                number, begun = number + 1, False
            at = line.start() if rule.kept else line.end()
        if at < len(block) and (begun or block[at:].strip()):
            yield Piece(number, block[at:])
            begun = True


def read_json_lines(path: Path, field: str) -> Iterator[Piece]:
    """Read one document from every line of a .jsonl file; empty ones are left out.

    Raises:
        ValueError: If a line is no JSON object with a string in ``field``, with its number.
    """
    yield from (Piece(number, text) for number, text in enumerate(filter(str.strip, json_texts(path, field))))


def numbered(sources: list[Callable[[], Iterator[Piece]]]) -> Iterator[Piece]:
    """Join the documents of several sources, numbered through."""
    first = 0
    for source in sources:
        number = -1
        for number, text in source():
            yield Piece(first + number, text)
        first += number + 1


def _blocks(path: Path) -> Iterator[str]:
    """Yield a file's text in blocks that end where a line does, unless a line is longer than a block."""
    decoder, at, rest = codecs.getincrementaldecoder("utf-8")(), 0, ""
    with path.open("rb") as file:
        while True:
            data = file.read(BLOCK)
            try:
                text = decoder.decode(data, final=not data)
            except UnicodeDecodeError as error:
                offset = at + len(data) - len(error.object) + error.start  # the decoder held some bytes back
                raise ValueError(
                    f"{path} is not UTF-8: byte {offset} is 0x{error.object[error.start]:02x}; convert the file, "
                    f"iconv -f LATIN1 -t UTF-8 for one of western Europe"
                ) from None
            text = rest + (text.removeprefix("\ufeff") if at == 0 else text)
            at += len(data)
            cut = (text.rfind("\n") + 1 or len(text)) if data else len(text)
            if cut:
                yield text[:cut]
            rest = text[cut:]
            if not data:
                return
