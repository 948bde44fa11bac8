"""What loggers are told: curves over generations, and over the steps of the chain's whole life."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import Logger, WandbLogger

from collapse.models.generative import GenerativeModule

__all__ = ["define_axes", "log_epoch", "log_generation", "log_measurements"]


def define_axes(trainer: pl.Trainer) -> None:
    """Tell Weights & Biases that ``gen/...`` are functions of the generation and ``train/...`` of the lifetime step."""
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger) and trainer.is_global_zero:
            logger.experiment.define_metric("generation")
            logger.experiment.define_metric("lifetime_step")
            logger.experiment.define_metric("gen/*", step_metric="generation")
            logger.experiment.define_metric("train/*", step_metric="lifetime_step")


def log_epoch(trainer: pl.Trainer, module: Any) -> dict[str, float]:
    """Log the means of what a module tallied over the epoch, over all processes, and return them."""
    if not isinstance(module, GenerativeModule):
        return {}
    means = {
        f"train/{name}": trainer.strategy.reduce(torch.tensor(value, device=module.device), reduce_op="mean")
        for name, value in module.epoch_means().items()
    }
    axis = {"lifetime_step": float(trainer.global_step)} if trainer.loggers else {}
    module.log_dict({**means, **axis}, sync_dist=True)
    return {name: float(mean) for name, mean in means.items()}


def log_generation(trainer: pl.Trainer, generation: int, values: Mapping[str, float]) -> None:
    """Send one generation's measurements to every logger."""
    for logger in trainer.loggers:
        log_measurements(logger, generation, values, steps=trainer.global_step)


def log_measurements(logger: Logger, generation: int, values: Mapping[str, Any], *, steps: int) -> None:
    """Send what belongs to a generation that ended after ``steps`` steps of the chain to one logger, as ``gen/...``."""
    content = {f"gen/{name}": value for name, value in values.items()} | {"generation": generation}
    # The step Lightning logs the end of an epoch at: that of its last batch. One more, and the axis runs backwards.
    logger.log_metrics({**content, "lifetime_step": steps}, step=max(0, steps - 1))
