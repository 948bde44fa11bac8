"""Text as training rows: blocks of tokens."""

from __future__ import annotations

import abc
import hashlib
import json
import warnings
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from collapse.data.module import RecursiveDataModule
from collapse.data.rows import Samples
from collapse.data.text.choosing import Choice
from collapse.data.text.corpora import Corpus
from collapse.data.text.splits import divided
from collapse.data.text.tokenizers import Pieces, Tokenizer
from collapse.data.text.tokens import IN_MEMORY, Tokens, Vector, blocks, in_memory, on_disk, parts_of

__all__ = ["TextData", "UnknownCharacters"]

MOST_PROMPTS = 1 << 16
LEAST_DIGITS = 8
"""Of a SHA-256 that is given in part."""


class UnknownCharacters(UserWarning):
    """Held-out text has characters that gold does not have."""


class TextData(RecursiveDataModule):
    """Rows of ``length`` tokens, cut one after the other from documents that a token ends; the last few are left out.

    What is held out are whole documents. A tokenizer is fitted on gold alone, once, before anything is trained: its
    tokens are the unit of every loss, which would change with it. Rows are stored as uint16, or int32 where there are
    more than 65,536 tokens. The SHA-256 of the text is part of a run's identity, and a run keeps to it.

    Args:
        length: Tokens of a row, L, at least 1.
        tokenizer: ``"bytes"``, ``"characters"`` or ``"bpe"``; or a file that ``save_tokenizer`` wrote; or the folder of
            a pretrained model, whose own tokenizer and end of a text are used.
        vocabulary_size: Tokens of a BPE vocabulary, the end of a document included; None for 2048.
        refit: Fit a saved tokenizer anew on this gold, after which losses cannot be compared with those before.
        held_out: Share of the text that becomes the reference set, strictly between 0 and 1; None if that comes from
            a text of its own.
        seed: Key of the choice of its documents.
        sha256: What ``sha256`` must be, or its first characters, at least 8; None for any.
        batch_size: Rows per process and batch; None for all rows in one batch.
        num_workers: Loader processes.

    Attributes:
        length: Tokens of a row.
        tokenizer: The tokenizer.
        vocabulary: Number of tokens.
        document: The token that ends a document.
        sha256: SHA-256 of the text, 64 hex digits.

    Raises:
        FileNotFoundError: At the first read, if a file is not there.
        ValueError: If an argument is outside its range; at the first read, if the text cannot be read or is another
            one, is shorter than a row, or a saved tokenizer was fitted on other gold.
    """

    def __init__(
        self,
        length: int,
        tokenizer: str,
        *,
        vocabulary_size: int | None,
        refit: bool,
        held_out: float | None,
        seed: int,
        sha256: str | None,
        batch_size: int | None,
        num_workers: int,
    ) -> None:
        super().__init__(batch_size, num_workers)
        if length < 1:
            raise ValueError(f"length = {length} must be at least 1 token")
        if sha256 is not None and (len(sha256) < LEAST_DIGITS or set(sha256) - set("0123456789abcdef")):
            raise ValueError(f"sha256 = {sha256!r} must be at least {LEAST_DIGITS} of the digits 0-9 and a-f")
        if held_out is not None and not 0 < held_out < 1:
            raise ValueError(f"held_out must lie strictly between 0 and 1, got {held_out}")
        self.length, self.held_out, self.seed = length, held_out, seed
        self._wanted, self._choice = sha256, Choice(tokenizer, vocabulary_size, refit=refit)

    @property
    @abc.abstractmethod
    def _corpora(self) -> Sequence[Corpus]:
        """The text; a second one if what is held out comes from elsewhere."""

    @property
    def arguments(self) -> dict[str, Any]:
        """The constructor's arguments, and the SHA-256 that was found."""
        return {**super().arguments, **self.pinned()}

    def pinned(self) -> Mapping[str, Any]:
        """Return the SHA-256 of the text that is read."""
        return {"sha256": self.sha256}

    def gold(self) -> Samples:
        """Return the rows to train on."""
        return Samples(self._rows("gold", self._tokens.gold, self.length))

    def reference(self) -> Samples:
        """Return the rows of the held-out documents."""
        return Samples(self._rows("held-out", self._tokens.reference, self.length))

    def prompts(self, length: int) -> Tensor:
        """Return the beginnings that samples may be given: the held-out text in blocks of ``length`` tokens.

        Args:
            length: Tokens p of a prompt, at least 1.

        Returns:
            (M, p) int64; of more than 65,536 blocks as many, evenly spaced.
        """
        if length < 1:
            raise ValueError(f"length = {length} of a prompt must be at least 1 token")
        rows = self._rows("held-out", self._tokens.reference, length)
        chosen = np.linspace(0, len(rows) - 1, min(len(rows), MOST_PROMPTS)).astype(np.int64)
        return torch.from_numpy(rows[chosen].astype(np.int64))

    def decode(self, tokens: Tensor | np.ndarray) -> str:
        """Return the text of a row (L,); the end of a document reads ``<document>``."""
        return self.tokenizer.decode(np.asarray(torch.as_tensor(tokens).cpu()))

    @property
    def tokenizer(self) -> Tokenizer:  # type: ignore[override]
        """The tokenizer; ``collapse.data.text.save_tokenizer`` writes it to a file."""
        return self._tokens.tokenizer

    @property
    def vocabulary(self) -> int:  # type: ignore[override]
        """Number of tokens, the one that ends a document included."""
        return self.tokenizer.vocabulary

    @property
    def document(self) -> int:  # type: ignore[override]
        """The token that ends a document."""
        return self.tokenizer.document

    @cached_property
    def documents(self) -> np.ndarray:
        """Where the documents of gold begin, counted in tokens, (D,) int64; token i lies in row i // length."""
        ends, at = [np.zeros(1, np.int64)], 0
        for part in parts_of(self._tokens.gold):
            ends.append(np.flatnonzero(part == self.document) + at + 1)
            at += len(part)
        return np.concatenate(ends)[:-1]

    @property
    def unknown(self) -> int:
        """How many held-out tokens stand for something that the tokenizer does not know."""
        return self._tokens.unknown

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the text as it was found, 64 hex digits; of those of text and held-out text, if these are two."""
        digests = [corpus.digest for corpus in self._corpora]
        found = digests[0] if len(digests) == 1 else hashlib.sha256("\n".join(digests).encode()).hexdigest()
        if self._wanted is not None and not found.startswith(self._wanted):
            raise ValueError(
                f"the text has the SHA-256 {found[:12]}, not sha256 = {self._wanted[:12]}; give the text it had, or "
                "leave sha256 out to begin with this one"
            )
        return found

    @cached_property
    def _tokens(self) -> Tokens:
        name = self.sha256  # refuses another text before anything is read
        if sum(corpus.size for corpus in self._corpora) <= IN_MEMORY:
            tokens = in_memory(*self._divided(), self._choice.fitted)
        else:
            parts = [name, self._division(), self._choice.identity()]
            folder = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]
            tokens = on_disk(folder, self._divided, self._choice.fitted)
        if tokens.unknown:
            warnings.warn(
                f"{tokens.unknown} of {len(tokens.reference)} held-out tokens are characters that gold does not have; "
                "they are read as <unknown>",
                UnknownCharacters,
                stacklevel=2,
            )
        return tokens

    def _divided(self) -> tuple[Pieces, Pieces]:
        corpora = self._corpora
        if self.held_out is None:
            return corpora[0].pieces, corpora[1].pieces
        return divided(corpora[0], self.held_out, self.seed)

    def _division(self) -> dict[str, Any]:
        """What else decides which text is gold."""
        return {"held_out": self.held_out, "seed": self.seed}

    def _rows(self, part: str, tokens: Vector, length: int) -> Vector:
        rows = blocks(tokens, length)
        if not len(rows):
            raise ValueError(
                f"the {part} text has {len(tokens)} tokens, fewer than one row of {length}; lower length, or give a "
                "longer text"
            )
        return rows
