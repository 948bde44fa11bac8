"""Choosing rows by chance: fixed numbers of them, with given probabilities, for one experiment or for many."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["distinct", "joined", "systematic"]


def joined(parts: list[Tensor]) -> Tensor:
    """Put parts (n_i,) or (n_i, R) below one another; those that left nothing to chance are the same for all R."""
    replicates = max(part.shape[1] if part.ndim == 2 else 0 for part in parts)
    if replicates:
        parts = [part if part.ndim == 2 else part[:, None].expand(-1, replicates) for part in parts]
    return torch.cat(parts)


def systematic(fraction: Tensor, rows: int, generator: torch.Generator, replicates: int | None) -> Tensor:
    """Pick ``rows`` distinct positions with inclusion probabilities ``fraction`` (M,), which sum to ``rows``.

    Returns:
        (rows,), or (rows, R) with an independent choice in every column.
    """
    if replicates is not None and 4 * rows <= len(fraction) and bool((fraction == fraction[0]).all()):
        return distinct(len(fraction), rows, generator, replicates)
    if replicates is None:
        order = torch.randperm(len(fraction), generator=generator)[None]
    else:
        order = torch.rand(replicates, len(fraction), dtype=torch.float64, generator=generator).argsort(1)  # (R, M)
    cumulative = fraction[order].cumsum(1)
    start = torch.rand(len(order), 1, dtype=torch.float64, generator=generator)
    # The end is scaled to the exact number of rows: rounding must neither lose nor invent one.
    marks = (torch.arange(rows, dtype=torch.float64) + start) * (cumulative[:, -1:] / rows)
    places = torch.searchsorted(cumulative, marks, right=True).clamp_(max=len(fraction) - 1)
    chosen = order.gather(1, places).T  # (rows, R)
    return chosen[:, 0] if replicates is None else chosen


def distinct(total: int, rows: int, generator: torch.Generator, replicates: int) -> Tensor:
    """Pick ``rows`` of ``total`` positions for every replicate, all subsets equally likely, (rows, R).

    The first distinct values of a sequence of independent draws: draw as many as are missing until none is. The time
    goes with the rows picked, where a random order of all would cost R times the whole pool.
    """
    chosen = torch.randint(total, (replicates, rows), generator=generator).sort(1).values
    while True:
        again = torch.zeros_like(chosen, dtype=torch.bool)
        again[:, 1:] = chosen[:, 1:] == chosen[:, :-1]
        missing = int(again.sum())
        if not missing:
            return chosen.T
        chosen[again] = torch.randint(total, (missing,), generator=generator)
        chosen = chosen.sort(1).values
