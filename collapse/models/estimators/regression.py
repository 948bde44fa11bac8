"""Linear regression on labels that its predecessors gave: the regression of model collapse theory."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import ClassVar

import torch
from einops import einsum
from torch import Tensor

from collapse.data.rows import Batch
from collapse.models.estimators.estimator import Estimator
from collapse.seeding import standard_normal

__all__ = ["LinearRegression"]

Covariates = Callable[["LinearRegression", int, torch.Generator], Tensor]


def fresh_covariates(model: LinearRegression, n: int, generator: torch.Generator) -> Tensor:
    """New covariates from N(0, I), (n, R, d)."""
    return standard_normal(n, *model.weight.shape, generator=generator)


def same_covariates(model: LinearRegression, n: int, generator: torch.Generator) -> Tensor:
    """The covariates of the oldest rows of the training set once more, (n, R, d)."""
    if n != len(model.design):
        raise ValueError(
            f"covariates='same' labels the {len(model.design)} oldest rows of the training set again, all in one call, "
            f"and was asked for {n}; let samples_per_generation be that number and chunk_size at least as large"
        )
    return model.design


COVARIATES: dict[str, Covariates] = {"fresh": fresh_covariates, "same": same_covariates}


class LinearRegression(Estimator):
    r"""Least squares, ridge or minimum-norm weights of rows (x, y); samples x anew or again and labels them itself.

    .. math:: \hat w = (X^\top X + \lambda I)^+ X^\top y, \qquad \tilde y = x^\top \hat w + \sigma\varepsilon

    With lambda = 0 and fewer rows than dimensions (or repeated ones) the pseudo-inverse gives the solution of least
    norm; no rows at all give zero weights.

    Args:
        dim: Dimension d of the covariates, at least 1. Rows have d + 1 entries, the label last.
        noise: Standard deviation sigma of the noise on sampled labels, at least 0.
        ridge: Penalty lambda on the squared norm of the weights, at least 0; added to X'X, not to X'X / n.
        covariates: ``"fresh"``: from N(0, I) for every sampled row. ``"same"``: those of the oldest generation in the
            training set, which are gold's under accumulation and, handed on, under replacement: only labels change.
        replicates: R independent chains, on data with rows (R, d + 1); None for rows (d + 1,).

    Attributes:
        weight: (R, d) float64.
        gram: (R, d, d) float64, X'X.
        moment: (R, d) float64, X'y.
        design: (n, R, d) float64, the covariates to label again; empty with fresh ones.
        design_rows: (n, 2) int64, generation and pool row of each.

    References:
        Dohmatob, Feng, Kempe, "Model collapse demystified", 2024, arXiv:2402.07712 (fresh covariates, ridge, least
        norm); Gerstgrasser et al., "Is model collapse inevitable?", COLM 2024, arXiv:2404.01413 (the same covariates).
    """

    sized_by_data: ClassVar[frozenset[str]] = frozenset({"design", "design_rows"})

    weight: Tensor
    gram: Tensor
    moment: Tensor
    design: Tensor
    design_rows: Tensor

    def __init__(
        self,
        dim: int,
        noise: float = 1.0,
        *,
        ridge: float = 0.0,
        covariates: str = "fresh",
        replicates: int | None = None,
    ) -> None:
        if dim < 1 or not 0 <= noise < math.inf or not 0 <= ridge < math.inf:
            raise ValueError(
                "LinearRegression needs dim >= 1, noise >= 0 and ridge >= 0, "
                f"got dim={dim}, noise={noise}, ridge={ridge}"
            )
        if covariates not in COVARIATES:
            raise ValueError(f"covariates must be one of {', '.join(COVARIATES)}, got {covariates!r}")
        super().__init__((dim + 1,), replicates)
        self.dim, self.noise, self.ridge, self.covariates = dim, noise, ridge, covariates
        for name, shape in (("weight", (dim,)), ("gram", (dim, dim)), ("moment", (dim,))):
            self.register_buffer(name, torch.zeros(self.chains, *shape, dtype=torch.float64))
        self.register_buffer("design", torch.zeros(0, self.chains, dim, dtype=torch.float64))
        self.register_buffer("design_rows", torch.zeros(0, 2, dtype=torch.int64))

    def begin(self) -> None:
        """Forget the rows taken up so far."""
        for buffer in (self.weight, self.gram, self.moment):
            buffer.zero_()
        self.design, self.design_rows = (
            self.design.new_zeros(0, self.chains, self.dim),
            self.design_rows.new_zeros(0, 2),
        )

    def update(self, batch: Batch, weights: Tensor | None = None) -> None:
        """Add the products of the rows (B, R, d + 1) to the running ones."""
        x, y = batch.x[..., :-1].to(torch.float64), batch.x[..., -1].to(torch.float64)
        weighted = x if weights is None else x * weights[:, :, None]
        self.gram += einsum(weighted, x, "b r i, b r j -> r i j")
        self.moment += einsum(weighted, y, "b r i, b r -> r i")
        if self.covariates == "same":
            self._keep_oldest(x, batch)

    def _keep_oldest(self, x: Tensor, batch: Batch) -> None:
        if batch.row.ndim > 1:
            raise ValueError("covariates='same' needs the same rows in every replicate; draw none of them by chance")
        x = torch.cat([self.design, x])
        place = torch.cat([self.design_rows, torch.stack([batch.generation, batch.row], dim=1)])
        keep = (place[:, 0] == place[:, 0].min()).nonzero().squeeze(1)
        keep = keep[place[keep, 1].argsort()]  # in the pool's order, whatever that of the batches was
        self.design, self.design_rows = x[keep], place[keep]

    def finish(self) -> None:
        """Solve for the weights."""
        # By eigenvalues, as rows may be too few or repeated, and a factorization would not tell that from rounding.
        values, vectors = torch.linalg.eigh(self.gram)
        cut = values[:, -1:] * self.dim * torch.finfo(torch.float64).eps
        inverse = torch.where(values + self.ridge > cut, 1 / (values + self.ridge), 0)
        rotated = einsum(vectors, self.moment, "r i k, r i -> r k")
        self.weight.copy_(einsum(vectors, inverse * rotated, "r i k, r k -> r i"))

    def loss(self, batch: Batch) -> Tensor:
        """Return half the squared error of each row's label, averaged over replicates, (B,): the negative
        log-likelihood of unit noise up to a constant."""
        rows = self.arranged(batch.x).to(torch.float64)
        residual = rows[..., -1] - einsum(rows[..., :-1], self.weight, "b r i, r i -> b r")
        return (residual.square() / 2).mean(1)

    def sample(self, n: int, generator: torch.Generator, y: Tensor | None = None) -> Tensor:
        """Draw covariates and label them: (n, d + 1), or (n, R, d + 1) with replicates.

        Raises:
            ValueError: If the covariates are to be the same and ``n`` is another number of rows.
        """
        x = COVARIATES[self.covariates](self, n, generator)
        label = einsum(x, self.weight, "n r i, r i -> n r")
        label = label + self.noise * standard_normal(*label.shape, generator=generator)
        return self.emitted(torch.cat([x, label[..., None]], dim=-1))
