"""Compose: from the pool to the rows a generation trains on."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import Any

from torch import Tensor

from collapse.data.generation import Generation
from collapse.data.mixture import Mixture
from collapse.mitigations.stack import MitigationStack
from collapse.seeding import Stream

__all__ = ["compose", "training_facts"]


def compose(generation: Generation, stack: MitigationStack, replicates: int | None = None) -> Generation:
    """Return the generation with its training set drawn: a pure function of pool, mitigations, seed and index.

    It starts from gold alone. Synthetic rows are excluded until a mitigation, or the default regime, lets them in.
    """
    pool = generation.pool
    gold = Mixture(pool.is_real.double(), int(pool.is_real.sum()), pool.origin, pool.generation)
    mixture = stack.compose(gold, generation)
    rows = mixture.draw(generation.generator(Stream.COMPOSE), replicates)
    return dataclasses.replace(generation, rows=rows, facts=training_facts(pool.is_real, rows, mixture))


def training_facts(is_real: Tensor, rows: Tensor, mixture: Mixture) -> dict[str, Any]:
    """Describe a training set: how many rows of each origin, and a digest of which.

    Args:
        is_real: (N,) bool, of the pool.
        rows: (n,) or (n, R) the rows drawn.
        mixture: What they were drawn from.
    """
    real = int(is_real[rows].sum())
    replicates = rows.numel() // len(rows)
    return {
        "rows": len(rows),
        "real": real // replicates if real % replicates == 0 else real / replicates,  # a mean where chance decides
        "real_fraction": real / rows.numel(),
        "effective_size": mixture.effective_size,
        "training_set": hashlib.sha256(rows.numpy().tobytes()).hexdigest(),
    }
