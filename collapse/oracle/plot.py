"""Figures: the law as a line, the chains as points with their intervals."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from collapse.data.files import commit
from collapse.oracle.compare import Confrontation

__all__ = ["draw", "plot"]


def plot(cells: Sequence[tuple[str, Confrontation]], path: Path) -> None:
    """Write one figure, a panel per quantity and a color per chain.

    Args:
        cells: A label and the confrontation of each chain.
        path: A .png, .svg or .pdf file.

    Raises:
        ImportError: Without matplotlib; the extra ``report`` installs it.
    """
    import matplotlib.figure

    names = list(dict.fromkeys(row.name for _, cell in cells for row in cell.rows))
    names = [name for name in names if len({row.t for _, cell in cells for row in cell.rows if row.name == name}) > 1]
    figure = matplotlib.figure.Figure(figsize=(4.2 * max(1, len(names)), 3.4), layout="constrained")
    for panel, name in zip(figure.subplots(1, max(1, len(names)), squeeze=False)[0], names, strict=False):
        for index, (label, cell) in enumerate(cells):
            draw(panel, cell, name, label=label, color=f"C{index % 10}")
        panel.set(xlabel="fits t = generation + 1", title=name, xscale="log")
    if len(cells) > 1 and names:
        figure.axes[0].legend(fontsize="x-small")
    buffer = io.BytesIO()
    figure.savefig(buffer, format=path.suffix.lstrip("."), dpi=150)
    commit(path, buffer.getvalue())


def draw(panel: Any, cell: Confrontation, name: str, *, label: str = "", color: str = "C0") -> None:
    """Draw one quantity of one chain into a matplotlib axes: its law as a line, the fits as points with intervals."""
    rows = [row for row in cell.rows if row.name == name]
    curve = cell.curves.get(name, [])
    panel.plot([t for t, _ in curve], [value for _, value in curve], color=color, linewidth=1, alpha=0.8)
    panel.plot([row.t for row in rows], [row.measured for row in rows], "o", color=color, markersize=3, label=label)
    sure = [row for row in rows if math.isfinite(row.low)]
    panel.vlines([row.t for row in sure], [row.low for row in sure], [row.high for row in sure], color=color)
