"""Text: corpora in documents, tokenizers fitted on gold, and rows of tokens."""

from collapse.data.text.choosing import read_tokenizer, save_tokenizer
from collapse.data.text.module import TextData
from collapse.data.text.sources import PydocText, TextFile
from collapse.data.text.subwords import BPE, Pretrained
from collapse.data.text.tokenizers import Bytes, Characters, Tokenizer

__all__ = [
    "BPE",
    "Bytes",
    "Characters",
    "Pretrained",
    "PydocText",
    "TextData",
    "TextFile",
    "Tokenizer",
    "read_tokenizer",
    "save_tokenizer",
]
