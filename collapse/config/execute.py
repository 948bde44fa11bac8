"""Run a chain from a config, in a run folder that says everything about it."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from omegaconf import OmegaConf
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from collapse.callbacks import ChainProgress, GenerationEvaluation, SampleGallery
from collapse.config.build import build_data, build_mitigations, build_model, trainer_options
from collapse.config.errors import ConfigError
from collapse.config.load import LoadedConfig, load_run
from collapse.config.tracking import finish_wandb, resolved_mode, wandb_logger
from collapse.data.files import commit
from collapse.data.store import GenerationStore
from collapse.mitigations import MitigationStack
from collapse.recursion import Chain, StepCheckpoint, read_measurements, run_chain
from collapse.recursion.checks import check_budget, check_module
from collapse.recursion.reinitialize import check_initialization

__all__ = ["finished", "run"]

USAGE_ERRORS = (ValueError, TypeError, FileNotFoundError, MisconfigurationException)


def run(loaded: LoadedConfig) -> Chain:
    """Train the chain a config describes, or continue it where it stopped.

    Everything that can be wrong with a config is found before the run folder is touched; should a first run fail on one
    all the same, its folder goes again.

    Raises:
        ConfigError: If the config cannot be run, or the folder holds another one.
    """
    config, out = loaded.config, loaded.out
    with _usage():
        check_initialization(config.initialization)
        resolved_mode(config.wandb.mode)
        data = build_data(config)
        gold = data.gold()
        if not len(gold):
            raise ConfigError(f"data={config.data} leaves no gold rows; a chain starts from real data")
        samples = len(gold) if config.samples_per_generation is None else config.samples_per_generation
        check_budget(
            generations=config.generations,
            samples_per_generation=samples,
            chunk_size=config.chunk_size,
            epochs_per_generation=config.epochs_per_generation,
            steps_per_generation=config.steps_per_generation,
        )
        model, mitigations, options = build_model(config, data), build_mitigations(config), trainer_options(config)
        check_module(model, MitigationStack(mitigations))
        pl.Trainer(
            **{**options, "logger": False, "enable_checkpointing": False}
        )  # Lightning's own checks of its arguments
        _check_folder(loaded)
        progress = ChainProgress()
        callbacks = [*_callbacks(loaded), progress]
    if finished(out, config.generations):
        return Chain.load(out)
    existed, fresh = out.exists(), not (out / "config.yaml").exists()
    if _first_process():
        _write_folder(loaded)
    logger = wandb_logger(loaded)
    try:
        return run_chain(
            model,
            data,
            generations=config.generations,
            samples_per_generation=samples,
            mitigations=mitigations,
            epochs_per_generation=config.epochs_per_generation,
            steps_per_generation=config.steps_per_generation,
            seed=config.seed,
            store=out,
            initialization=config.initialization,
            chunk_size=config.chunk_size,
            evaluate=config.evaluation.enabled,
            callbacks=callbacks,
            logger=logger or False,
            **options,
        )
    except USAGE_ERRORS as error:
        if progress.begun:
            raise  # a fault of the run: something has been trained
        if fresh and _first_process():  # what only shows once gold is composed: too few rows for fresh anchors, say
            _remove(out, itself=not existed)
        raise ConfigError(str(error)) from error
    finally:
        finish_wandb(logger)


def _remove(out: Path, *, itself: bool) -> None:
    """Remove what a run that never began has written, and its folder if that was not there before."""
    for path in out.iterdir():
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    if itself:
        out.rmdir()


def finished(out: Path, generations: int) -> bool:
    """Whether a run folder holds a whole chain, its last generation measured."""
    measured = {row.generation for row in read_measurements(out / "metrics.jsonl")}
    return len(GenerationStore(out)) == generations + 1 and generations - 1 in measured


@contextmanager
def _usage() -> Iterator[None]:
    """Turn the errors that the library raises about its arguments into errors of use."""
    try:
        yield
    except ConfigError:
        raise
    except USAGE_ERRORS as error:
        raise ConfigError(str(error)) from error


def _first_process() -> bool:
    """Whether this process writes; asked before a process group exists, so from what the launcher has set."""
    return all(os.environ.get(name, "0") == "0" for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"))


def _callbacks(loaded: LoadedConfig) -> list[pl.Callback]:
    config, callbacks = loaded.config, list[pl.Callback]()
    evaluation = config.evaluation
    if evaluation.enabled:
        callbacks.append(GenerationEvaluation(neighbors=evaluation.neighbors, max_rows=evaluation.max_rows))
    if evaluation.gallery < 0:
        raise ConfigError(f"evaluation.gallery={evaluation.gallery} must be at least 0, which saves no images")
    if config.checkpoint_steps is not None and config.checkpoint_steps < 1:
        raise ConfigError(f"checkpoint_steps={config.checkpoint_steps} must be at least 1, or null for none")
    if evaluation.gallery:
        callbacks.append(SampleGallery(evaluation.gallery, loaded.out / "figures"))
    if config.checkpoint_steps is not None:
        callbacks.append(StepCheckpoint(loaded.out, config.checkpoint_steps))
    return callbacks


def _check_folder(loaded: LoadedConfig) -> None:
    """Refuse a folder that holds another config, or something else altogether."""
    out = loaded.out
    if out.exists() and not out.is_dir():
        raise ConfigError(f"out={out} is a file; choose a folder")
    if not out.exists() or not any(out.iterdir()):
        return
    if not (out / "config.yaml").exists():
        raise ConfigError(f"out={out} is not empty and holds no run; choose another folder")
    found, wanted = load_run(out).essence, loaded.essence
    for key in wanted:
        if found.get(key) != wanted[key]:
            raise ConfigError(
                f"out={out} holds another run: its {key} is {found.get(key)!r}, not {wanted[key]!r}; "
                "choose another folder"
            )


def _write_folder(loaded: LoadedConfig) -> None:
    """Write what a run folder says about the run; the config, which makes it a run folder, first."""
    out = loaded.out
    out.mkdir(parents=True, exist_ok=True)
    if not (out / "config.yaml").exists():
        commit(out / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(loaded.tree)).encode())
    if not (out / "environment.json").exists():
        commit(out / "environment.json", json.dumps(_environment(), indent=1).encode())


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
