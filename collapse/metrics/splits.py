"""What sets two sets of rows apart, for many divisions of the same rows into two sets at once."""

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from collapse.metrics.neighbors import distances

__all__ = ["NEIGHBORS", "STATISTICS", "Landscape", "divisions"]

STATISTICS: dict[str, tuple[int, ...]] = {
    "mean_shift": (1,),
    "variance_ratio": (-1, 1),
    "coverage": (-1,),
    "support": (-1,),
    "outlier_share": (-1, 1),
    "duplicates": (1,),
    "copies": (1,),
}
"""What is compared, and on which sides a value can stand out: -1 low, 1 high."""

NEIGHBORS = 5
OUTLYING = 0.02
ROWS, ENTRIES = 1024, 1 << 22  # held at once: rows with their distances; labels of neighbors


class Landscape(NamedTuple):
    """What of n rows does not depend on which of them are called incoming.

    Attributes:
        centered: (n, D) float64 rows around their mean, flattened.
        neighbors: (n, k) each row's nearest other rows.
        twins: (n, k) bool, whether they equal the row.
        outlying: (n,) bool, whether the row is among the farthest from their k-th neighbor.
    """

    centered: Tensor
    neighbors: Tensor
    twins: Tensor
    outlying: Tensor

    @classmethod
    def of(cls, rows: Tensor) -> "Landscape":
        """Find the neighbors of rows (n, D), n > k, ``ROWS`` rows at a time."""
        near = []
        for start in range(0, len(rows), ROWS):
            d = distances(rows[start : start + ROWS], rows)
            here = torch.arange(len(d), device=rows.device)
            d[here, start + here] = math.inf  # a row is no neighbor of its own
            near.append(d.topk(NEIGHBORS, largest=False))
        radii, neighbors = (torch.cat(parts) for parts in zip(*near, strict=True))
        outlying = torch.zeros(len(rows), dtype=torch.bool, device=rows.device)
        outlying[radii[:, -1].topk(math.ceil(OUTLYING * len(rows))).indices] = True
        rows = rows.double()
        return cls(rows - rows.mean(0), neighbors, radii == 0, outlying)

    def statistics(self, chosen: Tensor) -> Tensor:
        """Compute every statistic of every division.

        Args:
            chosen: (B, n) bool, which rows stand for the incoming ones.

        Returns:
            (B, S) float64, a column for each of ``STATISTICS``.
        """
        others, near = ~chosen, chosen[:, self.neighbors]  # (B, n), (B, n, k)
        m, n = chosen.sum(1).double(), others.sum(1).double()
        norms, sums = self.centered.square().sum(1), (chosen.double() @ self.centered).square().sum(1)
        squares, pooled = chosen.double() @ norms, norms.sum() / (len(norms) - 1)
        spread = (squares - sums / m) / (m - 1)
        spread_of_others = (norms.sum() - squares - sums / n) / (n - 1)  # their sum is the opposite one
        columns = {
            "mean_shift": sums * (1 / m + 1 / n) / pooled,
            "variance_ratio": spread.clamp_min(0) / spread_of_others.clamp_min(1e-12 * pooled),
            "coverage": (near.any(2) & others).sum(1) / n,
            "support": ((~near).any(2) & chosen).sum(1) / m,
            "outlier_share": (chosen & self.outlying).sum(1) / m,
            "duplicates": ((near & self.twins).any(2) & chosen).sum(1) / m,
            "copies": ((~near & self.twins).any(2) & chosen).sum(1) / m,
        }
        return torch.stack([columns[name] for name in STATISTICS], 1)


def divisions(actual: Tensor, count: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Yield a division of n rows and then random ones of the same sizes, as many at a time as memory likes.

    Args:
        actual: (n,) bool.
        count: How many in all, the actual one included.
        generator: On its device; the only source of randomness.

    Yields:
        (b, n) bool.
    """
    n, m = len(actual), int(actual.sum())
    yield actual[None]
    at_once = max(1, ENTRIES // (n * NEIGHBORS))
    for start in range(1, count, at_once):
        numbers = torch.rand(min(at_once, count - start), n, generator=generator, device=actual.device)
        yield torch.zeros_like(numbers, dtype=torch.bool).scatter_(1, numbers.topk(m, dim=1).indices, True)
