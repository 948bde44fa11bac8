"""Gold and reference: whole documents are held out, never blocks of tokens that overlap in a sentence."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import numpy as np
from xxhash import xxh3_64_intdigest, xxh3_128

from collapse.data.text.corpora import Corpus
from collapse.data.text.reading import Piece
from collapse.data.text.tokenizers import Pieces
from collapse.seeding import Stream, key

__all__ = ["divided"]


def divided(corpus: Corpus, share: float, seed: int) -> tuple[Pieces, Pieces]:
    """Hold out about a share of a text: in the keyed order of their content, documents that bring it nearer to that.

    Equal documents stay together, and adding one changes little for the others. A text that is one document is cut:
    its last ``share`` is held out.

    Args:
        corpus: The text.
        share: In (0, 1), of the characters.
        seed: Of the key.

    Returns:
        Gold and reference.

    Raises:
        ValueError: If there are no documents, or several that are all equal.
    """
    digests, sizes = _documents(corpus)
    if not sizes:
        raise ValueError("the text has no document with more than white space; give another file")
    if len(sizes) == 1:
        place = round((1 - share) * sizes[0])
        return functools.partial(_cut, corpus, place, last=False), functools.partial(_cut, corpus, place, last=True)
    held = _held_out(digests, sizes, share, key(seed, Stream.DATA))
    if not held:
        raise ValueError(f"the {len(sizes)} documents of the text are all equal; gold and reference need one each")
    chosen = np.array([digest in held for digest in digests])
    return functools.partial(_of_documents, corpus, ~chosen), functools.partial(_of_documents, corpus, chosen)


def _documents(corpus: Corpus) -> tuple[list[bytes], list[int]]:
    """Return XXH3-128 and characters of each document."""
    hashes, sizes = list[xxh3_128](), list[int]()
    for document, text in corpus.pieces():
        if document == len(hashes):
            hashes.append(xxh3_128())
            sizes.append(0)
        hashes[document].update(text.encode())
        sizes[document] += len(text)
    return [value.digest() for value in hashes], sizes


def _held_out(digests: list[bytes], sizes: list[int], share: float, entropy: int) -> set[bytes]:
    """Return the content of the documents to hold out; of none if there are not two different ones."""
    total: dict[bytes, int] = {}
    for digest, size in zip(digests, sizes, strict=True):
        total[digest] = total.get(digest, 0) + size
    order = sorted(total, key=lambda digest: xxh3_64_intdigest(digest, entropy))
    missing, held = share * sum(sizes), set[bytes]()
    for digest in order:
        if total[digest] < 2 * missing and len(held) < len(order) - 1:  # nearer with it than without it
            held.add(digest)
            missing -= total[digest]
    return held or set(sorted(order, key=total.__getitem__)[: len(order) > 1])


def _of_documents(corpus: Corpus, chosen: np.ndarray) -> Iterator[Piece]:
    """Read the chosen documents, numbered anew."""
    numbers = np.cumsum(chosen) - 1
    for document, text in corpus.pieces():
        if chosen[document]:
            yield Piece(int(numbers[document]), text)


def _cut(corpus: Corpus, place: int, *, last: bool) -> Iterator[Piece]:
    """Read the only document up to character ``place``, or the rest of it."""
    at = 0
    for _, text in corpus.pieces():
        split = min(max(place - at, 0), len(text))
        at += len(text)
        part = text[split:] if last else text[:split]
        if part:
            yield Piece(0, part)
