"""What must hold before a chain can run, said in a sentence when it does not."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EarlyStopping, Timer
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from collapse.data.loading import GenerationLoader
from collapse.data.module import RecursiveDataModule
from collapse.mitigations.mitigation import Claim
from collapse.mitigations.stack import MitigationStack
from collapse.models.conditions import check_classes
from collapse.models.estimators import Estimator
from collapse.models.generative import GenerativeModule
from collapse.recursion.lightning import callbacks_of
from collapse.recursion.reinitialize import twin_of
from collapse.recursion.strategies import check_strategy

__all__ = ["check_budget", "check_labels", "check_loader", "check_module", "check_trainer", "generations_kept"]

LIMIT = 2**63  # counts are integers of 64 bits to torch and NumPy


def check_budget(*, epochs_per_generation: int, steps_per_generation: int | None, **counts: int) -> None:
    """Raise ValueError unless every count is at least 1 and only one budget is given."""
    counts["epochs_per_generation"] = epochs_per_generation
    if steps_per_generation is not None:
        counts["steps_per_generation"] = steps_per_generation
    for name, value in counts.items():
        if not 1 <= value < LIMIT:
            raise ValueError(f"{name} must be at least 1{', and an integer of 64 bits' * (value > 1)}, got {value}")
    if steps_per_generation is not None and epochs_per_generation != 1:
        raise ValueError(
            f"steps_per_generation={steps_per_generation} and epochs_per_generation={epochs_per_generation} are two "
            "budgets; give one of them"
        )


def generations_kept(keep_weights: bool | Collection[int], generations: int) -> Collection[int]:
    """Return the generations whose weights are kept, or raise ValueError if there is no such generation."""
    every = range(generations)
    if isinstance(keep_weights, bool):
        return every if keep_weights else frozenset()
    if not isinstance(keep_weights, Iterable) or not all(int(generation) in every for generation in keep_weights):
        raise ValueError(
            f"keep_weights={keep_weights!r} must be True, False, or generations from 0 to {generations - 1}"
        )
    return frozenset(map(int, keep_weights))


def check_trainer(trainer: pl.Trainer, wanted: dict[str, Any]) -> RecursiveDataModule:
    """Check the flags a chain depends on and return the data module.

    Raises:
        MisconfigurationException: Naming every wrong flag.
        TypeError: If the data are not in a RecursiveDataModule.
    """
    check_strategy(trainer)
    epochs, callbacks = wanted["max_epochs"], callbacks_of(trainer)
    reload = getattr(trainer, "reload_dataloaders_every_n_epochs", None)
    overfit = getattr(trainer, "overfit_batches", 0)
    rules = [
        (
            trainer.max_epochs is not None and (trainer.max_epochs == -1 or trainer.max_epochs >= epochs),
            f"max_epochs={trainer.max_epochs} must be at least {epochs}, generations x epochs_per_generation",
        ),
        (
            trainer.max_steps == -1,
            f"max_steps={trainer.max_steps} must be left unset; a budget in steps is steps_per_generation",
        ),
        (
            not trainer.min_epochs and not trainer.min_steps,
            f"min_epochs={trainer.min_epochs} and min_steps={trainer.min_steps} must be left unset: Lightning would "
            "train on past the last generation",
        ),
        (
            isinstance(trainer.limit_train_batches, float) and trainer.limit_train_batches == 1 and not overfit,
            f"limit_train_batches={trainer.limit_train_batches} and overfit_batches={overfit} must be "
            "left unset: rows would be recorded that were never trained on; use steps_per_generation",
        ),
        (
            reload == 1,
            f"reload_dataloaders_every_n_epochs={reload} must be 1, or generations train on stale data",
        ),
        (
            not any(isinstance(callback, Timer) for callback in callbacks),
            "max_time (Timer) must be left unset: it cuts an epoch short and records it as finished",
        ),
        (
            not any(isinstance(callback, EarlyStopping) for callback in callbacks),
            "EarlyStopping would end the run; use collapse's GenerationEarlyStopping",
        ),
    ]
    faults = [sentence for holds, sentence in rules if not holds]
    if faults:
        raise MisconfigurationException(
            f"RecursiveTrainer: {'; '.join(faults)} (Trainer(**recursion.trainer_kwargs()) sets what a chain needs)"
        )
    data = getattr(trainer, "datamodule", None)
    if not isinstance(data, RecursiveDataModule):
        kind = "none" if data is None else type(data).__name__
        raise TypeError(
            f"RecursiveTrainer needs a RecursiveDataModule as datamodule, got {kind}; "
            "RecursiveDataModule.from_datamodule(dm) makes one of any LightningDataModule"
        )
    return data


def check_labels(module: pl.LightningModule, data: RecursiveDataModule) -> None:
    """Check that the data have the labels that a class-conditional module is conditioned on.

    Raises:
        ValueError: If they have none, or of more classes than the module knows, or a row's is no class.
    """
    if not isinstance(module, GenerativeModule) or module.classes is None:
        return
    model, rows = f"{type(module).__name__}(classes={module.classes})", type(data).__name__
    if data.classes is None or data.gold().y is None:
        raise ValueError(f"{model} is conditioned on class labels, and {rows} has none; leave the model's classes out")
    if module.classes < data.classes:
        raise ValueError(
            f"{model} knows fewer classes than {rows}, which has {data.classes}; give classes={data.classes}"
        )
    for part in (data.gold(), *data.held().values()):
        check_classes(None if part.y is None else torch.as_tensor(np.asarray(part.y)), module.classes)


def check_loader(trainer: pl.Trainer) -> None:
    """Check that Lightning left the loader's order alone.

    Raises:
        MisconfigurationException: If it put a sampler of its own in place.
    """
    loader = trainer.train_dataloader
    if not isinstance(loader, GenerationLoader) or loader.batch_sampler is not loader.batches:
        raise MisconfigurationException(
            "RecursiveTrainer: use_distributed_sampler must be False, the data module gives "
            "every process its share (Trainer(**recursion.trainer_kwargs()) sets it)"
        )


def check_module(
    module: pl.LightningModule,
    stack: MitigationStack,
    processes: int = 1,
    data: RecursiveDataModule | None = None,
) -> None:
    """Check that a module can be sampled, made again, and regularized as the mitigations want.

    Raises:
        TypeError: If it has no ``sample``, or is no GenerativeModule where a mitigation shapes the loss.
        ValueError: If it cannot be made again, or only in part, or lacks an output; or if the data, where they are
            given, lack the labels it is conditioned on.
    """
    if data is not None:
        check_labels(module, data)
    name = type(module).__name__
    if processes > 1 and isinstance(module, Estimator):
        raise TypeError(f"{name} is fitted by one process, and the Trainer has {processes}; give Trainer(devices=1)")
    if not callable(getattr(module, "sample", None)):
        raise TypeError(f"{name} has no sample(n, generator) method to draw the next generation with; add one")
    if type(module).configure_model not in (pl.LightningModule.configure_model, GenerativeModule.configure_model):
        raise ValueError(
            f"{name} builds its network in configure_model, when generation 0's weights are drawn already; build it in "
            "__init__ (and leave sharding to GenerativeModule.configure_model)"
        )
    last = stack.owners.get(Claim.FINAL_WEIGHTS)
    if last is not None and not any(True for _ in module.parameters()):
        raise ValueError(f"{last!r} sets the weights that training ends with, and {name} has none; leave it out")
    if isinstance(module, GenerativeModule):
        stack.check(module)
    elif stack.shapes_objective:
        raise TypeError(
            f"{name} computes its own loss, and {stack!r} changes the loss; derive {name} from "
            "collapse.GenerativeModule"
        )
    with torch.random.fork_rng(devices=[]):
        twin_of(module)
