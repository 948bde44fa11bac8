"""Weights & Biases: a view of the run. It never asks, and never waits for a network."""

from __future__ import annotations

import netrc
import os
from typing import TYPE_CHECKING

from pytorch_lightning.loggers import WandbLogger

from collapse.config.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from collapse.config.load import LoadedConfig

__all__ = ["finish_wandb", "resolved_mode", "wandb_logger"]

MODES = ("auto", "online", "offline", "disabled")
FOLDERS = {"WANDB_DIR": "", "WANDB_CACHE_DIR": "cache", "WANDB_DATA_DIR": "data", "WANDB_ARTIFACT_DIR": "artifacts"}


def resolved_mode(mode: str) -> str:
    """Return ``online``, ``offline`` or ``disabled``: with ``auto``, online only where W&B has been configured."""
    if mode not in MODES:
        raise ConfigError(f"wandb.mode={mode!r} is no mode{did_you_mean(mode, MODES)}")
    asked = os.environ.get("WANDB_MODE", "") if mode == "auto" else mode
    if asked in ("online", "offline", "disabled"):
        return asked
    return "online" if _has_key() else "offline"


def wandb_logger(loaded: LoadedConfig) -> WandbLogger | None:
    """Return the logger of one run (an arm and a seed): the same id when it is resumed, its files in the run folder."""
    settings, out = loaded.config.wandb, loaded.out.resolve()
    mode = resolved_mode(settings.mode)
    if not settings.enabled or mode == "disabled":
        return None
    folder = out / "wandb"
    for variable, name in FOLDERS.items():
        os.environ.setdefault(variable, str(folder / name if name else out))
    import wandb

    wandb.setup(wandb.Settings(mode=mode, silent=True))  # type: ignore[arg-type]
    seed, tree = loaded.config.seed, loaded.tree
    kinds = [str(tree[key].get("name")) for key in ("model", "data")]
    kinds += [entry if isinstance(entry, str) else str(next(iter(entry))) for entry in tree["mitigations"]]
    return WandbLogger(
        project=settings.project,
        entity=settings.entity,
        group=settings.group or loaded.digest[:8],
        name=out.name,
        id=f"{loaded.digest[:8]}-{seed}",
        job_type="recursive",
        tags=[*settings.tags, *kinds],
        save_dir=out,
        offline=mode == "offline",
        config={key: value for key, value in tree.items() if key != "wandb"},
        resume="allow",
    )


def finish_wandb(logger: WandbLogger | None) -> None:
    """Close the run, so that its file is complete before the process goes on."""
    if logger is not None:
        import wandb

        wandb.finish()


def _has_key() -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return netrc.netrc().authenticators("api.wandb.ai") is not None
    except (OSError, netrc.NetrcParseError):
        return False
