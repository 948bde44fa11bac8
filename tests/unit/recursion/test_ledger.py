"""The record of a run: whole, ordered, and the same when a generation is measured twice."""

from __future__ import annotations

import json
import math

from collapse.recursion import Ledger, Measurement, read_measurements


def test_a_row_says_everything(tmp_path):
    path = tmp_path / "metrics.jsonl"
    ledger = Ledger(path, run="r", arm="replace", seed=3)
    ledger.record(0, "coverage", 0.5, n=450, extractor="classifier-1", floor=0.98)
    ledger.commit()
    assert json.loads(path.read_text()) == {
        "run": "r", "arm": "replace", "seed": 3, "generation": 0, "name": "coverage", "value": 0.5, "n": 450,
        "extractor": "classifier-1", "floor": 0.98,
    }  # fmt: skip
    assert read_measurements(path) == [Measurement(0, "coverage", 0.5, 450, "classifier-1", 0.98)]


def test_a_generation_redone_is_not_there_twice(tmp_path):
    path = tmp_path / "metrics.jsonl"
    ledger = Ledger(path)
    for generation in (0, 1):
        ledger.record(generation, "a", generation)
        ledger.record(generation, "b", 10 + generation)
    ledger.commit()
    before = path.read_bytes()
    again = Ledger(path)  # taken up after a crash in generation 1
    again.restart(1)
    assert again.of(1) == {}
    assert again.of(0) == {"a": 0, "b": 10}
    again.record(1, "a", 1)
    again.record(1, "b", 11)
    again.commit()
    assert path.read_bytes() == before


def test_rows_stand_by_generation_whenever_they_came(tmp_path):
    ledger = Ledger(tmp_path / "metrics.jsonl")
    for generation in (2, 0, 1):
        ledger.record(generation, "a", 0.0)
    ledger.commit()
    assert [row.generation for row in read_measurements(ledger.path)] == [0, 1, 2]


def test_what_json_has_no_word_for_is_null_and_reads_as_nan(tmp_path):
    ledger = Ledger(tmp_path / "metrics.jsonl")
    ledger.record(0, "a", math.nan, floor=math.inf)
    ledger.commit()
    assert "NaN" not in ledger.path.read_text()
    (row,) = read_measurements(ledger.path)
    assert math.isnan(row.value)
    assert row.floor is None


def test_an_absent_file_has_no_measurements(tmp_path):
    assert read_measurements(tmp_path / "none.jsonl") == []
