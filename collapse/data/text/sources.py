"""Text that every CPython brings along, and text files."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from collapse.data.text.corpora import Corpus, TextFiles, Topics
from collapse.data.text.module import TextData
from collapse.data.text.reading import named_rule
from collapse.data.text.tokenizers import Pieces

__all__ = ["PydocText", "TextFile"]


class PydocText(TextData):
    """What CPython's ``help()`` says on 79 topics: about half a million characters that need no files.

    A document is a topic. Paragraphs that stood before, a fifth of all, are left out before anything is held out, so
    that no row of the reference is learned by heart. Other versions of CPython have other texts: see ``sha256``.

    Args:
        length: Tokens of a row, L, at least 1.
        tokenizer: ``"bytes"``, ``"characters"``, ``"bpe"``, or the path of a saved or pretrained one.
        vocabulary_size, refit: As in ``TextData``.
        held_out: Share of the text that becomes the reference set, strictly between 0 and 1, met up to a document.
        seed, sha256, batch_size, num_workers: As in ``TextData``.

    Raises:
        FileNotFoundError: At the first read, if this Python was stripped of the topics.
        ValueError: As in ``TextData``.

    References:
        Python Software Foundation, "The Python Language Reference", docs.python.org.
    """

    def __init__(
        self,
        length: int = 128,
        tokenizer: str = "bytes",
        *,
        vocabulary_size: int | None = None,
        refit: bool = False,
        held_out: float = 0.1,
        seed: int = 0,
        sha256: str | None = None,
        batch_size: int | None = 128,
        num_workers: int = 0,
    ) -> None:
        super().__init__(
            length,
            tokenizer,
            vocabulary_size=vocabulary_size,
            refit=refit,
            held_out=held_out,
            seed=seed,
            sha256=sha256,
            batch_size=batch_size,
            num_workers=num_workers,
        )

    @cached_property
    def _corpora(self) -> Sequence[Corpus]:
        return [Topics()]


class TextFile(TextData):
    """Text files: plain text in UTF-8 (.txt), or an object a line (.jsonl), of any size.

    What a document is says ``documents``: ``"file"``, a whole file; ``"paragraph"``, what blank lines divide (the
    speeches of tiny Shakespeare); ``"article"``, which a line ``= Title =`` begins (WikiText); ``"end_of_text"``, what
    lines ``<|endoftext|>`` divide (TinyStories). In a .jsonl file it is a line. Text of more than 64 MiB is kept in
    tokens under $COLLAPSE_CACHE, found again by its SHA-256, and read from there.

    Args:
        path: A file, or several in the order of their documents.
        length: Tokens of a row, L, at least 1.
        tokenizer: ``"bytes"``, ``"characters"``, ``"bpe"``, or the path of a saved or pretrained one.
        vocabulary_size, refit: As in ``TextData``.
        held_out: Share of the text that becomes the reference set, strictly between 0 and 1, met up to a document; a
            text of one document is cut. Or the file, or files, that are the reference set.
        documents: What a document of a .txt file is.
        field: Key of the text in the objects of a .jsonl file.
        seed, sha256, batch_size, num_workers: As in ``TextData``.

    Raises:
        FileNotFoundError: At the first read, if a file is not there.
        ValueError: As in ``TextData``.

    Example:
        >>> TextFile("wiki.train.txt", 64, held_out="wiki.valid.txt", documents="article").length
        64
    """

    incidental = TextData.incidental | {"path"}

    def __init__(
        self,
        path: str | Path | Sequence[str],
        length: int = 128,
        *,
        tokenizer: str = "bytes",
        vocabulary_size: int | None = None,
        refit: bool = False,
        held_out: float | str | Path | Sequence[str] = 0.1,
        documents: str = "file",
        field: str = "text",
        seed: int = 0,
        sha256: str | None = None,
        batch_size: int | None = 128,
        num_workers: int = 0,
    ) -> None:
        share = held_out if isinstance(held_out, int | float) else None
        super().__init__(
            length,
            tokenizer,
            vocabulary_size=vocabulary_size,
            refit=refit,
            held_out=share,
            seed=seed,
            sha256=sha256,
            batch_size=batch_size,
            num_workers=num_workers,
        )
        named_rule(documents)
        self.rule, self.field = documents, field
        self.paths = {"path": _paths("path", path)}
        if not isinstance(held_out, int | float):
            self.paths["held_out"] = _paths("held_out", held_out)

    @cached_property
    def _corpora(self) -> Sequence[TextFiles]:
        return [TextFiles(argument, paths, rule=self.rule, field=self.field) for argument, paths in self.paths.items()]

    def _divided(self) -> tuple[Pieces, Pieces]:
        if self.held_out is None:
            gold, reference = self._corpora
            for path, digest in zip(reference.paths, reference.digests, strict=True):
                if digest in gold.digests:
                    raise ValueError(
                        f"held_out = {str(path)!r} holds the same text as a file of path, and what is held out must "
                        "not be trained on; give another file, or a share"
                    )
        return super()._divided()

    def _division(self) -> dict[str, Any]:
        return {**super()._division(), "documents": self.rule, "field": self.field}


def _paths(argument: str, given: str | Path | Sequence[str]) -> list[Path]:
    paths = [Path(path) for path in ([given] if isinstance(given, str | Path) else given)]
    if not paths:
        raise ValueError(f"{argument} names no file; give at least one")
    return paths
