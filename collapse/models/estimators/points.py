"""Estimators that need the rows themselves, and the algebra they share."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from collapse.data.rows import Batch
from collapse.models.estimators.estimator import Estimator

__all__ = ["PointEstimator", "check_finite", "pick", "square_root"]


class PointEstimator(Estimator):
    """A model that is fitted on the whole training set at once: it collects the rows until the last batch.

    Args:
        dim: Dimension d of a row, at least 1.
        replicates: R independent chains, on data with rows (R, d); None for rows (d,).

    Attributes:
        points: (n, R, d) float64, the rows.
        row_weights: (n, 1) or (n, R) float64, the weight of each in the likelihood.
    """

    sized_by_data: ClassVar[frozenset[str]] = frozenset({"points", "row_weights"})

    points: Tensor
    row_weights: Tensor

    def __init__(self, dim: int = 1, replicates: int | None = None) -> None:
        if dim < 1:
            raise ValueError(f"dim={dim} must be at least 1")
        super().__init__((dim,), replicates)
        self.dim = dim
        self.register_buffer("points", torch.zeros(0, self.chains, dim, dtype=torch.float64))
        self.register_buffer("row_weights", torch.zeros(0, 1, dtype=torch.float64))

    def begin(self) -> None:
        """Forget the rows taken up so far."""
        self.points = self.points.new_zeros(0, self.chains, self.dim)
        self.row_weights = self.row_weights.new_zeros(0, 1)

    def update(self, batch: Batch, weights: Tensor | None = None) -> None:
        """Collect the rows (B, R, d).

        Raises:
            ValueError: If one of them is NaN or infinite.
        """
        rows = batch.x.to(torch.float64)
        check_finite(self, rows)
        given = rows.new_ones(len(rows), 1) if weights is None else weights
        width = max(self.row_weights.shape[1], given.shape[1])
        self.points = torch.cat([self.points, rows])
        self.row_weights = torch.cat([self.row_weights.expand(-1, width), given.expand(-1, width)])

    def check_rows(self) -> None:
        """Raise ValueError unless there are rows with weight in every replicate."""
        if not bool((self.row_weights.sum(0) > 0).all()):
            raise ValueError(f"{self.describe()} was fitted on no rows, or on rows whose weights are all zero")


def check_finite(model: Estimator, values: Tensor) -> None:
    """Raise ValueError if rows, or what was made of them, are NaN or infinite."""
    if values.numel() and not bool(torch.isfinite(torch.stack(values.aminmax())).all()):
        raise ValueError(f"{model.describe()} cannot take up rows that are NaN or infinite; drop them first")


def pick(weights: Tensor, uniform: Tensor) -> Tensor:
    """Pick rows with probabilities proportional to their weights, by inverting the cumulative sum.

    Args:
        weights: (n, 1) or (n, R), at least 0, with a positive sum.
        uniform: (m, R) numbers in [0, 1).

    Returns:
        (m, R) int64 indices below n.
    """
    if bool((weights == weights[0, 0]).all()):
        return (uniform * len(weights)).long()
    cumulative = weights.T.cumsum(1).expand(uniform.shape[1], -1).contiguous()
    marks = uniform.T.contiguous() * cumulative[:, -1:]
    return torch.searchsorted(cumulative, marks, right=True).clamp_(max=len(weights) - 1).T


def square_root(covariance: Tensor) -> Tensor:
    """Return A with A A' = covariance, (..., d, d). By eigenvalues: a Cholesky factorization fails on a covariance that
    has collapsed."""
    if covariance.shape[-1] == 1:
        return covariance.clamp_min(0).sqrt()
    values, vectors = torch.linalg.eigh(covariance)
    return vectors * values.clamp_min(0).sqrt().unsqueeze(-2)
