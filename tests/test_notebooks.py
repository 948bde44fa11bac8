"""Every notebook's code runs, top to bottom."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs(path, capsys):
    cells = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
    assert all(not cell["outputs"] for cell in cells), "clear the outputs before committing"
    namespace: dict[str, object] = {}
    for cell in cells:
        exec("".join(cell["source"]), namespace)  # our own file
    printed = capsys.readouterr().out
    assert len(printed.splitlines()) == 4
    replace, anchor = namespace["replace"], namespace["anchor"]
    assert replace.records[-1].metrics["coverage"] < replace.records[0].metrics["coverage"] / 1.2
    assert anchor.records[-1].metrics["coverage"] > replace.records[-1].metrics["coverage"]
