"""Plain values only: what a text may hold, what a hint may take, and what a sentence may show."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import pytest
import torch

from collapse.config import ConfigError
from collapse.config.build import usage
from collapse.config.errors import one_line
from collapse.config.hints import fits, shown
from collapse.config.reading import check_place, exists, unusual


@pytest.mark.parametrize(
    ("value", "hint", "fitting"),
    [
        (1, int, True),
        (True, int, False),
        (1.0, int, False),
        (1, float, True),
        (False, float, False),
        ("1", float, False),
        (None, int | None, True),
        (1, bool, False),
        ("a", Path, True),
        (3, str | Path, False),
        ([1, 2.5], Sequence[float], True),
        ([1, "2"], Sequence[float], False),
        ([[1], [2]], Sequence[Sequence[float]], True),
        ([1], Sequence[Sequence[float]], False),
        ("12", Sequence[str], False),
        ({"a": 1}, dict[str, int], True),
        ({"a": "b"}, dict[str, int], False),
        (16, Literal[16, "16"], True),
        (True, Literal[1], False),
        ([1], str | torch.Generator, False),  # one of several, and the others are known
        ([1], torch.Generator, True),  # nothing is known of it: its class will say
    ],
)
def test_what_fits_a_hint(value, hint, fitting):
    assert fits(value, hint) is fitting


def test_a_hint_is_shown_as_it_is_written():
    assert [shown(hint) for hint in (int, int | None, Sequence[float])] == ["int", "int | None", "Sequence[float]"]


def test_what_is_unusual_is_named():
    tree = {"a": {"b": [1, float("nan")]}, "c": 2**63, "d": -(2**63), "e": True, "f": 1e308, "g": ["${h}"], "i": "$"}
    assert [key for key, _ in unusual(tree)] == ["a.b", "c", "g"]


def test_a_line_is_one_that_any_terminal_can_show():
    assert one_line("a\n  b\tc") == "a b c"
    assert one_line("\x1b[31mred\x07 \u202e \udcff") == r"\x1b[31mred\x07 \u202e \udcff"
    assert one_line("数据 ü") == "数据 ü"
    assert one_line("x" * 90, 30) == "x" * 20 + " ... " + "x" * 10
    assert one_line("x" * 30, 30) == "x" * 30


@pytest.mark.parametrize("name", ["x" * 300, "x/" * 3000, "a\0b"])
def test_what_no_file_can_be_called(name, tmp_path):
    assert not exists(tmp_path / name)
    with pytest.raises(ConfigError, match="cannot be the name of a folder"):
        check_place(tmp_path / name)


def test_where_a_folder_can_stand(tmp_path):
    (tmp_path / "file").touch()
    for place in (tmp_path, tmp_path / "new", tmp_path / "a" / "b"):
        check_place(place)
    with pytest.raises(ConfigError, match="file is a file; choose a folder"):
        check_place(tmp_path / "file")
    with pytest.raises(ConfigError, match="lies under a file"):
        check_place(tmp_path / "file" / "run")


def test_a_size_without_memory_is_an_error_of_use():
    for make in (lambda: torch.zeros(10**15), lambda: torch.zeros(2**62, 2**62), lambda: bytearray(2**62)):
        with (
            pytest.raises(ConfigError, match=r"data: it is too large for this machine's memory; lower its sizes"),
            usage("data: "),
        ):
            make()
    with pytest.raises(RuntimeError, match="something else"), usage("data: "):
        raise RuntimeError("something else")
