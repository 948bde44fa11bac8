"""The run folder of a config: what it says about the run, and whether it is this run's."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf

from collapse.config.errors import ConfigError
from collapse.config.load import LoadedConfig, load_run
from collapse.config.reading import check_place, exists
from collapse.data.gold import VAULT, GoldVault
from collapse.data.journal import JOURNAL
from collapse.data.lock import LOCK, LockedError
from collapse.data.store import GenerationStore
from collapse.recursion import read_measurements
from collapse.recursion.ledger import LEDGER
from collapse.recursion.verification import refuse_changed

__all__ = ["check_folder", "finished", "first_process", "remove_folder", "write_folder"]

FIRST = (JOURNAL, LOCK)
"""What a run folder may hold before its config."""


def remove_folder(out: Path, *, itself: bool) -> None:
    """Remove what a run that never began has written, and its folder if that was not there before.

    Not if another process has begun it in the meantime.
    """
    store = GenerationStore(out)
    try:
        store.hold()
    except LockedError:
        return
    try:
        if len(store) > 1 or any((out / "checkpoints").glob("*")):
            return
        for path in out.iterdir():
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
        if itself:
            out.rmdir()
    finally:
        store.lock.release()
    GoldVault(out.parent / VAULT).prune()


def finished(out: Path, generations: int) -> bool:
    """Whether a run folder holds a whole chain, its last generation measured.

    Raises:
        StoreError: If it does, and a file in it is not as it was written.
    """
    store = GenerationStore(out)
    measured = {row.generation for row in read_measurements(out / LEDGER)}
    whole = len(store) == generations + 1 and generations - 1 in measured
    if whole and first_process():
        refuse_changed(store)
    return whole


def first_process() -> bool:
    """Whether this process writes; asked before a process group exists, so from what the launcher has set."""
    return all(os.environ.get(name, "0") == "0" for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"))


def check_folder(loaded: LoadedConfig) -> None:
    """Refuse a folder that holds another config, or something else altogether."""
    out = loaded.out
    check_place(out)
    if not exists(out) or not any(out.iterdir()):
        return
    if not (out / "config.yaml").exists():
        if any(path.name not in FIRST and not path.name.startswith("config.yaml.tmp") for path in out.iterdir()):
            raise ConfigError(f"out={out} is not empty and holds no run; choose another folder")
        return  # a start that was cut short
    found, wanted = load_run(out).essence, loaded.essence
    for key in wanted:
        if found.get(key) != wanted[key]:
            raise ConfigError(
                f"out={out} holds another run: its {key} is {found.get(key)!r}, not {wanted[key]!r}; "
                f"choose another folder, or go on with that one: collapse resume {out}"
            )


def write_folder(loaded: LoadedConfig) -> None:
    """Write what a run folder says about the run, on record; the config, which makes it a run folder, first."""
    store = GenerationStore(loaded.out)
    parts = {
        "config.yaml": lambda: OmegaConf.to_yaml(OmegaConf.create(loaded.tree)).encode(),
        "environment.json": lambda: json.dumps(_environment(), indent=1).encode(),
    }
    if all((loaded.out / name).exists() for name in parts):
        return
    store.hold()
    try:
        for name, content in parts.items():
            if not (loaded.out / name).exists():
                store.write(name, content())
    finally:
        store.lock.release()


def _environment() -> dict[str, Any]:
    """Return what a result may depend on beside its config."""
    packages = ("collapse", "torch", "torchvision", "pytorch-lightning", "numpy", "omegaconf", "wandb", "scikit-learn")
    return {
        "commit": _commit(),
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in packages},
        "cpus": os.cpu_count(),
        "devices": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    """Return the commit of the checkout this package runs from, if it runs from one."""
    checkout = Path(__file__).resolve().parents[2]
    command = ["git", "-C", str(checkout), "rev-parse", "--show-toplevel", "HEAD"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    top, commit_id = found.stdout.split("\n")[:2]
    return commit_id if Path(top).resolve() == checkout else None  # not of a project that has us installed
