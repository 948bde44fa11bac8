"""Text as rows: blocks, documents, prompts, the cache, and chains that keep to their text."""

import hashlib
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from collapse.data import GenerationStore, PydocText, TextFile
from collapse.data.files import MappedArray
from collapse.data.rows import Origin, Samples, decode, encode, provenance
from collapse.data.text import Characters, save_tokenizer
from collapse.data.text import tokens as text_tokens
from collapse.data.text.module import UnknownCharacters

SHORT = {"held_out": 0.4, "documents": "paragraph", "batch_size": 4}


@pytest.fixture
def path(tmp_path):
    """Four documents of 6 bytes each."""
    path = tmp_path / "a.txt"
    path.write_text("one 1\n\ntwo 2\n\nsix 6\n\nten ä")
    return path


@pytest.fixture
def cached(tmp_path, monkeypatch):
    """Make every text one that is longer than memory; returns the cache."""
    monkeypatch.setattr(text_tokens, "IN_MEMORY", -1)
    monkeypatch.setattr("collapse.data.text.module.IN_MEMORY", -1)
    monkeypatch.setenv("COLLAPSE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "tokens"


def read(path, **given):
    data = TextFile(path, **given)
    return data.gold(), data.reference()


def stream(samples):
    return np.asarray(samples.x[:]).reshape(-1).tolist()


def test_rows_are_documents_with_their_ends_cut_into_blocks(path):
    data = TextFile(path, 5, **SHORT)
    texts = ["one 1\n", "two 2\n", "six 6\n", "ten ä"]
    whole = data.decode(TextFile(path, 1, **SHORT).gold().x[:, 0])
    order = sorted((text for text in texts if f"{text}<document>" in whole), key=texts.index)
    gold, held = (
        [token for text in part for token in (*text.encode(), 256)]
        for part in (order, [text for text in texts if text not in order])
    )
    assert len(order) == 2
    assert stream(data.gold()) == gold[:10]  # 14 tokens, the last 4 left out
    assert stream(data.reference()) == held[:10]
    assert data.gold().x.dtype == np.uint16
    assert data.documents.tolist() == [0, 7]
    assert (data.vocabulary, data.document, data.length, data.classes) == (257, 256, 5, None)
    assert data.decode(torch.tensor(gold)) == order[0] + "<document>" + order[1] + "<document>"


def test_prompts_are_blocks_of_held_out_text(path):
    data = TextFile(path, 5, **SHORT)
    prompts = data.prompts(3)
    assert prompts.dtype == torch.int64
    assert prompts.shape == (4, 3)
    assert prompts.reshape(-1)[:10].tolist() == stream(data.reference())
    for length, sentence in (
        (0, "length = 0 of a prompt"),
        (15, "held-out text has 14 tokens, fewer than one row of 15"),
    ):
        with pytest.raises(ValueError, match=sentence):
            data.prompts(length)


def test_prompts_of_a_long_text_are_evenly_spaced(path, monkeypatch):
    monkeypatch.setattr("collapse.data.text.module.MOST_PROMPTS", 3)
    data = TextFile(path, 1, **SHORT)
    whole = stream(data.reference())
    assert data.prompts(1).reshape(-1).tolist() == [whole[0], whole[6], whole[13]]


def test_a_batch_reads_tokens_as_integers(path):
    batch = next(iter(TextFile(path, 2, **{**SHORT, "batch_size": None}).train_dataloader()))
    assert batch.x.dtype == torch.int32
    assert batch.x.reshape(-1).tolist() == stream(TextFile(path, 2, **SHORT).gold())


def test_a_reference_text_of_its_own(path, tmp_path):
    other = tmp_path / "b.txt"
    other.write_text("ten ä\n")
    data = TextFile([str(path)], 3, held_out=other, documents="paragraph")
    assert stream(data.reference()) == list("ten ä\n".encode())[:6]
    assert len(stream(data.gold())) == 27  # 28 tokens of four documents
    digests = "\n".join(hashlib.sha256(file.read_bytes()).hexdigest() for file in (path, other))
    assert data.sha256 == hashlib.sha256(digests.encode()).hexdigest()
    assert TextFile(path).sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("gold", [["a.txt"], ["b.txt", "a.txt"]], ids=len)
def test_a_file_that_is_trained_on_is_not_held_out(path, tmp_path, gold):
    (tmp_path / "b.txt").write_text("more\n")
    (tmp_path / "copy.txt").write_bytes(path.read_bytes())
    with pytest.raises(ValueError, match=r"held_out = '.*copy\.txt' holds the same text as a file of path"):
        TextFile([str(tmp_path / name) for name in gold], 3, held_out=str(tmp_path / "copy.txt")).gold()


def test_characters_that_gold_does_not_have_are_counted(path, tmp_path):
    other = tmp_path / "b.txt"
    other.write_text("two ö ö!\n")
    data = TextFile(path, 4, held_out=str(other), tokenizer="characters")
    with pytest.warns(UnknownCharacters, match="3 of 10 held-out tokens are characters that gold does not have"):
        rows = data.reference()
    assert data.unknown == 3
    assert data.decode(rows.x[1]) == "<unknown> <unknown><unknown>"
    assert data.tokenizer == Characters("\n 126einostwxä", data.tokenizer.gold)


def test_a_run_keeps_to_its_text(path):
    data = TextFile(path, 5, **SHORT)
    assert data.pinned() == {"sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    assert str(path) not in data.describe()
    assert data.sha256 in data.describe()
    same = {**SHORT, **data.pinned()}
    assert TextFile(path, 5, **same).describe() == data.describe()
    assert TextFile(path, 5, **{**same, "sha256": data.sha256[:8]}).sha256 == data.sha256
    path.write_text(path.read_text() + "\n\nmore")
    with pytest.raises(
        ValueError, match=rf"not sha256 = {data.sha256[:12]}; give the text it had, or leave sha256 out"
    ):
        TextFile(path, 5, **same).gold()


# texts longer than memory


def test_a_long_text_is_kept_in_the_cache_and_reads_the_same(path, cached, monkeypatch):
    kept = TextFile(path, 5, tokenizer="characters", **SHORT)
    with pytest.warns(UnknownCharacters):
        gold = kept.gold()
    assert isinstance(gold.x, MappedArray)
    files = {file.name: file.stat().st_mtime_ns for file in cached.rglob("*.*")}
    assert set(files) == {"gold.npy", "reference.npy", "tokens.json"}
    again = TextFile(path, 7, tokenizer="characters", **SHORT)  # other rows of the same tokens
    with pytest.warns(UnknownCharacters):
        again.gold()
    assert {file.name: file.stat().st_mtime_ns for file in cached.rglob("*.*")} == files
    monkeypatch.setattr("collapse.data.text.module.IN_MEMORY", 1 << 20)
    held = TextFile(path, 5, tokenizer="characters", **SHORT)
    with pytest.warns(UnknownCharacters):
        held.gold()
    assert stream(held.gold()) == stream(kept.gold())
    assert stream(held.reference()) == stream(kept.reference())
    assert held.tokenizer == kept.tokenizer
    assert held.documents.tolist() == kept.documents.tolist()
    assert held.prompts(3).equal(kept.prompts(3))
    whole = np.load(next(cached.rglob("gold.npy")), allow_pickle=False)
    assert whole[: len(whole) // 5 * 5].tolist() == stream(held.gold())


@pytest.mark.parametrize("damage", ["gold.npy", "reference.npy", "tokens.json"])
def test_a_spoiled_cache_is_made_again(path, cached, damage):
    expected = stream(TextFile(path, 5, **SHORT).gold())
    (file,) = cached.rglob(damage)
    good = file.read_bytes()
    file.write_bytes(good[:-2] + b"xx")
    data = TextFile(path, 5, **SHORT)
    assert stream(data.gold()) == expected
    assert file.read_bytes() == good


def test_the_cache_tells_what_tokens_depend_on(path, cached):
    TextFile(path, 5, **SHORT).gold()
    for change in ({"seed": 1}, {"held_out": 0.5}, {"documents": "file"}, {"field": "body"}):
        TextFile(path, 5, **{**SHORT, **change}).gold()
    assert len(list(cached.iterdir())) == 5


def test_a_failure_leaves_nothing_half_written(path, cached, monkeypatch):
    def fails(pieces, tokenizer):
        yield np.zeros(3, np.uint16)
        raise OSError("no space left")

    monkeypatch.setattr(text_tokens, "_encoded", fails)
    with pytest.raises(OSError, match="no space"):
        TextFile(path, 5, **SHORT).gold()
    assert not list(cached.rglob("*.*"))


def test_processes_of_one_number_do_not_write_one_file_and_what_a_killed_one_left_goes(path, cached, monkeypatch):
    monkeypatch.setattr(os, "getpid", lambda: 1)  # as in two containers
    expected, inner = stream(TextFile(path, 5, **SHORT).gold()), text_tokens._encoded
    folder = next(cached.iterdir())
    old, young = folder / "gold.npy.tmp1", folder / "gold.npy.tmp2"
    for left in (old, young):
        left.write_bytes(b"x")
    os.utime(old, (0, 0))
    (folder / "tokens.json").unlink()

    def overtaken(pieces, tokenizer):
        yield from inner(pieces, tokenizer)
        monkeypatch.setattr(text_tokens, "_encoded", inner)
        assert stream(TextFile(path, 5, **SHORT).gold()) == expected  # another process is through before this one

    monkeypatch.setattr(text_tokens, "_encoded", overtaken)
    assert stream(TextFile(path, 5, **SHORT).gold()) == expected
    assert {file.name for file in folder.iterdir()} == {"gold.npy", "reference.npy", "tokens.json", young.name}


@pytest.mark.parametrize(
    ("values", "dtype"),
    [([65_536], np.uint16), ([-1], np.uint16), ([2.5], np.int32), ([-3.0, 1.0], np.uint16), ([2**31], np.int32)],
)
def test_what_is_no_token_is_not_stored_as_another(values, dtype):
    with pytest.raises(ValueError, match=r"the model sampled values from .* integers of the type u?int"):
        encode(torch.tensor(values), np.dtype(dtype))
    assert encode(torch.tensor([0.0, 7.0]), np.dtype(dtype)).tolist() == [0, 7]


def test_vocabularies_beyond_16_bits_are_stored_as_int32(tmp_path):
    tokens = torch.tensor([[70_000, 3], [65_536, 65_535]])
    rows = encode(tokens, np.dtype(np.int32))
    assert rows.dtype == np.int32
    store = GenerationStore(tmp_path / "run")
    store.write_chunk(1, 0, rows, provenance(2, origin=Origin.SYNTHETIC, generation=1))
    store.flush()
    found = MappedArray(store.chunk(1, 0))[:]
    assert decode(torch.from_numpy(found)).equal(tokens.int())
    assert Samples(found).tensors()[0].dtype == torch.int32
    assert encode(tokens % 65_536, np.dtype(np.uint16)).dtype == np.uint16


# what comes with Python, and what others publish


def test_pydoc_text_is_divided_by_topics():
    pytest.importorskip("pydoc_data.topics")
    data = PydocText()
    gold, held = stream(data.gold()), stream(data.reference())
    assert data.vocabulary == 257
    assert 0.08 < len(held) / (len(gold) + len(held)) < 0.12
    lines = {part for part in data.decode(np.array(held)).split("\n\n") if len(part) > 80 and "<document>" not in part}
    assert len(lines) > 100
    assert not lines & set(data.decode(np.array(gold)).split("\n\n"))
    assert data.sha256 in data.describe()
    assert stream(PydocText(seed=1).gold()) != gold


def test_a_python_without_its_documentation_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    with pytest.raises(FileNotFoundError, match=r"without its documentation.* data=text_file data\.path=FILE"):
        PydocText().gold()


def test_the_real_texts():
    root = Path(os.environ.get("COLLAPSE_TEST_DATA", ""))
    plays, articles = root / "tinyshakespeare" / "input.txt", root / "wikitext-2" / "valid.txt"
    if "COLLAPSE_TEST_DATA" not in os.environ or not (plays.is_file() and articles.is_file()):
        pytest.skip("set COLLAPSE_TEST_DATA to a folder with tinyshakespeare/input.txt and wikitext-2/valid.txt")
    data = TextFile(plays, 100)
    assert (len(data.gold()), len(data.reference())) == (10_038, 1_115)  # of 1,003,855 and 111,539 characters
    found = TextFile(articles, documents="article")
    assert len(found.documents) == 53
    assert TextFile(plays, tokenizer="characters").vocabulary == 65 + 2


# what cannot be


@pytest.mark.parametrize(
    ("content", "given", "sentence"),
    [
        (b"abc\n", {}, "the gold text has 5 tokens, fewer than one row of 128; lower length, or give a longer text"),
        (b"abc\ndef", {"length": 4}, "the held-out text has 2 tokens"),
        (b"", {}, "is empty; give a file with text"),
        (b" \n ", {}, "has no document with more than white space"),
        (b"abc\xe4", {}, "a.txt is not UTF-8: byte 3 is 0xe4"),
        (b"a", {"path": "a.tx"}, "a.tx' is not there; did you mean '{}/a.txt'?"),
        (b"a", {"path": "zzz/zzz"}, "zzz/zzz' is not there; give the path of a .txt or .jsonl file"),
        (b"a", {"path": "."}, "is a folder; name its files"),
        (b"a", {"path": "a.md"}, "a.md' must end in .txt or .jsonl"),
        (b"a", {"path": "a.jsonl"}, 'a.jsonl, line 1 must be a JSON object with a string "text"'),
        (b"a", {"held_out": "b.txt"}, "held_out = 'b.txt' is not there"),
        (b"a", {"held_out": 1.0}, "held_out must lie strictly between 0 and 1, got 1.0"),
        (b"a", {"held_out": []}, "held_out names no file"),
        (b"a", {"length": 0}, "length = 0 must be at least 1 token"),
        (b"a", {"sha256": "123"}, "sha256 = '123' must be at least 8 of the digits 0-9 and a-f"),
        (b"a", {"documents": "pages"}, "documents = 'pages' is not one of file, paragraph, article, end_of_text"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_bad_input_is_one_sentence(tmp_path, content, given, sentence):
    for name in ("a.txt", "a.md", "a.jsonl"):
        (tmp_path / name).write_bytes(content)
    path = tmp_path / given.get("path", "a.txt")
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        read(path, **{name: value for name, value in given.items() if name != "path"})
    assert sentence.format(tmp_path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_tokenizer_fitted_on_other_gold_is_refused_unless_fitted_again(path, tmp_path):
    saved, other = tmp_path / "characters.json", tmp_path / "b.txt"
    other.write_text("one\n")
    save_tokenizer(TextFile(path, 5, tokenizer="characters", held_out=str(other)).tokenizer, saved)
    arguments = {**SHORT, "tokenizer": str(saved)}
    with pytest.raises(ValueError, match=r"was fitted on other gold .* or refit=true"):
        TextFile(path, 5, **arguments).gold()
    again = TextFile(path, 5, refit=True, **arguments)
    with pytest.warns(UnknownCharacters):
        again.gold()
    assert "refit=True" in again.describe()
