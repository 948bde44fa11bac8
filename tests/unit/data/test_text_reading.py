"""Documents: what divides files, in blocks of any size, and what cannot be read."""

import hashlib

import pytest

from collapse.data.ingest import text as ingest_text
from collapse.data.text import reading
from collapse.data.text.corpora import TextFiles, Topics, without_repeats
from collapse.data.text.reading import RULES, Piece, read_json_lines, read_plain

WIKI = " \n = One = \n \n alpha \n = = Part = = \n beta \n = Two words = \n gamma = 3 = \n"
PLAYS = "A:\nhear\n\n\nB:\nspeak\n \t\nC:\nend"
STORIES = "once\n\nupon\n<|endoftext|>\nthe end\n<|endoftext|>\n\n<|endoftext|>"


def documents(pieces):
    """Joined texts by document; their numbers must rise without gaps."""
    texts = []
    for number, text in pieces:
        assert text
        assert number in (len(texts) - 1, len(texts))
        if number == len(texts):
            texts.append("")
        texts[number] += text
    return texts


@pytest.mark.parametrize("block", [1, 2, 7, 64, 1 << 20])
@pytest.mark.parametrize(
    ("rule", "text", "expected"),
    [
        ("file", PLAYS, [PLAYS]),
        ("file", "ä€🙂\r\n", ["ä€🙂\r\n"]),
        ("paragraph", PLAYS, ["A:\nhear\n", "B:\nspeak\n", "C:\nend"]),
        ("article", WIKI, [WIKI[2 : WIKI.index(" = Two")], WIKI[WIKI.index(" = Two") :]]),
        ("end_of_text", STORIES, ["once\n\nupon\n", "the end\n"]),
    ],
)
def test_rules_divide_files_whatever_the_blocks(tmp_path, monkeypatch, rule, text, expected, block):
    if block < 64 and rule not in ("file",):
        block += 24  # a dividing line is read in one block
    monkeypatch.setattr(reading, "BLOCK", block)
    path = tmp_path / "a.txt"
    path.write_bytes(text.encode())
    assert documents(read_plain(path, RULES[rule])) == expected


def test_a_line_longer_than_blocks_comes_whole_and_a_byte_order_mark_is_none_of_it(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "BLOCK", 5)
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xef\xbb\xbf" + "äöü".encode() * 10)
    assert documents(read_plain(path, RULES["file"])) == ["äöü" * 10]


@pytest.mark.parametrize("block", [1, 3, 1 << 20])
@pytest.mark.parametrize(
    ("data", "offset", "byte"),
    [(b"abc\xff\n", 3, "ff"), ("aä".encode() + b"\n\xc3(", 4, "c3"), (b"ab\xe2\x82", 2, "e2")],
)
def test_what_is_not_utf8_is_said_with_its_place(tmp_path, monkeypatch, data, offset, byte, block):
    monkeypatch.setattr(reading, "BLOCK", block)
    path = tmp_path / "a.txt"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=rf"a\.txt is not UTF-8: byte {offset} is 0x{byte}; convert the file"):
        list(read_plain(path, RULES["file"]))


def test_json_lines_are_documents_and_share_a_reader_with_ingest(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a\\nb", "body": "x"}\n\n{"text": " ", "body": "y"}\n{"text": "\\u00e4", "body": ""}\n')
    assert list(read_json_lines(path, "text")) == [Piece(0, "a\nb"), Piece(1, "ä")]
    assert list(read_json_lines(path, "body")) == [Piece(0, "x"), Piece(1, "y")]
    with pytest.raises(ValueError, match=r'a\.jsonl, line 1 must be a JSON object with a string "content"'):
        list(read_json_lines(path, "content"))
    assert reading.json_texts is ingest_text.json_texts


def test_documents_of_several_files_are_numbered_through(tmp_path):
    (tmp_path / "a.txt").write_text("one\n\ntwo\n")
    (tmp_path / "b.txt").write_text(" \n")
    (tmp_path / "c.jsonl").write_text('{"text": "three"}\n{"text": "four"}\n')
    files = TextFiles(
        "path", [tmp_path / name for name in ("a.txt", "b.txt", "c.jsonl")], rule="paragraph", field="text"
    )
    assert documents(files.pieces()) == ["one\n", "two\n", "three", "four"]
    assert files.size == 9 + 2 + 35


def test_topics_are_whole_but_for_paragraphs_that_stood_before():
    topics = pytest.importorskip("pydoc_data.topics").topics
    found = Topics()
    texts = [topics[name] for name in sorted(topics)]
    assert found.digest == hashlib.sha256("\n\n".join(texts).encode()).hexdigest()
    paragraphs = [part.strip() for text in texts for part in text.split("\n\n") if part.strip()]
    kept = [part.strip() for text in documents(found.pieces()) for part in text.split("\n\n")]
    assert len(paragraphs) - len(kept) > 200  # a fifth comes twice
    assert kept == list(dict.fromkeys(paragraphs))


def test_repeats_are_found_within_a_text_and_across_texts():
    assert without_repeats(["a\n\n b\n\na", "b \n\n\n", "c\n\nb\n\nd"]) == ["a\n\n b", "c\n\nd"]
