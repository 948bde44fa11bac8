"""Guaranteed rows: the measure closest to a given one that leaves no row below its floor, and who is on the list."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["GuaranteedRows", "raised", "realized_guarantee", "remainder"]

SLACK = 1e-9  # of a row: what rounding may take from a count


def raised(weights: Tensor, floor: Tensor, total: float, *, kind: str = "") -> Tensor:
    r"""Return the measure closest to ``weights`` of which ``total`` draws expect every row at least ``floor`` times.

    .. math:: c_i = \max(f_i, \lambda w_i), \qquad \sum_i c_i = n

    Among all c with that sum and those floors it minimizes the Kullback-Leibler divergence from w: the guaranteed rows
    take their places from all others in proportion.

    Args:
        weights: (N,) float64 w, non-negative.
        floor: (N,) int64 f, non-negative.
        total: Rows to draw n, at least 0.
        kind: What rows these are, for the sentence that says why it cannot be.

    Returns:
        (N,) float64: ``weights`` themselves where they expect enough of every row already, else the counts c.

    Raises:
        ValueError: If the floors have a sum above n, or there is nobody to draw beside the guaranteed rows.
    """
    need, mass = int(floor.sum()), float(weights.sum())
    if need > total + SLACK:
        to, among = (f" to {kind} rows", " for them") if kind else ("", "")
        raise ValueError(
            f"{need} places are guaranteed{to} and the training set has {total:g}{among}; guarantee fewer rows, or let "
            "it have more"
        )
    if need == 0 or (mass > 0 and bool((weights * (total / mass) + SLACK >= floor).all())):
        return weights
    if need >= total - SLACK:
        return floor.double()
    if mass == 0:
        raise ValueError(
            f"{need} of {total:g} places are guaranteed and no {f'{kind} row'.strip()} may take the others; check the "
            "mitigations"
        )
    bound = floor > 0
    weight, places = weights[bound] / mass, floor[bound].double()
    tip, order = (places / weight).sort()  # the scale from which on a row has its floor without help
    zero = weight.new_zeros(1)
    # With the first k of them above their floors, everybody who is free shares what the others leave:
    left = total - need + torch.cat([zero, places[order].cumsum(0)])
    free = weights[~bound].sum() / mass + torch.cat([zero, weight[order].cumsum(0)])
    k = int((tip * free[1:] <= left[1:]).sum())
    return torch.maximum(floor.double(), weights * (left[k] / free[k] / mass))


def remainder(weights: Tensor, floor: Tensor, total: float) -> Tensor:
    """Return what is left of the counts of a ``raised`` measure when every row has been taken ``floor`` times, (N,)."""
    mass = weights.sum()
    return weights if not mass > 0 else (weights * (total / mass) - floor).clamp_(min=0)


def realized_guarantee(rows: Tensor, copies: Tensor) -> dict[str, float]:
    """Describe what became of the guaranteed rows in a training set.

    Args:
        rows: (n,) or (n, R) rows drawn.
        copies: (N,) int64, how often each row is guaranteed; at least one of them above zero.

    Returns:
        ``rows``, their number; ``quota``, how often the rarest of them came, in any replicate; ``trained``, how often
        they came together (the mean over replicates) and ``share``, which share of the training set that is.
    """
    who = (copies > 0).nonzero().squeeze(1)
    place = torch.full_like(copies, -1)
    place[who] = torch.arange(len(who))
    columns = rows.reshape(len(rows), -1)  # (n, R)
    seen = torch.zeros(len(who) + 1, columns.shape[1], dtype=torch.int64)  # the last row is everybody else's
    seen.scatter_add_(0, place[columns] % len(seen), torch.ones_like(columns))
    trained = int(seen[:-1].sum())
    return {
        "rows": len(who),
        "quota": int(seen[:-1].min()),
        "trained": trained // columns.shape[1] if trained % columns.shape[1] == 0 else trained / columns.shape[1],
        "share": trained / rows.numel(),
    }


class GuaranteedRows:
    """Which pool rows are guaranteed, to be asked on any device and without waiting for it.

    Pool rows keep their indices as the pool grows, and rows beyond the last guaranteed one need no entry: the list of
    one generation answers for the pool of any other.

    Args:
        copies: (N,) int64, how often each row is guaranteed; at least one of them above zero.
    """

    def __init__(self, copies: Tensor) -> None:
        mask = copies[: int(copies.nonzero().max()) + 1] > 0
        self._masks = {mask.device: mask}

    def among(self, rows: Tensor) -> Tensor:
        """Return which of ``rows`` are guaranteed, bool in their shape and on their device."""
        mask = self._masks.get(rows.device)
        if mask is None:
            mask = self._masks[rows.device] = next(iter(self._masks.values())).to(rows.device)
        return mask[rows.clamp(max=len(mask) - 1)] & (rows < len(mask))

    def at_least_one(self, factors: Tensor, rows: Tensor) -> Tensor:
        r"""Return max(w_i, 1) for guaranteed rows and w_i for the others.

        Args:
            factors: (B,) or (B, R) weights w.
            rows: (B,) or (B, R) pool rows.
        """
        inside = self.among(rows)
        if inside.ndim < factors.ndim:
            inside = inside[:, None]
        elif factors.ndim < inside.ndim:
            factors = factors[:, None]
        return torch.where(inside, factors.clamp(min=1), factors)
