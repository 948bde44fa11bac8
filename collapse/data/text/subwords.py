"""Tokenizers of parts of words, by way of Hugging Face's ``tokenizers`` (the extra ``hf``)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np

from collapse.data.text.tokenizers import Pieces, Tokenizer, text_digest

__all__ = ["BPE", "Pretrained", "SIZE"]

SIZE = 2048
"""Tokens of a BPE vocabulary, unless given."""
LEAST = 258
"""Every byte, one merge, and the end of a document."""


@dataclass(frozen=True)
class Subwords(Tokenizer):
    """What ``tokenizers`` reads from its own JSON.

    Attributes:
        model: The JSON.
    """

    model: str

    def encode(self, text: str) -> np.ndarray:
        """Return the tokens of a text, (n,) int32."""
        return np.array(self._tokenizer.encode(text, add_special_tokens=False).ids, np.int32)

    def _text(self, ids: np.ndarray) -> str:
        return self._tokenizer.decode(ids.tolist(), skip_special_tokens=False)

    @cached_property
    def _tokenizer(self) -> Any:
        try:
            tokenizer = _package().Tokenizer.from_str(self.model)
        except ValueError:
            raise
        except Exception as error:  # the package raises nothing narrower
            raise ValueError(f"the tokenizer cannot be read ({error}); save it again with tokenizers") from None
        tokenizer.no_truncation()  # it may have been saved with both, and would cut documents short or fill them up
        tokenizer.no_padding()
        tokenizer.encode_special_tokens = True  # a text that spells one out does not end there
        return tokenizer


@dataclass(frozen=True)
class BPE(Subwords):
    """Byte-pair encoding of UTF-8, trained on gold; reads and writes every text without loss.

    Attributes:
        gold: SHA-256 of gold.
        size: Most tokens, the end of a document included.

    References:
        Sennrich, Haddow, Birch, "Neural Machine Translation of Rare Words with Subword Units", ACL 2016,
        arXiv:1508.07909.
    """

    gold: str
    size: int

    @property
    def vocabulary(self) -> int:
        """Number of tokens; a short text has fewer than ``size``."""
        return self._tokenizer.get_vocab_size() + 1

    @property
    def fitted_on(self) -> str:
        """SHA-256 of gold."""
        return self.gold

    @classmethod
    def fit(cls, gold: Pieces, size: int | None = None) -> Self:
        """Train it: the same text and size make the same tokens."""
        size = SIZE if size is None else size
        package = _package()
        tokenizer = package.Tokenizer(package.models.BPE())
        tokenizer.pre_tokenizer = package.pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = package.decoders.ByteLevel()
        alphabet = package.pre_tokenizers.ByteLevel.alphabet()
        trainer = package.trainers.BpeTrainer(
            vocab_size=size - 1, initial_alphabet=sorted(alphabet), show_progress=False
        )
        tokenizer.train_from_iterator((text for _, text in gold()), trainer)
        return cls(tokenizer.to_str(), text_digest(gold), size)

    def fit_again(self, gold: Pieces) -> Self:
        """Train one of the same size on another text."""
        return self.fit(gold, self.size)


@dataclass(frozen=True)
class Pretrained(Subwords):
    """The tokenizer of a pretrained model; what it was fitted on is its maker's.

    Attributes:
        end: The token that the model was trained to end a text with.
    """

    end: int

    @property
    def vocabulary(self) -> int:
        """One more than the last token."""
        return max(self._tokenizer.get_vocab().values()) + 1

    @property
    def document(self) -> int:
        """The model's own end of a text."""
        return self.end

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read ``tokenizer.json`` from a model's folder, and what ends a text from its ``tokenizer_config.json``.

        Raises:
            FileNotFoundError: If the folder has no tokenizer.json.
            ValueError: If a file is no tokenizer's, or none says what ends a text.
        """
        path = folder / "tokenizer.json"
        if not path.is_file():
            raise FileNotFoundError(
                f"{folder} holds no tokenizer.json; write one with AutoTokenizer.from_pretrained(...).save_pretrained"
            )
        model = path.read_text(encoding="utf-8")
        settings = _settings(folder)
        end = settings.get("eos_token")
        end = end.get("content") if isinstance(end, dict) else end
        token = settings.get("eos_token_id") if end is None else cls(model, 0)._tokenizer.token_to_id(end)
        token = token[0] if isinstance(token, list) and token else token
        if not isinstance(token, int):
            raise ValueError(f"{folder} does not say what ends a text; give eos_token in its tokenizer_config.json")
        found = cls(model, token)
        if not 0 <= token < found.vocabulary:
            raise ValueError(
                f"{folder} ends a text with token {token}, and its tokenizer has {found.vocabulary}; give eos_token in "
                "its tokenizer_config.json"
            )
        return found


def _settings(folder: Path) -> dict[str, Any]:
    """Return what the JSON files beside a tokenizer say, those of the tokenizer itself first."""
    settings: dict[str, Any] = {}
    for name in ("generation_config.json", "config.json", "special_tokens_map.json", "tokenizer_config.json"):
        if (folder / name).is_file():
            try:
                content = json.loads((folder / name).read_text(encoding="utf-8"))
            except ValueError as error:
                raise ValueError(f"{folder / name} is no JSON ({error}); save the tokenizer again") from None
            settings |= content if isinstance(content, dict) else {}
    return settings


def _package() -> Any:
    """Import ``tokenizers``.

    Raises:
        ValueError: If it is not installed.
    """
    try:
        import tokenizers  # a tenth of a second, for these classes alone
    except ModuleNotFoundError:
        raise ValueError(
            "this tokenizer needs the package tokenizers; pip install 'collapse[hf]', or give tokenizer=bytes"
        ) from None
    return tokenizers
