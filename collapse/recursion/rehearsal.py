"""What can be tried of a chain without training: that model, data and mitigations go together."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch

from collapse.data.files import MappedArray
from collapse.data.generation import Generation
from collapse.data.module import RecursiveDataModule
from collapse.data.pool import DataPool
from collapse.data.rows import HELD, Batch, Origin, finite, provenance
from collapse.mitigations.gate import Gate
from collapse.mitigations.mitigation import Mitigation
from collapse.mitigations.stack import MitigationStack
from collapse.models.estimators import Estimator
from collapse.models.generative import GenerativeModule
from collapse.recursion.checks import check_labels
from collapse.recursion.composition import compose
from collapse.recursion.reinitialize import twin_of

__all__ = ["rehearse", "rehearse_conditions"]

FEW = 2  # rows that a network is tried on
MANY = 1 << 16  # rows that an estimator is tried on at a time


def rehearse(
    module: pl.LightningModule,
    data: RecursiveDataModule,
    mitigations: Iterable[Mitigation] = (),
    *,
    generations: int,
    samples: int,
) -> None:
    """Compose the first two generations, and let a twin of the module see gold, before anything is written.

    Nothing is fitted and nothing is sampled: generation 1 is composed as if its model had sampled gold's first row
    again and again. A network sees two rows; an estimator, whose range may end within gold, takes all of them up.

    Args:
        module: The module of the chain; it stays as it is.
        data: Its data.
        mitigations: Its mitigations.
        generations: Models to train.
        samples: Rows to sample from each.

    Raises:
        ValueError: If the module is conditioned on what the data do not have, if gold holds NaN or infinite values,
            if a gate cannot judge its rows, if a mitigation cannot compose a training set, or if the module
            takes no such rows.
    """
    check_labels(module, data)
    stack, gold = MitigationStack(mitigations), _unsampled(data)
    first = Generation(0, generations, 0, samples, gold)
    for gate in (one for one in stack if isinstance(one, Gate)):
        gate.check(first, data.replicates)
    first = compose(first, stack, data.replicates, data.classes)
    if generations > 1:
        again = np.broadcast_to(gold.stored(np.zeros(1, np.int64)), (samples, *gold.row_shape))
        made = DataPool([again], [provenance(samples, origin=Origin.SYNTHETIC, generation=1)], gold)
        compose(Generation(1, generations, 0, samples, made), stack, data.replicates)
    if isinstance(module, GenerativeModule):
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            _conditions(_tried(module, gold, len(data.gold())), data, first)


def rehearse_conditions(
    module: pl.LightningModule,
    data: RecursiveDataModule,
    mitigations: Iterable[Mitigation] = (),
    *,
    generations: int,
    samples: int,
) -> None:
    """Look whether there is what a module's samples are conditioned on: the first of them are a generation away.

    The part of ``rehearse`` that every chain begins with. For a module with classes generation 0 is composed, as they
    come by the law of its labels. An estimator is not asked: it is fitted in one pass, and may have to be.

    Args:
        module, data, mitigations, generations, samples: As in ``rehearse``.

    Raises:
        ValueError: If there is not.
    """
    if not isinstance(module, GenerativeModule) or isinstance(module, Estimator):
        return
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        if module.classes is None:
            module.conditions(data)
            return
        first = Generation(0, generations, 0, samples, _unsampled(data))
        _conditions(module, data, compose(first, MitigationStack(mitigations), data.replicates, data.classes))


def _unsampled(data: RecursiveDataModule) -> DataPool:
    """Return the pool of a chain that has sampled nothing yet, in memory: gold, and what came with it."""
    gold = data.gold()
    rows = gold.x if isinstance(gold.x, MappedArray) else finite(np.asarray(gold.x), 0)
    parts = [(rows, provenance(len(gold), origin=Origin.REAL, generation=0, y=gold.y))]
    for origin, held in data.held().items():
        records = provenance(len(held), origin=origin, generation=HELD, y=held.y)
        parts.append((held.x if isinstance(held.x, MappedArray) else np.asarray(held.x), records))
    return DataPool(*zip(*parts, strict=True))


def _conditions(module: GenerativeModule, data: RecursiveDataModule, first: Generation) -> None:
    """Ask a module for the law of its conditions, as if it had been trained in generation 0; it stays as it is."""
    before, module.training_facts = module.training_facts, first.training_facts
    try:
        module.conditions(data)
    finally:
        module.training_facts = before


def _tried(module: GenerativeModule, pool: DataPool, rows: int) -> Any:
    twin: Any = twin_of(module)
    if isinstance(twin, Estimator):
        twin.begin()
        for places in torch.arange(rows).split(MANY):
            batch = pool.gather(places)
            twin.update(batch._replace(x=twin.arranged(batch.x)))
    elif isinstance(twin, GenerativeModule):
        check_outputs(twin, pool.gather(torch.arange(min(FEW, rows))))
    return twin


def check_outputs(module: GenerativeModule, batch: Batch) -> None:
    """Raise ValueError unless a module returns a loss for each row of a batch."""
    shape = tuple(batch.x.shape[1:])
    try:
        loss = module.outputs(batch)["loss"]
    except (RuntimeError, LookupError) as error:
        raise ValueError(f"{type(module).__name__} takes no rows of shape {shape}: {error}") from error
    if loss.shape != batch.x.shape[:1]:
        raise ValueError(
            f"{type(module).__name__} returns a loss of shape {tuple(loss.shape)} for {len(batch.x)} rows of shape "
            f"{shape}, not one for each; check its shape"
        )
