"""The record of a run: ``metrics.jsonl``, one object per generation and metric."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from collapse.data.files import commit
from collapse.data.folder import RunFolder, StoreError

__all__ = ["LEDGER", "Ledger", "Measurement", "read_measurements"]

LEDGER = "metrics.jsonl"


@dataclass(frozen=True)
class Measurement:
    """One number.

    Attributes:
        generation: The generation measured.
        name: Metric; a Fréchet distance carries its extractor's kind in the name.
        value: The number; NaN is written as null.
        n: Rows it was computed from.
        extractor: Id of the feature extractor, None where there is none.
        floor: The same metric between two sets of real rows of the same sizes.
    """

    generation: int
    name: str
    value: float
    n: int | None = None
    extractor: str | None = None
    floor: float | None = None


class Ledger:
    """Measurements of one run, rewritten whole and atomically: a generation redone after a crash is not there twice.

    Args:
        path: The file.
        run: Name of the run.
        arm: Name of the ablation arm it belongs to.
        seed: The chain's seed.
        write: Writes the whole file, atomically; ``commit`` to ``path`` when None.
    """

    def __init__(
        self,
        path: Path,
        *,
        run: str = "",
        arm: str = "",
        seed: int = 0,
        write: Callable[[bytes], object] | None = None,
    ) -> None:
        self.path, self.run, self.arm, self.seed = path, run, arm, seed
        self._write = write or functools.partial(commit, path)
        self._rows: dict[tuple[int, str], tuple[Measurement, str]] = {}
        self.add(read_measurements(path))

    @classmethod
    def of_run(cls, folder: RunFolder, *, seed: int) -> Ledger:
        """Return the ledger of a run folder, written on record."""
        path, write = folder.root / LEDGER, functools.partial(folder.write, LEDGER)
        return cls(path, run=folder.root.name, seed=seed, write=write)

    def add(self, measurements: Iterable[Measurement]) -> None:
        """Add measurements; a second one of the same generation and name replaces the first."""
        for measurement in measurements:
            who = {"run": self.run, "arm": self.arm, "seed": self.seed}
            line = json.dumps({**who, **_plain(asdict(measurement))}) + "\n"
            self._rows[measurement.generation, measurement.name] = (measurement, line)

    def record(self, generation: int, name: str, value: float, **rest: Any) -> None:
        """Add one measurement; ``rest`` are the other fields of ``Measurement``."""
        self.add([Measurement(generation, name, value, **rest)])

    def restart(self, generation: int) -> None:
        """Forget everything measured from ``generation`` on: it is about to be measured again."""
        self._rows = {key: row for key, row in self._rows.items() if key[0] < generation}

    def commit(self) -> None:
        """Write the file, ordered by generation."""
        ordered = sorted(self._rows.values(), key=lambda row: row[0].generation)
        self._write("".join(line for _, line in ordered).encode())

    def of(self, generation: int) -> dict[str, float]:
        """Return the values measured in one generation, by name."""
        rows = (row for row, _ in self._rows.values())
        return {row.name: row.value for row in rows if row.generation == generation}


def read_measurements(path: Path) -> list[Measurement]:
    """Read a ``metrics.jsonl``; an absent file has no measurements.

    Raises:
        StoreError: If a line is none.
    """
    if not path.exists():
        return []
    names = Measurement.__dataclass_fields__
    rows = []
    for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
        try:
            content = {name: value for name, value in json.loads(line).items() if name in names}
            content["value"] = math.nan if content["value"] is None else content["value"]
            rows.append(Measurement(**content))
        except (ValueError, TypeError, KeyError, AttributeError):
            raise StoreError(f"{path} holds no measurement in line {number}; restore it from a backup") from None
    return rows


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    """Replace what JSON has no word for by null."""
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}
