"""The Gaussian estimator: the model whose collapse has a closed form."""

from __future__ import annotations

import math
from typing import Any

import torch
from einops import einsum, rearrange
from torch import Tensor

from collapse.data.rows import Batch
from collapse.models.estimators.estimator import Estimator

__all__ = ["Gaussian"]


class Gaussian(Estimator):
    r"""Mean and covariance of the training set; samples from N(mean, lambda * covariance).

    .. math:: \mu = \frac1n \sum_i x_i, \qquad \Sigma = \frac{1}{n - \mathrm{ddof}} \sum_i (x_i-\mu)(x_i-\mu)^\top

    Args:
        dim: Dimension d of a row, at least 1.
        ddof: 0 for maximum likelihood, 1 for the unbiased covariance. The two have different limits: under *replace*
            the expected variance stays constant for ever with 1 and vanishes with 0; the variance itself vanishes
            almost surely with both.
        replicates: R independent chains, on data with rows (R, d); None for rows (d,).
        variance_multiplier: lambda, at least 0; 1 is unbiased sampling. A recorded sampler setting.

    Attributes:
        mean: (R, d) float64.
        covariance: (R, d, d) float64.
        count: () rows fitted on.

    References:
        Shumailov et al., Nature 631, 2024 (ddof=1); Alemohammad et al., ICLR 2024, arXiv:2307.01850 (the bias lambda).
    """

    mean: Tensor
    covariance: Tensor
    count: Tensor
    scatter: Tensor

    def __init__(
        self, dim: int = 1, ddof: int = 1, replicates: int | None = None, variance_multiplier: float = 1.0
    ) -> None:
        super().__init__()
        if dim < 1 or ddof not in (0, 1) or variance_multiplier < 0 or (replicates is not None and replicates < 1):
            raise ValueError(
                "Gaussian needs dim >= 1, ddof 0 or 1, replicates >= 1 or None and variance_multiplier >= 0, "
                f"got dim={dim}, ddof={ddof}, replicates={replicates}, "
                f"variance_multiplier={variance_multiplier}"
            )
        self.dim, self.ddof, self.replicates = dim, ddof, replicates
        self.variance_multiplier = variance_multiplier
        chains = replicates or 1
        self.register_buffer("mean", torch.zeros(chains, dim, dtype=torch.float64))
        self.register_buffer("covariance", torch.zeros(chains, dim, dim, dtype=torch.float64))
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))
        self.register_buffer("scatter", torch.zeros(chains, dim, dim, dtype=torch.float64), persistent=False)

    @property
    def sampler_settings(self) -> dict[str, Any]:
        """The variance multiplier, unless it is 1."""
        return {} if self.variance_multiplier == 1 else {"variance_multiplier": self.variance_multiplier}

    def begin(self) -> None:
        """Forget the rows taken up so far."""
        for buffer in (self.mean, self.covariance, self.count, self.scatter):
            buffer.zero_()

    def update(self, x: Tensor) -> None:
        """Merge the moments of ``x`` (B, R, d) or (B, d) into the running ones.

        Raises:
            ValueError: If the rows have another size.

        References:
            Chan, Golub, LeVeque, "Algorithms for computing the sample variance", 1983, equations 2.1.
        """
        if x[:1].numel() != self.mean.numel():
            raise ValueError(
                f"Gaussian(dim={self.dim}, replicates={self.replicates}) cannot take up rows of shape "
                f"{tuple(x.shape[1:])}; give it the data's dim and replicates"
            )
        rows = x.to(torch.float64).reshape(len(x), *self.mean.shape)
        total = self.count + len(rows)
        mean = rows.mean(0)
        shift = mean - self.mean
        rows = rows - mean
        self.scatter += einsum(rows, rows, "b r i, b r j -> r i j")
        self.scatter += einsum(shift, shift, "r i, r j -> r i j") * (self.count * len(rows) / total)
        self.mean += shift * (len(rows) / total)
        self.count.copy_(total)
        torch.div(self.scatter, self.count - self.ddof, out=self.covariance)

    def loss(self, batch: Batch) -> Tensor:
        """Return the negative log-likelihood of each row in nats, averaged over replicates, (B,)."""
        deviation = batch.x.to(torch.float64).reshape(len(batch.x), *self.mean.shape) - self.mean
        solved = torch.linalg.solve(self.covariance, rearrange(deviation, "b r d -> r d b"))
        distance = einsum(deviation, solved, "b r d, r d b -> b r")
        constant = self.dim * math.log(2 * math.pi) + torch.linalg.slogdet(self.covariance).logabsdet
        return ((distance + constant) / 2).mean(1)

    def sample(self, n: int, generator: torch.Generator, y: Tensor | None = None) -> Tensor:
        """Draw (n, d), or (n, R, d) with replicates.

        Raises:
            ValueError: If the model was fitted on too few rows to have a covariance.
        """
        if self.count <= self.ddof:
            raise ValueError(
                f"Gaussian(ddof={self.ddof}) was fitted on {int(self.count)} rows; it needs more than ddof"
            )
        noise = torch.randn(n, *self.mean.shape, dtype=torch.float64, generator=generator, device=self.mean.device)
        x = self.mean + einsum(noise, self._factor(), "n r j, r i j -> n r i")
        return x if self.replicates is not None else x[:, 0]

    def _factor(self) -> Tensor:
        """(R, d, d) square root of the sampling covariance. By eigenvalues: a Cholesky factorization fails on a
        covariance that has collapsed, which is what this model is here to do."""
        if self.dim == 1:
            return (self.variance_multiplier * self.covariance).sqrt()
        values, vectors = torch.linalg.eigh(self.variance_multiplier * self.covariance)
        return vectors * values.clamp_min(0).sqrt()[:, None, :]
