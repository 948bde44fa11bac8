"""Compose: from the pool to the rows a generation trains on."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import Any

import numpy as np
import torch
from torch import Tensor

from collapse.data.generation import Generation
from collapse.data.guarantee import realized_guarantee
from collapse.data.mixture import Mixture
from collapse.data.pool import DataPool
from collapse.data.rows import UNLABELED, Origin, provenance
from collapse.mitigations.stack import MitigationStack
from collapse.seeding import Stream

__all__ = ["compose", "label_facts", "recorded", "training_facts"]


def compose(
    generation: Generation, stack: MitigationStack, replicates: int | None = None, classes: int | None = None
) -> Generation:
    """Return the generation with its training set drawn: a pure function of pool, mitigations, seed and index.

    It starts from gold alone. Synthetic rows are excluded until a mitigation, or the default regime, lets them in.

    Args:
        generation: The generation, without a training set yet.
        stack: Its mitigations.
        replicates: R for a draw of its own in every replicate of a replicated data set.
        classes: Number of classes of the data's labels; None when they have none.

    Returns:
        The generation with its rows and facts.

    Raises:
        ValueError: If there is nothing to train on; or, before generation 0 trains, if a later one could not have the
            rows it is guaranteed.
    """
    mixture = _mixture_of(generation, stack)
    if generation.index == 0 and mixture.guaranteed is not None:
        _rehearse(generation, stack)
    pool = generation.pool
    rows = mixture.draw(generation.generator(Stream.COMPOSE), replicates)
    facts = training_facts(pool.origin, rows, mixture) | label_facts(pool.labels, mixture, classes)
    return dataclasses.replace(generation, rows=rows, facts=facts)


def training_facts(origin: Tensor, rows: Tensor, mixture: Mixture) -> dict[str, Any]:
    """Describe a training set: how many rows of each origin, and a digest of which.

    Args:
        origin: (N,) ``Origin`` of the pool's rows.
        rows: (n,) or (n, R) the rows drawn.
        mixture: What they were drawn from.

    Returns:
        Plain values; ``protected`` only where rows are guaranteed.
    """
    counts = origin[rows].reshape(-1).bincount(minlength=len(Origin)).tolist()
    replicates = rows.numel() // len(rows)
    shares = [one // replicates if one % replicates == 0 else one / replicates for one in counts]  # means, under chance
    protected = {} if mixture.guaranteed is None else {"protected": realized_guarantee(rows, mixture.guaranteed)}
    return {
        "rows": len(rows),
        "real": shares[Origin.REAL],
        "origins": {kind.name.lower(): shares[kind] for kind in Origin if shares[kind]},
        "real_fraction": counts[Origin.REAL] / rows.numel(),
        "effective_size": mixture.effective_size,
        "training_set": hashlib.sha256(rows.numpy().tobytes()).hexdigest(),
        **protected,
    }


def label_facts(labels: Tensor | None, mixture: Mixture, classes: int | None) -> dict[str, Any]:
    r"""Describe the labels of a training set: the law that a conditional model samples them from.

    .. math:: p_k = \frac{\sum_i w_i\, [y_i = k]}{\sum_i w_i\, [y_i \ge 0]} \tag{1}

    The law of the mixture, not of the rows that were drawn from it: labels would drift by that chance alone.

    Args:
        labels: (N,) int64 labels of the pool's rows, -1 for a row without one; None if none has one.
        mixture: What the training set is drawn from; its masses are the weights w.
        classes: Number K of classes of the data; None when they have none.

    Returns:
        ``{"label_law": [p_0, ..., p_(K-1)]}``; empty without classes, or without a labeled row in the mixture.
    """
    if labels is None or classes is None:
        return {}
    labeled, masses = labels != UNLABELED, mixture.masses
    law = torch.bincount(labels[labeled], weights=masses[labeled], minlength=classes)
    return {"label_law": (law / law.sum()).tolist()} if float(law.sum()) > 0 else {}  # equation 1


def recorded(facts: dict[str, Any]) -> dict[str, float]:
    """Return what the run's record says of a training set, by name."""
    protected = {f"protected_{name}": value for name, value in facts.get("protected", {}).items()}
    return {name: facts[name] for name in ("real_fraction", "effective_size")} | protected


def _mixture_of(generation: Generation, stack: MitigationStack) -> Mixture:
    pool = generation.pool
    gold = Mixture(pool.is_real.double(), int(pool.is_real.sum()), pool.origin, pool.generation)
    return stack.compose(gold, generation)


def _rehearse(generation: Generation, stack: MitigationStack) -> None:
    """Compose the first generation after gold and the last one over rows that nobody has sampled yet.

    Only where rows come from matters to a guarantee, so copies of gold's first row stand for what will be sampled.
    Raises ValueError if there is no place for all guaranteed rows; a stack of its own, as nothing has happened yet.
    """
    first, rows = generation.pool.stored(np.zeros(1, np.int64)), generation.samples_per_generation
    stand_in = np.broadcast_to(first, (rows, *first.shape[1:]))
    for index in sorted({1, generation.total - 1}) if generation.total > 1 else ():
        made = [provenance(rows, origin=Origin.SYNTHETIC, generation=later) for later in range(1, index + 1)]
        pool = DataPool([stand_in] * index, made, before=generation.pool)
        to_come = dataclasses.replace(generation, index=index, pool=pool)
        try:
            _mixture_of(to_come, MitigationStack(stack)).raised()
        except ValueError as error:
            raise ValueError(f"{list(stack)} cannot act together in generation {index}: {error}") from None
