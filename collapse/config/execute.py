"""Run a chain from a config, in a run folder that says everything about it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl

from collapse.callbacks import ChainProgress, GenerationEvaluation, IncomingCheck, SampleGallery
from collapse.config.build import FAULTS, build_data, build_mitigations, build_model, rows_of, trainer_options, usage
from collapse.config.errors import ConfigError
from collapse.config.load import LoadedConfig
from collapse.config.run_folder import check_folder, finished, first_process, remove_folder, write_folder
from collapse.config.schema import WandbConfig
from collapse.config.tracking import finish_wandb, resolved_mode, wandb_logger
from collapse.config.wandb_record import WandbRecord
from collapse.data import RecursiveDataModule
from collapse.mitigations import MitigationStack
from collapse.models import GenerativeModule
from collapse.recursion import Chain, StepCheckpoint, run_chain
from collapse.recursion.checks import check_budget, check_module
from collapse.recursion.lightning import SPAWNED_FAILED, last_words
from collapse.recursion.rehearsal import rehearse
from collapse.recursion.reinitialize import check_initialization
from collapse.recursion.slurm import check_slurm, slurm_plugins

__all__ = ["run"]

PROJECT_FORBIDS = "/\\#?%:"


def run(loaded: LoadedConfig) -> Chain:
    """Train the chain a config describes, or continue it where it stopped.

    Everything that can be wrong with a config is found before the run folder is touched; should a first run fail on one
    all the same, its folder goes again.

    Raises:
        ConfigError: If the config cannot be run, or the folder holds another one.
    """
    config = loaded.config
    with usage():
        check_initialization(config.initialization)
        resolved_mode(config.wandb.mode)
        _check_names(config.wandb)
        data = build_data(config)
        rows = rows_of(data, config)
        samples = rows if config.samples_per_generation is None else config.samples_per_generation
        check_budget(
            generations=config.generations,
            samples_per_generation=samples,
            chunk_size=config.chunk_size,
            epochs_per_generation=config.epochs_per_generation,
            steps_per_generation=config.steps_per_generation,
        )
        model, mitigations, options = build_model(config, data), build_mitigations(config), trainer_options(config)
        loaded = _pinned(loaded, data, model)
        out = loaded.out
        check_module(model, MitigationStack(mitigations))
        rehearse(model, data, mitigations, generations=config.generations, samples=samples)
        quiet = {"logger": False, "enable_checkpointing": False, "default_root_dir": out, "plugins": slurm_plugins()}
        with usage(f"trainer={config.trainer}: "):
            trainer = pl.Trainer(**{**options, **quiet})  # Lightning's own checks of its arguments
        check_slurm(trainer)
        check_folder(loaded)
        progress = ChainProgress()
        callbacks = [*_callbacks(loaded), progress]
    if finished(out, config.generations):
        return Chain.load(out)
    existed, fresh = out.exists(), not (out / "config.yaml").exists()
    if first_process():
        write_folder(loaded)
    logger = wandb_logger(loaded, first=first_process())
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
    except FAULTS as error:
        if progress.begun or isinstance(error, FileNotFoundError):
            raise  # a fault of the run: something has been trained, or is gone
        if fresh and first_process():  # what only shows once gold is composed: too few rows for fresh anchors, say
            remove_folder(out, itself=not existed)
        raise ConfigError(str(error)) from error
    except SPAWNED_FAILED as error:
        raise last_words(error) from error
    finally:
        finish_wandb(logger)


def _pinned(loaded: LoadedConfig, data: RecursiveDataModule, model: GenerativeModule) -> LoadedConfig:
    """Return the config with what the files of data and model are today: on others it is another config."""
    fixed = {"data": _merged(loaded.config.data, data.pinned()), "model": _merged(loaded.config.model, model.pinned())}
    config = dataclasses.replace(loaded.config, data=fixed["data"], model=fixed["model"])
    return dataclasses.replace(loaded, config=config, tree={**loaded.tree, **fixed})


def _merged(arguments: Any, fixed: Mapping[str, Any]) -> dict[str, Any]:
    given = arguments if isinstance(arguments, Mapping) else {"name": arguments}  # data within data, by their name
    nested = {key: _merged(given[key], value) for key, value in fixed.items() if isinstance(value, Mapping)}
    return {**given, **fixed, **nested}


def _check_names(settings: WandbConfig) -> None:
    """Refuse names that W&B would refuse once the run has begun."""
    forbidden = sorted(set(settings.project) & set(PROJECT_FORBIDS))
    if forbidden or not 1 <= len(settings.project) <= 128:
        raise ConfigError(
            f"wandb.project={settings.project!r} must have 1 to 128 characters, and none of {PROJECT_FORBIDS}"
        )
    if settings.group is not None and len(settings.group) > 128:
        raise ConfigError(f"wandb.group={settings.group!r} must have 128 characters at most")
    for tag in settings.tags:
        if not 1 <= len(tag) <= 64:
            raise ConfigError(f"wandb.tags: {tag!r} must have 1 to 64 characters")


def _callbacks(loaded: LoadedConfig) -> list[pl.Callback]:
    config, callbacks = loaded.config, list[pl.Callback]()
    evaluation = config.evaluation
    if evaluation.enabled:
        callbacks.append(GenerationEvaluation(neighbors=evaluation.neighbors, max_rows=evaluation.max_rows))
    if evaluation.gallery < 0:
        raise ConfigError(f"evaluation.gallery={evaluation.gallery} must be at least 0, which saves no images")
    if config.checkpoint_steps is not None and config.checkpoint_steps < 1:
        raise ConfigError(f"checkpoint_steps={config.checkpoint_steps} must be at least 1, or null for none")
    if evaluation.check is not None:
        callbacks.append(IncomingCheck(evaluation.check))
    if evaluation.gallery:
        callbacks.append(SampleGallery(evaluation.gallery))
    if config.checkpoint_steps is not None:
        callbacks.append(StepCheckpoint(loaded.out, config.checkpoint_steps))
    if config.wandb.enabled:
        callbacks.append(WandbRecord(loaded.out))
    return callbacks
