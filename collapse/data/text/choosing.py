"""Which tokenizer a text gets: a new one, fitted on its gold, or one that was saved."""

from __future__ import annotations

import difflib
import json
from dataclasses import fields
from pathlib import Path

from collapse.data.files import commit
from collapse.data.text.subwords import BPE, LEAST, Pretrained
from collapse.data.text.tokenizers import Bytes, Characters, Pieces, Tokenizer, text_digest
from collapse.data.vision import expanded

__all__ = ["TOKENIZERS", "Choice", "read_tokenizer", "save_tokenizer", "tokenizer_of"]

TOKENIZERS: dict[str, type[Tokenizer]] = {"bytes": Bytes, "characters": Characters, "bpe": BPE}
"""Name -> tokenizer that is fitted on gold."""
SAVED = {kind.__name__: kind for kind in (Bytes, Characters, BPE, Pretrained)}


class Choice:
    """A tokenizer as a user names it.

    Args:
        name: One of ``TOKENIZERS``, a file that ``save_tokenizer`` wrote, or the folder of a pretrained model.
        size: Tokens of a new BPE vocabulary, the end of a document included.
        refit: Whether a saved one is fitted again, on the gold there is; losses are in other units then.

    Raises:
        ValueError: If an argument is for another kind of tokenizer.
    """

    def __init__(self, name: str, size: int | None, *, refit: bool) -> None:
        self.name, self.size, self.refit = name, size, refit
        if size is not None and TOKENIZERS.get(name) is not BPE:
            raise ValueError(f"vocabulary_size = {size} is for tokenizer='bpe', got tokenizer={name!r}; leave it out")
        if size is not None and size < LEAST:
            raise ValueError(f"vocabulary_size = {size} must be at least {LEAST}: all bytes, a merge, a document's end")
        if refit and name in TOKENIZERS:
            raise ValueError(f"refit is for a saved tokenizer, and {name!r} is always fitted on gold; leave it out")

    def identity(self) -> str:
        """Return what decides the tokens of a given text."""
        saved = "" if self.name in TOKENIZERS else self._saved.identity
        return f"{'' if saved else self.name} {saved} {self.size} {self.refit}"

    def fitted(self, gold: Pieces) -> Tokenizer:
        """Return the tokenizer for a text whose gold this is.

        Raises:
            FileNotFoundError: If there is neither a name nor a file like that.
            ValueError: If a saved one was fitted on other gold and must not be fitted again.
        """
        if self.name in TOKENIZERS:
            return TOKENIZERS[self.name].fit(gold, self.size)
        saved = self._saved
        if self.refit:
            return saved.fit_again(gold)
        if saved.fitted_on is not None and saved.fitted_on != (digest := text_digest(gold)):
            raise ValueError(
                f"tokenizer = {self.name} was fitted on other gold ({saved.fitted_on[:12]}) than this ({digest[:12]}); "
                "give the data it was fitted on, or refit=true, after which losses are in units of their own"
            )
        return saved

    @property
    def _saved(self) -> Tokenizer:
        path = expanded(self.name, "tokenizer")
        if not _exists(path):
            near = difflib.get_close_matches(self.name, TOKENIZERS, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise FileNotFoundError(
                f"tokenizer = {self.name!r} is neither one of {', '.join(TOKENIZERS)} nor a file or folder{hint}"
            )
        return Pretrained.read(path) if path.is_dir() else read_tokenizer(path)


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a name too long for a file
        return False


def save_tokenizer(tokenizer: Tokenizer, path: str | Path) -> None:
    """Write a tokenizer to a JSON file, to be named as ``tokenizer`` of other data."""
    commit(Path(path), json.dumps(tokenizer.content(), indent=1).encode())


def read_tokenizer(path: Path) -> Tokenizer:
    """Read a file that ``save_tokenizer`` wrote.

    Raises:
        ValueError: If it is none.
    """
    try:
        return tokenizer_of(json.loads(path.read_bytes()))
    except (ValueError, TypeError, KeyError):
        raise ValueError(
            f"{path} is no tokenizer that was saved here; give the folder of a model for its tokenizer.json"
        ) from None


def tokenizer_of(content: dict[str, object]) -> Tokenizer:
    """Make a tokenizer from its ``content``.

    Raises:
        ValueError, TypeError, KeyError: If it is none's.
    """
    values = dict(content)
    kind = SAVED[str(values.pop("tokenizer"))]
    for field in fields(kind):
        if type(values.get(field.name)).__name__ != field.type:
            raise TypeError(f"{field.name} must be of type {field.type}")
    return kind(**values)  # type: ignore[arg-type]
