"""Where a text comes from: CPython's own documentation, or files."""

from __future__ import annotations

import abc
import difflib
import functools
import hashlib
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

from collapse.data.files import file_digest
from collapse.data.text.reading import Piece, named_rule, numbered, read_json_lines, read_plain
from collapse.data.vision import expanded

__all__ = ["Corpus", "TextFiles", "Topics", "without_repeats"]


class Corpus(abc.ABC):
    """Documents that can be read more than once."""

    @property
    @abc.abstractmethod
    def digest(self) -> str:
        """SHA-256 of the text as it was found, 64 hex digits."""

    @property
    @abc.abstractmethod
    def size(self) -> int:
        """About how many bytes of text there are."""

    @abc.abstractmethod
    def pieces(self) -> Iterator[Piece]:
        """Read the documents, in their order and in pieces."""


class Topics(Corpus):
    """The topics of ``pydoc_data``: what ``help()`` shows, which every CPython brings along.

    A document is a topic, in the order of their names, without the paragraphs that stood in an earlier one.
    """

    @cached_property
    def _found(self) -> list[str]:
        try:
            from pydoc_data.topics import topics
        except ImportError:
            raise FileNotFoundError(
                "this Python comes without its documentation, pydoc_data.topics; install one from python.org, conda or "
                "uv, or give a text of your own, data=text_file data.path=FILE"
            ) from None
        return [topics[name] for name in sorted(topics)]

    @cached_property
    def documents(self) -> list[str]:
        """The documents."""
        return without_repeats(self._found)

    @property
    def digest(self) -> str:
        """SHA-256 of the topics, joined by blank lines in the order of their names; each CPython has its own."""
        return hashlib.sha256("\n\n".join(self._found).encode()).hexdigest()

    @property
    def size(self) -> int:
        """Characters of the documents."""
        return sum(map(len, self.documents))

    def pieces(self) -> Iterator[Piece]:
        """Yield each document in one piece."""
        return map(Piece._make, enumerate(self.documents))


def without_repeats(texts: Sequence[str]) -> list[str]:
    """Return texts without the paragraphs that stood before, in the same text or another; without empty texts.

    Paragraphs are what blank lines divide, compared without the white space around them.
    """
    seen: set[str] = set()
    kept = []
    for text in texts:
        new = []
        for paragraph in text.split("\n\n"):
            core = paragraph.strip()
            if core and core not in seen:
                seen.add(core)
                new.append(paragraph)
        if new:
            kept.append("\n\n".join(new))
    return kept


class TextFiles(Corpus):
    """Text files, .txt or .jsonl.

    Args:
        argument: What gave the paths.
        paths: In the order of their documents.
        rule: Name of the rule for .txt files.
        field: Key of the text in a line of a .jsonl file.
    """

    def __init__(self, argument: str, paths: Sequence[Path], *, rule: str, field: str) -> None:
        self.argument, self.paths, self.rule, self.field = argument, paths, named_rule(rule), field

    @cached_property
    def digests(self) -> list[str]:
        """SHA-256 of each file."""
        return [file_digest(path) for path in self._there]

    @property
    def digest(self) -> str:
        """SHA-256 of the file; of those of all files, each on a line, if there are several."""
        found = self.digests
        return found[0] if len(found) == 1 else hashlib.sha256("\n".join(found).encode()).hexdigest()

    @property
    def size(self) -> int:
        """Bytes of the files."""
        return sum(path.stat().st_size for path in self._there)

    def pieces(self) -> Iterator[Piece]:
        """Read the files."""
        return numbered([functools.partial(self._read, path) for path in self._there])

    def _read(self, path: Path) -> Iterator[Piece]:
        if path.suffix.lower() == ".jsonl":
            return read_json_lines(path, self.field)
        return read_plain(path, self.rule)

    @cached_property
    def _there(self) -> list[Path]:
        return [_checked(self.argument, path) for path in self.paths]


def _checked(argument: str, given: Path) -> Path:
    path = expanded(given, argument)
    shown = f"{argument} = {str(path)!r}"
    if path.is_dir():
        raise ValueError(f"{shown} is a folder; name its files")
    if not path.is_file():
        names = [other.name for other in path.parent.iterdir()] if path.parent.is_dir() else []
        near = difflib.get_close_matches(path.name, names, n=1)
        hint = f"; did you mean {str(path.parent / near[0])!r}?" if near else "; give the path of a .txt or .jsonl file"
        raise FileNotFoundError(f"{shown} is not there{hint}")
    if path.suffix.lower() not in (".txt", ".jsonl"):
        raise ValueError(f"{shown} must end in .txt or .jsonl, which says how it is read; rename it")
    if not path.stat().st_size:
        raise ValueError(f"{shown} is empty; give a file with text")
    return path
