"""Weights & Biases: a view of the run. It never asks, and never waits for a network."""

from __future__ import annotations

import netrc
import os
import secrets
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pytorch_lightning.loggers import WandbLogger

from collapse.config.errors import ConfigError, did_you_mean
from collapse.data.files import commit
from collapse.stopping import StoppedForRequeue

if TYPE_CHECKING:
    from collapse.config.load import LoadedConfig

__all__ = ["finish_wandb", "resolved_mode", "run_id", "wandb_logger"]

MODES = ("auto", "online", "offline", "disabled")
FOLDERS = {"WANDB_CACHE_DIR": "cache", "WANDB_DATA_DIR": "data", "WANDB_ARTIFACT_DIR": "artifacts"}
"""W&B's variables for what it writes beside the run, and where below ``wandb`` that goes unless the user says else."""

FLUSH = "WANDB_X_TRANSACTION_LOG_FLUSH_INTERVAL"
FLUSH_SECONDS = "0.25"
"""How much of a run file a killed process may lose; W&B's own 15 s are more than a short generation takes."""

PATIENCE = 60.0
"""Seconds the other processes wait for the first one's run id."""


class ChainLogger(WandbLogger):
    """Lightning's logger, with what the environment was before it."""

    before: Mapping[str, str | None] = {}


def resolved_mode(mode: str) -> str:
    """Return ``online``, ``offline`` or ``disabled``: with ``auto``, online only where W&B has been configured."""
    if mode not in MODES:
        raise ConfigError(f"wandb.mode={mode!r} is no mode{did_you_mean(mode, MODES)}")
    asked = os.environ.get("WANDB_MODE", "") if mode == "auto" else mode
    if asked in ("online", "offline", "disabled"):
        return asked
    return "online" if _has_key() else "offline"


def run_id(loaded: LoadedConfig, *, first: bool) -> str | None:
    """Return the W&B id of the run in a folder: made up at its first start, kept in ``wandb/id`` and used ever after.

    Config and seed alone are no id: the same chain in two folders, on two machines for example, is two runs.

    Args:
        loaded: The run's config.
        first: Whether this is the process that writes. The others wait until it has.

    Returns:
        The id; None on another process that does not see the first one's folder.
    """
    path = loaded.out / "wandb" / "id"
    if first and not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        commit(path, f"{loaded.digest[:8]}-{loaded.config.seed}-{secrets.token_hex(4)}\n".encode())
    end = time.monotonic() + PATIENCE
    while not path.exists() and time.monotonic() < end:
        time.sleep(0.05)
    return path.read_text().strip() if path.exists() else None


def wandb_logger(loaded: LoadedConfig, *, first: bool = True) -> WandbLogger | None:
    """Return the logger of one run (an arm and a seed): the same id when it is resumed, its files in the run folder.

    Args:
        loaded: The run's config; its folder is there.
        first: Whether this is the process that writes.
    """
    settings, out = loaded.config.wandb, loaded.out.resolve()
    mode = resolved_mode(settings.mode)
    if not settings.enabled or mode == "disabled":
        return None
    before = _set_environment(out)
    if first:
        import wandb

        wandb.setup(wandb.Settings(mode=mode, silent=True))  # type: ignore[arg-type]
    tree = loaded.tree
    kinds = [str(tree[key].get("name")) for key in ("model", "data")]
    kinds += [entry if isinstance(entry, str) else str(next(iter(entry))) for entry in tree["mitigations"]]
    logger = ChainLogger(
        project=settings.project,
        entity=settings.entity,
        group=settings.group or loaded.digest[:8],
        name=out.name,
        id=run_id(loaded, first=first),
        job_type="recursive",
        tags=[*settings.tags, *kinds],
        save_dir=os.environ["WANDB_DIR"],
        offline=mode == "offline",
        config={key: value for key, value in tree.items() if key != "wandb"},
        resume="allow",
    )
    logger.before = before
    return logger


def finish_wandb(logger: WandbLogger | None) -> None:
    """Close the run, so that its file is complete before the process goes on, and leave the process as it was.

    Another run of the process gets folders of its own and a service process that knows of no others.
    """
    if not isinstance(logger, ChainLogger):
        return
    if "wandb" in sys.modules:
        import wandb

        if isinstance(sys.exception(), StoppedForRequeue) and wandb.run is not None:
            wandb.run.mark_preempting()  # a start that comes back has been preempted; it has not failed
        wandb.finish(exit_code=0 if sys.exception() is None else 1)
        wandb.teardown()
    for name, value in logger.before.items():
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value


def _set_environment(out: Path) -> dict[str, str | None]:
    """Point W&B into the run folder, where the user has not pointed it elsewhere; return the variables' old values."""
    wanted = {name: str(out / "wandb" / folder) for name, folder in FOLDERS.items()}
    wanted.update(WANDB_DIR=str(out), **{FLUSH: FLUSH_SECONDS})
    before = {name: os.environ.get(name) for name in (*wanted, "WANDB_MODE")}  # Lightning sets the mode
    for name, value in wanted.items():
        os.environ.setdefault(name, value)
    return before


def _has_key() -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return netrc.netrc().authenticators("api.wandb.ai") is not None
    except (OSError, netrc.NetrcParseError):
        return False
