"""Strata: how far out in the tails each row of a set lies, by several notions of a tail."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from xxhash import xxh3_128

from collapse.data.pool import DataPool
from collapse.data.rows import UNLABELED

__all__ = ["SCORES", "class_rarity", "content", "holds_tokens", "neighbor_distance", "tail", "token_rarity"]

BLOCK = 1 << 23  # distances held at a time
HASHED = 1 << 14  # rows


def class_rarity(labels: Tensor) -> Tensor:
    """Score rows by their class, rare ones first: minus the number of rows with the same label.

    Args:
        labels: (N,) int64 labels; rows without one have the lowest score.

    Returns:
        (N,) float64.
    """
    _, place, count = labels.unique(return_inverse=True, return_counts=True)
    return torch.where(labels == UNLABELED, -torch.inf, -count[place].double())


def neighbor_distance(x: Tensor, k: int) -> Tensor:
    r"""Score rows by the distance to their k-th nearest neighbor, which is large where the density is small.

    .. math:: \hat p_k(x_i) = \frac{k}{(N - 1)\, V_D\, \operatorname{NND}_k(x_i)^D}

    Distances come from scalar products, exactly for integers, in float64 about the mean otherwise, and are rounded to
    single precision: equal distances shall be ties on every machine.

    Args:
        x: (N, ...) rows, flattened.
        k: Which neighbor, at least 1, the row itself not counted; below N.

    Returns:
        (N,) float32.

    Raises:
        ValueError: If there is no k-th neighbor.

    References:
        Loftsgaarden, Quesenberry, "A nonparametric estimate of a multivariate density function", Annals of Mathematical
        Statistics 36, 1965.
    """
    if not 1 <= k < len(x):
        raise ValueError(f"k={k} must be at least 1 and below the {len(x)} rows: the k-th neighbor is another row")
    flat = x.reshape(len(x), -1).double()
    center = flat.mean(0)
    flat = flat - (center if x.is_floating_point() else center.round())
    square = flat.square().sum(1)
    radii = []
    for first in range(0, len(flat), size := max(1, BLOCK // len(flat))):
        part = slice(first, first + size)
        squared = square[part, None] + square - 2 * flat[part] @ flat.T
        here = torch.arange(len(squared))
        squared[here, first + here] = -1  # the row itself is the nearest, whatever rounding says
        radii.append(squared.topk(k + 1, dim=1, largest=False).values[:, k])
    return torch.cat(radii).clamp_(min=0).sqrt_().float()


def token_rarity(x: Tensor) -> Tensor:
    r"""Compute the rarity of every token, :math:`-\log` of its frequency among all tokens of all rows.

    Args:
        x: (N, ...) integer tokens.

    Returns:
        (N, L) float64 in nats, rows flattened.
    """
    flat = x.reshape(len(x), -1)
    _, place, count = flat.unique(return_inverse=True, return_counts=True)
    return -(count.double() / flat.numel()).log()[place]


def tail(score: Tensor, share: float) -> Tensor:
    """Return the rows with the highest scores, ties in row order.

    Args:
        score: (N,) scores, no NaN.
        share: Share of the rows, in (0, 1].

    Returns:
        (max(1, round(share N)),) int64 row indices in rising order.
    """
    count = max(1, round(share * len(score)))
    return score.sort(descending=True, stable=True).indices[:count].sort().values


def content(pool: DataPool, rows: Tensor) -> str:
    """Return the XXH3-128 of rows (N,) of a pool and of their labels, wherever they lie, in hexadecimal."""
    digest = xxh3_128(f"{pool.dtype} {pool.row_shape} {len(rows)}".encode())
    for part in rows.split(HASHED):
        digest.update(pool.stored(part.numpy()).tobytes())
    if pool.labels is not None:
        digest.update(pool.labels[rows].numpy().tobytes())
    return digest.hexdigest()


def holds_tokens(pool: DataPool) -> bool:
    """Whether the rows are tokens, integers without distances; the bytes of images are measurements."""
    return pool.dtype.kind in "iu" and pool.dtype != np.uint8


def by_class(pool: DataPool, gold: Tensor, k: int) -> Tensor:
    """Rows of the rarest classes first."""
    if pool.labels is None:
        raise ValueError("by='class' needs labels, and gold has none; use by='density'")
    return class_rarity(pool.labels[gold])


def by_density(pool: DataPool, gold: Tensor, k: int) -> Tensor:
    """Rows far from their k-th neighbor first, in the space they are stored in."""
    if holds_tokens(pool):
        raise ValueError(f"by='density' needs rows with a distance, and gold's are {pool.dtype} tokens; use by='token'")
    return neighbor_distance(torch.from_numpy(pool.stored(gold.numpy())), k)


def by_token(pool: DataPool, gold: Tensor, k: int) -> Tensor:
    """Rows whose tokens are rare on average first."""
    return _tokens(pool, gold, "token").mean(1).float()  # equal up to the order of a sum is equal


def by_rarest_token(pool: DataPool, gold: Tensor, k: int) -> Tensor:
    """Rows with the rarest token first."""
    return _tokens(pool, gold, "rarest_token").amax(1)


def _tokens(pool: DataPool, gold: Tensor, by: str) -> Tensor:
    if not holds_tokens(pool):
        raise ValueError(f"by={by!r} counts tokens, and gold's rows are {pool.dtype}; use by='density'")
    return token_rarity(torch.from_numpy(pool.stored(gold.numpy()).astype(np.int64)))


SCORES = {"class": by_class, "density": by_density, "token": by_token, "rarest_token": by_rarest_token}
"""Name -> (pool, rows of gold (G,), k) -> their scores (G,), high in the tails."""
