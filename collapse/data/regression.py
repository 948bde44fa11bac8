"""Rows of a linear model: covariates and a noisy label."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from collapse.data.drawn import DrawnData
from collapse.data.rows import Samples
from collapse.data.toy import coordinates
from collapse.seeding import standard_normal

__all__ = ["RegressionData"]


def orthonormal(x: Tensor) -> Tensor:
    """Turn (n, R, d) random covariates into ones with X'X = n I in every replicate."""
    if len(x) < x.shape[-1]:
        raise ValueError(f"an orthonormal design of {x.shape[-1]} columns needs as many rows, got rows={len(x)}")
    return math.sqrt(len(x)) * torch.linalg.qr(x.transpose(0, 1)).Q.transpose(0, 1).contiguous()


DESIGNS: dict[str, Callable[[Tensor], Tensor]] = {"normal": lambda x: x, "orthonormal": orthonormal}


class RegressionData(DrawnData):
    r"""Rows (x, y) of a linear model, the label last.

    .. math:: x \sim \mathcal N(0, I_d), \qquad y = x^\top w + \sigma\varepsilon, \qquad
        \varepsilon \sim \mathcal N(0, 1)

    Args:
        rows: Gold rows of each experiment.
        dim: Dimension d of the covariates.
        weight: The true weights w, one number for all coordinates or d of them.
        noise: Standard deviation sigma of the labels, at least 0.
        design: ``"normal"``, or ``"orthonormal"``: made so that X'X = n I.
        replicates: R experiments side by side, rows of shape (R, d + 1); None for rows of shape (d + 1,).
        reference_rows, seed, batch_size, num_workers: As in ``GaussianData``.

    Raises:
        ValueError: If an argument is outside its range or has another length than ``dim``.
    """

    def __init__(
        self,
        rows: int = 100,
        dim: int = 1,
        *,
        weight: float | Sequence[float] = 1.0,
        noise: float = 1.0,
        design: str = "normal",
        replicates: int | None = None,
        reference_rows: int = 1000,
        seed: int = 0,
        batch_size: int | None = None,
        num_workers: int = 0,
    ) -> None:
        super().__init__(rows, reference_rows, seed, batch_size, num_workers, replicates)
        if dim < 1 or not 0 <= noise < math.inf:
            raise ValueError(f"dim = {dim} must be at least 1, noise = {noise} at least 0 and finite")
        if design not in DESIGNS:
            raise ValueError(f"design must be one of {', '.join(DESIGNS)}, got {design!r}")
        self.dim, self.noise, self.design = dim, noise, design
        self.weight = coordinates("weight", weight, dim)

    def draw(self, rows: int, rng: torch.Generator) -> Samples:
        """Draw float64 rows, (rows, d + 1) or (rows, R, d + 1)."""
        x = DESIGNS[self.design](standard_normal(rows, self.replicates or 1, self.dim, generator=rng))
        y = x @ self.weight + self.noise * standard_normal(rows, self.replicates or 1, generator=rng)
        drawn = torch.cat([x, y[..., None]], dim=-1)
        return Samples(drawn if self.replicates is not None else drawn[:, 0])
