"""Tokenizers: exact tokens, round trips without loss, and which gold they belong to."""

import hashlib
import json
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collapse.data.text import BPE, Bytes, Characters, Pretrained, read_tokenizer, save_tokenizer
from collapse.data.text.choosing import Choice
from collapse.data.text.reading import Piece
from collapse.data.text.tokenizers import text_digest, token_type

TEXTS = ["low lower lowest\n", "new newer newest\n", "wide wider widest ä€\n"]


def gold():
    return (Piece(number, text) for number, text in enumerate(TEXTS))


def other():
    return iter([Piece(0, "".join(TEXTS))])


@pytest.fixture(scope="module")
def bpe():
    pytest.importorskip("tokenizers")
    return BPE.fit(gold, 280)


def test_a_text_has_one_digest_however_it_comes_in_pieces():
    pieces = [Piece(0, "low lower "), Piece(0, "lowest\n"), Piece(1, TEXTS[1]), Piece(2, TEXTS[2])]
    expected = hashlib.sha256(b"\xff".join(text.encode() for text in TEXTS)).hexdigest()
    assert text_digest(gold) == text_digest(lambda: iter(pieces)) == expected != text_digest(other)


def test_bytes_are_utf8():
    assert Bytes().encode("aä€").tolist() == list("aä€".encode())
    assert (Bytes().vocabulary, Bytes().document, Bytes().unknown, Bytes().fitted_on) == (257, 256, None, None)
    assert Bytes().decode(np.array([104, 105, 256, 256, 0xC3, 0xA4, 0xFF])) == "hi<document><document>ä\ufffd"
    assert Bytes().decode(np.array([], np.int32)) == ""


def test_characters_are_those_of_gold_in_unicode_order():
    fitted = Characters.fit(gold)
    alphabet = sorted(set("".join(TEXTS)))
    assert (fitted.alphabet, fitted.fitted_on) == ("".join(alphabet), text_digest(gold))
    assert (fitted.vocabulary, fitted.unknown, fitted.document) == (len(alphabet) + 2, len(alphabet), len(alphabet) + 1)
    expected = [alphabet.index(c) if c in alphabet else fitted.unknown for c in "wide Zebra ä🙂\0"]
    tokens = fitted.encode("wide Zebra ä🙂\0")
    assert tokens.tolist() == expected
    assert fitted.decode(np.append(tokens, fitted.document)) == (
        "wide <unknown>e<unknown>r<unknown> ä<unknown><unknown><document>"
    )


def test_bpe_merges_the_most_frequent_pair_first():
    pytest.importorskip("tokenizers")
    fitted = BPE.fit(lambda: iter([Piece(0, "abababab abab cb")]), 258)
    # 4 + 2 times "ab" in words of gold, more than any other pair: token 256 of 257, then the end of a document
    assert (fitted.vocabulary, fitted.document) == (258, 257)
    assert fitted.encode("abc").tolist()[0] == 256
    assert fitted.decode(np.array([256, 257, 256])) == "ab<document>ab"


def test_bpe_is_trained_on_gold_and_ends_documents_with_a_token_of_its_own(bpe):
    assert bpe.fitted_on == text_digest(gold)
    assert (bpe.vocabulary, bpe.document, bpe.unknown) == (280, 279, None)
    tokens = bpe.encode("newest")
    assert len(tokens) < 6
    assert tokens.max() >= 256
    assert bpe.decode(tokens) == "newest"
    assert len(BPE.fit(gold).encode(" newest")) == 1  # 2048 tokens are more than there are merges


def test_bpe_is_the_same_at_every_training(bpe):
    # the package counts in tables whose order is another one each time
    assert {BPE.fit(gold, 280).identity for _ in range(5)} == {bpe.identity}


@settings(max_examples=100, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_bytes_and_bpe_lose_nothing(bpe, text):
    for tokenizer in (Bytes(), bpe):
        tokens = tokenizer.encode(text)
        assert tokenizer.decode(tokens) == text
        assert tokenizer.document not in tokens


@settings(max_examples=50, deadline=None)
@given(st.text(st.sampled_from("".join(TEXTS))))
def test_characters_of_gold_lose_nothing(text):
    fitted = Characters.fit(gold)
    assert fitted.decode(fitted.encode(text)) == text


@pytest.mark.parametrize("ids", [[257], [-1], [[1, 2]]], ids=["beyond", "negative", "rows"])
def test_what_is_no_token_is_refused(ids):
    with pytest.raises(ValueError, match=r"lie in \[0, 257\)|of the shape \(n,\)"):
        Bytes().decode(np.array(ids))


def test_tokens_are_stored_as_narrow_as_their_number_allows():
    assert token_type(1 << 16) == np.uint16
    assert token_type((1 << 16) + 1) == np.int32


# saved and pretrained


@pytest.mark.parametrize("kind", ["bytes", "characters", "bpe"])
def test_a_saved_tokenizer_comes_back_and_is_for_its_gold_alone(kind, tmp_path, bpe):
    path = tmp_path / "tokenizer.json"
    fitted = Choice(kind, None, refit=False).fitted(gold)
    save_tokenizer(fitted, path)
    assert read_tokenizer(path) == fitted
    chosen = Choice(str(path), None, refit=False)
    assert chosen.fitted(gold) == fitted
    if kind == "bytes":
        assert chosen.fitted(other) == fitted
        return
    with pytest.raises(ValueError, match=rf"fitted on other gold \({text_digest(gold)[:12]}\) than this"):
        chosen.fitted(other)
    again = Choice(str(path), None, refit=True).fitted(other)
    assert again == Choice(kind, None, refit=False).fitted(other) != fitted
    assert (
        len(
            {
                chosen.identity(),
                Choice(str(path), None, refit=True).identity(),
                Choice(kind, None, refit=False).identity(),
            }
        )
        == 3
    )


@pytest.mark.parametrize(
    ("name", "size", "refit", "sentence"),
    [
        ("bytes", 300, False, "vocabulary_size = 300 is for tokenizer='bpe', got tokenizer='bytes'; leave it out"),
        ("bpe", 257, False, "vocabulary_size = 257 must be at least 258"),
        ("bpe", None, True, "refit is for a saved tokenizer, and 'bpe' is always fitted on gold"),
        (
            "byts",
            None,
            False,
            "tokenizer = 'byts' is neither one of bytes, characters, bpe nor a file or folder; did you",
        ),
        ("x" * 5000, None, False, "is neither one of bytes, characters, bpe nor a file or folder"),
        ("{}/none.json", None, False, "none.json is no tokenizer that was saved here"),
        ("{}/list.json", None, False, "list.json is no tokenizer that was saved here"),
        ("{}/type.json", None, False, "type.json is no tokenizer that was saved here"),
        ("{}", None, False, "holds no tokenizer.json; write one"),
        ("{}/bytes.json", None, True, "Pretrained is not fitted"),
    ],
    ids=["size", "small", "refit", "near", "long", "none", "list", "type", "folder", "pretrained"],
)
def test_a_choice_that_cannot_be_is_one_sentence(tmp_path, name, size, refit, sentence):
    (tmp_path / "none.json").write_text("{")
    (tmp_path / "list.json").write_text("[1]")
    (tmp_path / "type.json").write_text(json.dumps({"tokenizer": "Characters", "alphabet": 3, "gold": "x"}))
    (tmp_path / "bytes.json").write_text(json.dumps({"tokenizer": "Pretrained", "model": "{}", "end": 3}))
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        Choice(name.format(tmp_path), size, refit=refit).fitted(gold)
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)


def test_a_pretrained_tokenizer_keeps_its_own_end_of_a_text(tmp_path, bpe):
    package = pytest.importorskip("tokenizers")
    model = package.Tokenizer.from_str(bpe.model)
    model.add_special_tokens(["<s>", "</s>"])  # tokens 279 and 280
    model.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(ValueError, match="does not say what ends a text; give eos_token"):
        Pretrained.read(tmp_path)
    (tmp_path / "config.json").write_text('{"eos_token_id": 279}')
    assert Pretrained.read(tmp_path).document == 279
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": {"content": "</s>"}}')
    chosen = Choice(str(tmp_path), None, refit=False).fitted(other)
    assert (chosen.vocabulary, chosen.document, chosen.fitted_on) == (281, 280, None)
    assert chosen.encode("newest").tolist() == bpe.encode("newest").tolist()
    assert chosen.decode(np.append(chosen.encode("newest"), 280)) == "newest<document>"
    save_tokenizer(chosen, tmp_path / "saved.json")
    assert read_tokenizer(tmp_path / "saved.json") == chosen
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config\.json is no JSON"):
        Pretrained.read(tmp_path)


def test_a_pretrained_tokenizer_neither_cuts_nor_fills_nor_ends_a_document(tmp_path, bpe):
    package = pytest.importorskip("tokenizers")
    model = package.Tokenizer.from_str(bpe.model)
    model.add_special_tokens(["</s>"])  # token 279
    model.enable_truncation(4)
    model.enable_padding(length=64)
    model.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "config.json").write_text('{"eos_token_id": 279}')
    found = Pretrained.read(tmp_path)
    for text in ("low", "low</s>er", "lower " * 50):
        assert found.encode(text).tolist() == bpe.encode(text).tolist()
    (tmp_path / "config.json").write_text('{"eos_token_id": 280}')
    with pytest.raises(ValueError, match="ends a text with token 280, and its tokenizer has 280; give eos_token"):
        Pretrained.read(tmp_path)


def test_without_the_package_the_way_out_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ValueError, match=r"needs the package tokenizers; pip install 'collapse\[hf\]'"):
        BPE.fit(gold)
