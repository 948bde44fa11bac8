"""The journal knows every state a crash can leave, and nothing else."""

import hashlib
import json

import pytest

from collapse.data.journal import JOURNAL, Journal, JournalError


def sha(content):
    return hashlib.sha256(content).hexdigest()


def states_of(root):
    return Journal(root).states()


def test_there_is_nothing_before_the_first_entry(tmp_path):
    assert states_of(tmp_path) == {}
    assert not list(tmp_path.iterdir())


def test_the_last_entry_may_not_have_been_acted_upon(tmp_path):
    journal = Journal(tmp_path)
    journal.announce({"a": sha(b"1")})
    assert states_of(tmp_path) == {"a": (sha(b"1"), None)}
    journal.announce({"a": sha(b"2"), "b": sha(b"3")})
    assert states_of(tmp_path) == {"a": (sha(b"2"), sha(b"1")), "b": (sha(b"3"), None)}
    journal.announce({"b": None})
    assert states_of(tmp_path) == {"a": (sha(b"2"),), "b": (None, sha(b"3"))}


@pytest.mark.parametrize("acted", [True, False])
def test_who_takes_up_settles_what_a_crash_left_open(tmp_path, acted):
    (tmp_path / "a").write_bytes(b"1")
    first = Journal(tmp_path)
    first.announce({"a": sha(b"1")})
    first.announce({"a": sha(b"2")})
    content = b"2" if acted else b"1"
    (tmp_path / "a").write_bytes(content)
    Journal(tmp_path).announce({"b": sha(b"3")})
    assert states_of(tmp_path) == {"a": (sha(content),), "b": (sha(b"3"), None)}


def test_what_nobody_wrote_is_not_settled(tmp_path):
    first = Journal(tmp_path)
    first.announce({"a": sha(b"1")})
    (tmp_path / "a").write_bytes(b"neither")
    Journal(tmp_path).announce({"b": sha(b"3")})
    assert states_of(tmp_path)["a"] == (sha(b"1"),)


@pytest.mark.parametrize("left", range(1, 60, 7))
def test_a_line_cut_short_was_not_acted_upon(tmp_path, left):
    journal = Journal(tmp_path)
    journal.announce({"a": sha(b"1")})
    whole = (tmp_path / JOURNAL).stat().st_size
    journal.announce({"a": sha(b"2")})
    with (tmp_path / JOURNAL).open("r+b") as file:
        file.truncate(whole + left)
    assert states_of(tmp_path) == {"a": (sha(b"1"), None)}
    (tmp_path / "a").write_bytes(b"1")
    Journal(tmp_path).announce({"c": sha(b"4")})
    assert states_of(tmp_path) == {"a": (sha(b"1"),), "c": (sha(b"4"), None)}


def three_lines(root):
    journal = Journal(root)
    for number in range(3):
        journal.announce({f"file {number}": sha(bytes([number]))})
    return root / JOURNAL


def test_no_line_can_be_left_out(tmp_path):
    path = three_lines(tmp_path)
    lines = path.read_text().splitlines(keepends=True)
    for missing in (0, 1):
        path.write_text("".join(line for place, line in enumerate(lines) if place != missing))
        with pytest.raises(JournalError, match=rf"{JOURNAL} was changed in or before line {missing + 1}"):
            states_of(tmp_path)


def test_no_bit_can_be_changed(tmp_path):
    path = three_lines(tmp_path)
    content = path.read_bytes()
    for place in range(len(content) - 1):
        for bit in range(8) if place % 7 == 0 else (0,):
            path.write_bytes(content[:place] + bytes([content[place] ^ 1 << bit]) + content[place + 1 :])
            with pytest.raises(JournalError):
                states_of(tmp_path)


@pytest.mark.parametrize("tail", [b"garbage", b"\n", b"{}", b"\xff"])
def test_what_no_crash_leaves_behind_the_last_line_is_a_fault(tmp_path, tail):
    path = three_lines(tmp_path)
    path.write_bytes(path.read_bytes() + tail)
    with pytest.raises(JournalError, match=r"was changed (after|in or before) line"):
        states_of(tmp_path)


def test_lines_are_objects_that_anyone_can_read(tmp_path):
    entries = [json.loads(line) for line in three_lines(tmp_path).read_text().splitlines()]
    assert [(entry["entry"], entry["file"]) for entry in entries] == [(n + 1, f"file {n}") for n in range(3)]
    assert len({entry["digest"] for entry in entries}) == 3
