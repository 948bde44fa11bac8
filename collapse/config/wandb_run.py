"""What W&B holds of a run, put together from all of its run files: one for every time it was started."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from collapse.config.wandb_file import set_items, wandb_files, wandb_records

__all__ = ["STEP", "WandbRow", "WandbRun", "merged_rows", "wandb_runs"]

STEP = "trainer/global_step"
"""What Lightning puts in every row it logs."""


@dataclass(frozen=True)
class WandbRow:
    """One row of a history.

    Attributes:
        values: What was logged, by name; media and tables as dicts with their ``_type`` and where their files are.
        folder: What those places are relative to.
    """

    values: dict[str, Any]
    folder: Path

    @property
    def identity(self) -> tuple[float, frozenset[str]] | None:
        """What a replayed row has in common with the first: its step, and which names it gives values to."""
        if STEP not in self.values:
            return None
        return self.values[STEP], frozenset(name for name in self.values if not name.startswith("_"))


@dataclass
class WandbRun:
    """One run.

    Attributes:
        about: ``id``, ``project``, ``entity``, ``name``, ``group``, ``job_type`` and ``tags``.
        config: Its config.
        summary: The last value of everything logged, and what was put there by hand.
        axes: The x-axis of each metric, or pattern of metrics, that was given one.
        history: Its rows, those of a step that was trained twice only once.
        artifacts: Name, type, aliases, digest, metadata and contents of each, in order; one logged twice is there once.
        files: The run files, in order of their starts.
        cut: The byte that a file ends within a record at, by file.
        exit_code: How the last start ended; None if it was killed, or goes on.
    """

    about: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    axes: dict[str, str] = field(default_factory=dict)
    history: list[WandbRow] = field(default_factory=list)
    artifacts: list[dict[str, Any]] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)
    cut: dict[Path, int] = field(default_factory=dict)
    exit_code: int | None = None


def wandb_runs(folder: Path) -> list[WandbRun]:
    """Read all runs below a ``wandb`` folder; the files of one id are one run.

    Raises:
        WandbFileError: If a file is damaged.
    """
    parts: dict[str, list[tuple[float, Path]]] = {}
    for path in wandb_files(folder):
        parts.setdefault(path.stem.removeprefix("run-"), []).append((_started(path), path))
    return [_read(name, [path for _, path in sorted(files)]) for name, files in parts.items()]


def merged_rows(earlier: Iterable[WandbRow], later: Iterable[WandbRow]) -> list[WandbRow]:
    """Return the history of a run that was started again: a row of the later start takes the place of those it repeats.

    Rows are the same if they are of one step and give values to the same names. Rows are ordered by step, those of one
    step as they were logged; one without a step stays behind the row before it.
    """
    later = list(later)
    again = {row.identity for row in later} - {None}
    rows = [*(row for row in earlier if row.identity not in again), *later]
    places, step = [], float("-inf")
    for row in rows:
        step = row.values.get(STEP, step)
        places.append(step)
    return [row for _, row in sorted(zip(places, rows, strict=True), key=lambda pair: pair[0])]


def _started(path: Path) -> float:
    """Return the time of a start in seconds; infinity when the file ends before it says so."""
    for record in wandb_records(path):
        if record.WhichOneof("record_type") == "run":
            return record.run.start_time.seconds + record.run.start_time.nanos / 1e9
    return float("inf")


def _read(name: str, files: list[Path]) -> WandbRun:
    whole = WandbRun(about={"id": name}, files=files)
    for path in files:
        start = dataclasses.replace(whole, history=[], exit_code=None)
        for record in wandb_records(path, functools.partial(whole.cut.__setitem__, path)):
            take = TAKE.get(record.WhichOneof("record_type"))
            if take is not None:
                take(start, record, path.parent / "files")
        start.history = merged_rows(whole.history, start.history)
        whole = start
    for number, row in enumerate(whole.history):
        row.values["_step"] = number  # every start counts from 0
    return whole


def _take_run(run: WandbRun, record: Any, folder: Path) -> None:
    content = record.run
    set_items(run.config, content.config.update, content.config.remove)
    run.about.update(
        project=content.project,
        entity=content.entity,
        name=content.display_name,
        group=content.run_group,
        job_type=content.job_type,
        tags=list(content.tags),
    )


def _take_config(run: WandbRun, record: Any, folder: Path) -> None:
    set_items(run.config, record.config.update, record.config.remove)


def _take_summary(run: WandbRun, record: Any, folder: Path) -> None:
    set_items(run.summary, record.summary.update, record.summary.remove)


def _take_metric(run: WandbRun, record: Any, folder: Path) -> None:
    if record.metric.step_metric:
        run.axes[record.metric.name or record.metric.glob_name] = record.metric.step_metric


def _take_history(run: WandbRun, record: Any, folder: Path) -> None:
    run.history.append(WandbRow(set_items({}, record.history.item), folder))


def _take_artifact(run: WandbRun, record: Any, folder: Path) -> None:
    content = record.artifact
    artifact = {
        "name": content.name,
        "type": content.type,
        "aliases": sorted(content.aliases),
        "digest": content.digest,
        "metadata": json.loads(content.metadata or "{}"),
        "contents": [{"path": part.path, "size": part.size} for part in content.manifest.contents],
    }
    again = [place for place, known in enumerate(run.artifacts) if _same_version(known, artifact)]
    for place in reversed(again):  # a later start has logged it again
        del run.artifacts[place]
    run.artifacts.append(artifact)


def _same_version(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two artifacts are equal, or have the same name and an alias of their own, as a generation's has."""
    named = all(one[key] == other[key] for key in ("type", "name", "aliases")) and one["aliases"] != ["latest"]
    return one == other or (named and bool(one["aliases"]))


def _take_exit(run: WandbRun, record: Any, folder: Path) -> None:
    run.exit_code = record.exit.exit_code


TAKE: dict[str, Callable[[WandbRun, Any, Path], None]] = {
    "run": _take_run,
    "config": _take_config,
    "summary": _take_summary,
    "metric": _take_metric,
    "history": _take_history,
    "artifact": _take_artifact,
    "exit": _take_exit,
}
"""What each kind of record adds to a run; system metrics, console output and W&B's own are left out."""
