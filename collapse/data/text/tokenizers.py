"""Tokenizers: texts as token ids, and back. What is fitted is fitted on gold alone."""

from __future__ import annotations

import abc
import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np

from collapse.data.text.reading import Piece

__all__ = ["DOCUMENT", "UNKNOWN", "Bytes", "Characters", "Pieces", "Tokenizer", "text_digest", "token_type"]

DOCUMENT = "<document>"
"""How the end of a document is shown."""
UNKNOWN = "<unknown>"

Pieces = Callable[[], Iterator[Piece]]
"""A text that can be read more than once."""


def token_type(vocabulary: int) -> np.dtype:
    """Return the type that tokens are stored in: uint16 where it is enough, int32 otherwise."""
    return np.dtype(np.uint16 if vocabulary <= 1 << 16 else np.int32)


def text_digest(pieces: Pieces) -> str:
    """Return the SHA-256 of a text as 64 hex digits: of its UTF-8, with the byte 0xFF between documents."""
    digest, before = hashlib.sha256(), 0
    for document, text in pieces():
        digest.update(b"\xff" * (document != before) + text.encode())
        before = document
    return digest.hexdigest()


@dataclass(frozen=True)
class Tokenizer(abc.ABC):
    """Texts as token ids and back, with one more token that ends a document and that no text has in it."""

    @property
    @abc.abstractmethod
    def vocabulary(self) -> int:
        """Number of tokens, the one that ends a document included."""

    @property
    def document(self) -> int:
        """The token that ends a document: the last one."""
        return self.vocabulary - 1

    @property
    def unknown(self) -> int | None:
        """The token of what it does not know; None if it knows everything."""
        return None

    @property
    def fitted_on(self) -> str | None:
        """SHA-256 of the text it was fitted on (``text_digest``); None if it was not fitted on the data's."""
        return None

    @property
    def identity(self) -> str:
        """SHA-256 of everything that decides its tokens, as 64 hex digits."""
        return hashlib.sha256(json.dumps(self.content(), sort_keys=True).encode()).hexdigest()

    @abc.abstractmethod
    def encode(self, text: str) -> np.ndarray:
        """Return the tokens of a text, (n,) of an integer type."""

    @abc.abstractmethod
    def _text(self, ids: np.ndarray) -> str:
        """Return the text of tokens of which none ends a document."""

    def decode(self, ids: np.ndarray) -> str:
        """Return the text of tokens (n,); the end of a document reads ``<document>``.

        Raises:
            ValueError: If ``ids`` has another shape, or a token that there is not.
        """
        ids = np.asarray(ids)
        if ids.ndim != 1:
            raise ValueError(f"decode takes tokens of the shape (n,), got {ids.shape}; decode row by row")
        if ids.size and not 0 <= ids.min() <= ids.max() < self.vocabulary:
            raise ValueError(f"tokens from {ids.min()} to {ids.max()}, but they lie in [0, {self.vocabulary})")
        documents = np.split(ids, np.flatnonzero(ids == self.document))
        return DOCUMENT.join(self._text(part[part != self.document]) for part in documents)

    def content(self) -> dict[str, Any]:
        """Return what makes it again, as plain values."""
        return {"tokenizer": type(self).__name__, **asdict(self)}

    @classmethod
    def fit(cls, gold: Pieces, size: int | None = None) -> Self:
        """Fit one on gold; ``size`` is the number of its tokens, for those that leave a choice."""
        raise ValueError(f"{cls.__name__} is not fitted; leave refit out")

    def fit_again(self, gold: Pieces) -> Tokenizer:
        """Fit one with the same settings on another text."""
        return self.fit(gold)


@dataclass(frozen=True)
class Bytes(Tokenizer):
    """UTF-8: 256 tokens and the end of a document. Reads and writes every text without loss."""

    @property
    def vocabulary(self) -> int:
        """257."""
        return 257

    def encode(self, text: str) -> np.ndarray:
        """Return the bytes of a text, (n,) uint8."""
        return np.frombuffer(text.encode(), np.uint8)

    def _text(self, ids: np.ndarray) -> str:
        return ids.astype(np.uint8).tobytes().decode(errors="replace")

    @classmethod
    def fit(cls, gold: Pieces, size: int | None = None) -> Self:
        """Return it; there is nothing to fit."""
        return cls()


@dataclass(frozen=True)
class Characters(Tokenizer):
    """The characters of gold in Unicode's order, then one token for all others, then the end of a document.

    Attributes:
        alphabet: The characters.
        gold: SHA-256 of gold.
    """

    alphabet: str
    gold: str

    @property
    def vocabulary(self) -> int:
        """Number of characters, and two."""
        return len(self.alphabet) + 2

    @property
    def unknown(self) -> int:
        """The token of characters that gold does not have."""
        return len(self.alphabet)

    @property
    def fitted_on(self) -> str:
        """SHA-256 of gold."""
        return self.gold

    @classmethod
    def fit(cls, gold: Pieces, size: int | None = None) -> Self:
        """Collect the characters of gold."""
        seen = np.zeros(0x110000, bool)
        for _, text in gold():
            seen[_codes(text)] = True
        return cls("".join(map(chr, np.flatnonzero(seen).tolist())), text_digest(gold))

    def encode(self, text: str) -> np.ndarray:
        """Return the places of characters in the alphabet, (n,) int32."""
        return self._places[np.minimum(_codes(text), len(self._places) - 1)]

    def _text(self, ids: np.ndarray) -> str:
        return "".join(self._shown[ids].tolist())

    @cached_property
    def _places(self) -> np.ndarray:
        """Token of every code point up to one past the highest of the alphabet, (c,) int32."""
        codes = _codes(self.alphabet)
        places = np.full(int(codes.max(initial=0)) + 2, self.unknown, np.int32)
        places[codes] = np.arange(len(codes))
        return places

    @cached_property
    def _shown(self) -> np.ndarray:
        return np.array([*self.alphabet, UNKNOWN], object)


def _codes(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le"), np.uint32)
