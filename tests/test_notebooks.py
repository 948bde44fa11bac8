"""Every notebook's code runs, top to bottom, and shows what it says."""

from __future__ import annotations

import json
import math
from pathlib import Path

import matplotlib as mpl
import pytest
from matplotlib import pyplot as plt

from collapse.oracle import Comparison, Confrontation

NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))


def first_chain(namespace, printed):
    """Two chains, of which the anchored one keeps more."""
    assert len(printed.splitlines()) == 4
    replace, anchor = namespace["replace"], namespace["anchor"]
    assert replace.records[-1].metrics["coverage"] < replace.records[0].metrics["coverage"] / 1.2
    assert anchor.records[-1].metrics["coverage"] > replace.records[-1].metrics["coverage"]


def closed_form(namespace, printed):
    """Ten figures of laws and chains; what they assert themselves could have failed."""
    assert printed == ""
    panels = [panel for number in plt.get_fignums() for panel in plt.figure(number).axes]
    assert len(plt.get_fignums()) == 10
    assert all(len(panel.lines) >= 2 and panel.collections for panel in panels), "a law, points, intervals"
    worst = namespace["worst"]
    for predicted, distance in ((1.0, 0.0), (1.1, 2.0), (1.5, 10.0), (math.nan, math.nan)):
        row = Comparison("E var", 1, predicted, 1.0, 1 - 0.098, 1 + 0.098, 100)
        assert float(worst({"arm": Confrontation([row], {})}, "E var")) == pytest.approx(distance, nan_ok=True)
    with pytest.raises(RuntimeError):
        worst({"arm": Confrontation([], {})}, "E var")


SHOWS = {"00_first_chain": first_chain, "01_collapse_in_closed_form": closed_form}


@pytest.fixture
def figures():
    """Draw without a screen, and leave no figure open."""
    with mpl.rc_context({"backend": "agg"}):
        yield
    plt.close("all")


@pytest.mark.usefixtures("figures")
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs(path, capsys):
    cells = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
    assert all(not cell["outputs"] for cell in cells), "clear the outputs before committing"
    namespace: dict[str, object] = {}
    for cell in cells:
        exec("".join(cell["source"]), namespace)  # our own file
    SHOWS[path.stem](namespace, capsys.readouterr().out)
