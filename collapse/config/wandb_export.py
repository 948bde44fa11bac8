"""`collapse wandb-export`: what was logged to W&B offline, as plain JSON files."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from collapse.config.errors import ConfigError
from collapse.config.wandb_run import STEP, WandbRun, wandb_runs
from collapse.data.files import commit

__all__ = ["export_wandb"]


def export_wandb(run: Path, out: Path | None = None, *, say: Callable[[str], None] = print) -> Path:
    """Write what the W&B run files below ``run/wandb`` hold to a folder, and return the folder.

    ``history.jsonl`` has one object per row, ``summary.json`` the last values, ``config.json`` the config,
    ``media.json`` the images and tables with the places of their files in the run folder, ``artifacts.json`` the
    artifacts with their metadata, ``run.json`` id, name, group, tags, axes and which files were read. Values JSON has
    no word for are null. If the run folder holds more than one W&B run, each gets a folder named by its id.

    Args:
        run: The run folder.
        out: Where to write; ``run/wandb-export`` when None.
        say: Told of every run file that ends within a record.

    Raises:
        ConfigError: If ``run`` is no run folder or has no run files, or ``out`` is a file.
        WandbFileError: If a run file is damaged; nothing is written then.
    """
    if not any((run / name).is_file() for name in ("config.yaml", "run.json")):
        raise ConfigError(f"{run} is no run folder: it has neither config.yaml nor run.json")
    runs = wandb_runs(run / "wandb")
    if not runs:
        raise ConfigError(f"{run / 'wandb'} holds no W&B run files; was the run made with wandb.enabled=false?")
    out = run / "wandb-export" if out is None else out
    if out.exists() and not out.is_dir():
        raise ConfigError(f"--out {out} is a file; choose a folder")
    for one in runs:
        for path, place in one.cut.items():
            say(f"{path} ends within a record, at byte {place}: its process was killed or is still writing")
        _write(one, run.resolve(), out if len(runs) == 1 else out / one.about["id"])
    return out


def _write(run: WandbRun, root: Path, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(_plain(row.values), sort_keys=True, allow_nan=False) + "\n" for row in run.history]
    about = {
        **run.about,
        "axes": run.axes,
        "exit_code": run.exit_code,
        "files": [{"path": _place(path, root), "cut": run.cut.get(path)} for path in run.files],
    }
    contents = {
        "summary": run.summary,
        "config": {name: value for name, value in run.config.items() if name != "_wandb"},
        "media": _media(run, root),
        "artifacts": run.artifacts,
        "run": about,
    }
    for name, content in contents.items():
        commit(out / f"{name}.json", json.dumps(_plain(content), indent=1, sort_keys=True, allow_nan=False).encode())
    commit(out / "history.jsonl", "".join(lines).encode())


def _media(run: WandbRun, root: Path) -> list[dict[str, Any]]:
    """Return every image and table of a history: its name and kind, the row's axes, and its files."""
    found = []
    for row in run.history:
        axes = {axis: row.values[axis] for axis in ("generation", STEP) if axis in row.values}
        for name, value in sorted(row.values.items()):
            if isinstance(value, dict) and "_type" in value and ("filenames" in value or "path" in value):
                places = value["filenames"] if "filenames" in value else [value["path"]]
                files = [_place(row.folder / place, root) for place in places]
                found.append({"name": name, "type": value["_type"], **axes, "files": files})
    return found


def _place(path: Path, root: Path) -> str:
    """Return a path relative to the run folder; W&B files elsewhere are where WANDB_DIR said."""
    return str(path.relative_to(root) if path.is_relative_to(root) else path)


def _plain(value: Any) -> Any:
    """Replace NaN and infinities by None."""
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
