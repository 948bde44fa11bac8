"""The Gaussian estimator: the model whose collapse has a closed form."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from einops import einsum, rearrange
from torch import Tensor

from collapse.data.rows import Batch
from collapse.models.estimators.estimator import Estimator
from collapse.seeding import standard_normal

__all__ = ["Gaussian"]

BLOCK = 1 << 18  # numbers worked on at a time: as many as a processor's cache holds


class Gaussian(Estimator):
    r"""Mean and covariance of the training set; samples from N(mean, lambda * covariance).

    .. math:: \mu = \frac1n \sum_i x_i, \qquad \Sigma = \frac{1}{n - \mathrm{ddof}} \sum_i (x_i-\mu)(x_i-\mu)^\top

    With row weights w both sums are weighted, and n is the sum of the weights.

    Args:
        dim: Dimension d of a row, at least 1.
        ddof: 0 for maximum likelihood, 1 for the unbiased covariance. The two have different limits: under *replace*
            the expected variance stays constant for ever with 1 and vanishes with 0; the variance itself vanishes
            almost surely with both.
        replicates: R independent chains, on data with rows (R, d); None for rows (d,).
        variance_multiplier: lambda, at least 0; 1 is unbiased sampling. A recorded sampler setting.
        known_variance: Do not fit the covariance: it is this number, above 0, times the identity.

    Attributes:
        mean: (R, d) float64.
        covariance: (R, d, d) float64.
        scatter: (R, d, d) float64, the sum of the outer products of deviations.
        count: (R,) float64, rows fitted on, or the sum of their weights.

    References:
        Shumailov et al., Nature 631, 2024 (ddof=1); Alemohammad et al., ICLR 2024, arXiv:2307.01850 (the bias lambda).
    """

    fresh_samples: ClassVar[bool] = True

    mean: Tensor
    covariance: Tensor
    scatter: Tensor
    count: Tensor

    def __init__(
        self,
        dim: int = 1,
        ddof: int = 1,
        replicates: int | None = None,
        *,
        variance_multiplier: float = 1.0,
        known_variance: float | None = None,
    ) -> None:
        if dim < 1 or ddof not in (0, 1) or not 0 <= variance_multiplier < math.inf:
            raise ValueError(
                "Gaussian needs dim >= 1, ddof 0 or 1 and variance_multiplier >= 0, "
                f"got dim={dim}, ddof={ddof}, variance_multiplier={variance_multiplier}"
            )
        if known_variance is not None and not 0 < known_variance < math.inf:
            raise ValueError(f"known_variance={known_variance} must be above 0 and finite, or None to fit it")
        super().__init__((dim,), replicates)
        self.dim, self.ddof, self.known_variance = dim, ddof, known_variance
        self.variance_multiplier = variance_multiplier
        self.register_buffer("mean", torch.zeros(self.chains, dim, dtype=torch.float64))
        self.register_buffer("covariance", torch.zeros(self.chains, dim, dim, dtype=torch.float64))
        self.register_buffer("scatter", torch.zeros(self.chains, dim, dim, dtype=torch.float64))
        self.register_buffer("count", torch.zeros(self.chains, dtype=torch.float64))

    @property
    def sampler_settings(self) -> dict[str, Any]:
        """The variance multiplier, unless it is 1."""
        return {} if self.variance_multiplier == 1 else {"variance_multiplier": self.variance_multiplier}

    def begin(self) -> None:
        """Forget the rows taken up so far."""
        for buffer in (self.mean, self.covariance, self.scatter, self.count):
            buffer.zero_()

    def update(self, batch: Batch, weights: Tensor | None = None) -> None:
        """Merge the moments of the rows (B, R, d) into the running ones.

        References:
            Chan, Golub, LeVeque, "Algorithms for computing the sample variance", 1983, equations 2.1.
        """
        count, mean, scatter = self.count[:, None], self.mean, self.scatter
        size = max(1, BLOCK // (self.chains * self.dim))
        for start in range(0, len(batch.x), size):
            rows = batch.x[start : start + size].to(torch.float64)
            factor = None if weights is None else weights[start : start + size, :, None].expand(-1, self.chains, 1)
            here = torch.full_like(count, len(rows)) if factor is None else factor.sum(0)
            center = rows.mean(0) if factor is None else (factor * rows).sum(0) / here.clamp_min(torch.finfo().tiny)
            total = count + here
            shift, share = center - mean, here / total.clamp_min(torch.finfo().tiny)
            scatter = scatter + _scatter(rows - center, factor) + _outer(shift) * (count * share)[:, :, None]
            count, mean = total, mean + shift * share
        self.count.copy_(count[:, 0])
        self.mean.copy_(mean)
        self.scatter.copy_(scatter)

    def finish(self) -> None:
        """Set the covariance; zero where there are too few rows for one."""
        if self.known_variance is not None:
            self.covariance.copy_(torch.eye(self.dim).to(self.covariance) * self.known_variance)
        else:
            divisor = (self.count - self.ddof)[:, None, None]
            self.covariance.copy_(torch.where(divisor > 0, self.scatter / divisor, 0))

    def loss(self, batch: Batch) -> Tensor:
        """Return the negative log-likelihood of each row in nats, averaged over replicates, (B,).

        Raises:
            ValueError: If a covariance has collapsed: such a law has no density.
        """
        deviation = self.arranged(batch.x).to(torch.float64) - self.mean
        factor, failed = torch.linalg.cholesky_ex(self.covariance)
        if bool(failed.any()):
            raise ValueError(
                f"{self.describe()} has no density in {int((failed > 0).sum())} of {self.chains} replicates, where the "
                "covariance has collapsed; its samples are still defined"
            )
        white = torch.linalg.solve_triangular(factor, rearrange(deviation, "b r d -> r d b"), upper=False)
        constant = self.dim / 2 * math.log(2 * math.pi) + factor.diagonal(dim1=1, dim2=2).log().sum(1)
        return (white.square().sum(1) / 2 + constant[:, None]).mean(0)

    def sample(self, n: int, generator: torch.Generator, y: Tensor | None = None) -> Tensor:
        """Draw (n, d), or (n, R, d) with replicates.

        Raises:
            ValueError: If the model was fitted on too few rows to have a covariance.
        """
        self.check_fitted()
        x = standard_normal(n, *self.mean.shape, generator=generator)
        factor = self.factor(self.variance_multiplier * self.covariance)
        if self.dim == 1:
            return self.emitted(torch.addcmul(self.mean, x, factor[..., 0], out=x))
        return self.emitted(einsum(x, factor, "n r j, r i j -> n r i").add_(self.mean))

    def check_fitted(self) -> None:
        """Raise ValueError if there is no covariance to sample with."""
        least = float(self.count.min())
        if not least > (0 if self.known_variance is not None else self.ddof):
            raise ValueError(f"{self.describe()} was fitted on {least:g} rows; it needs more than ddof")

    def factor(self, covariance: Tensor) -> Tensor:
        """Return a square root of covariances (R, d, d). By eigenvalues: a Cholesky factorization fails on one that
        has collapsed, which is what this model is here to do."""
        if self.dim == 1:
            return covariance.clamp_min(0).sqrt()
        values, vectors = torch.linalg.eigh(covariance)
        return vectors * values.clamp_min(0).sqrt()[:, None, :]


def _scatter(rows: Tensor, weights: Tensor | None) -> Tensor:
    """(R, d, d) sum over (B, R, d) deviations of their weighted outer products."""
    if rows.shape[-1] == 1:
        square = rows.square_()
        return (square if weights is None else square.mul_(weights)).sum(0)[..., None]
    return einsum(rows if weights is None else weights * rows, rows, "b r i, b r j -> r i j")


def _outer(x: Tensor) -> Tensor:
    return x[:, :, None] * x[:, None, :]
