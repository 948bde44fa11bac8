"""Kernel density estimation: the model that remembers every row, and blurs it."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from einops import einsum, rearrange
from torch import Tensor

from collapse.data.rows import Batch
from collapse.models.estimators.points import PointEstimator, pick, square_root
from collapse.seeding import standard_normal

__all__ = ["KDE"]

BLOCK = 1 << 16  # kernels evaluated at a time: as many numbers as a processor's cache holds

# Factor c of n (effective) rows in d dimensions: the kernel has c^2 times the rows' unbiased covariance.
RULES: dict[str, Callable[[Tensor, int], Tensor]] = {
    "scott": lambda n, dim: n ** (-1 / (dim + 4)),
    "silverman": lambda n, dim: (n * (dim + 2) / 4) ** (-1 / (dim + 4)),
}


class KDE(PointEstimator):
    r"""A normal kernel on every row of the training set; a sample is a row drawn by weight, plus the kernel's noise.

    .. math:: f(x) = \frac{1}{\sum_i w_i} \sum_i w_i\, \mathcal N(x;\, x_i, H), \qquad
        H = h^2 I \quad\text{or}\quad H = c(n_\text{eff})^2\, \hat\Sigma, \quad
        n_\text{eff} = \frac{(\sum_i w_i)^2}{\sum_i w_i^2}

    A fixed kernel widens the density by h^2 a generation, a data-driven one by a factor: a KDE diffuses where other
    models collapse. With ``bandwidth=0`` it is the empirical distribution: samples are rows drawn with replacement.

    Args:
        dim: Dimension d of a row, at least 1.
        bandwidth: Standard deviation h of the kernel, at least 0; or the rule that scales the rows' covariance
            (ddof=1), ``"scott"`` or ``"silverman"``, which needs two rows.
        replicates: R independent chains, on data with rows (R, d); None for rows (d,).

    Attributes:
        points: (n, R, d) float64.
        row_weights: (n, 1) or (n, R) float64.
        kernel_covariance: (R, d, d) float64, H.

    References:
        Scott, "Multivariate Density Estimation", 1992; Silverman, "Density Estimation", 1986. In recursion: Kazdan et
        al., "Collapse or thrive?", 2024, arXiv:2410.16713.
    """

    kernel_covariance: Tensor

    def __init__(self, dim: int = 1, bandwidth: float | str = "scott", replicates: int | None = None) -> None:
        if isinstance(bandwidth, str) and bandwidth not in RULES:
            raise ValueError(f"bandwidth={bandwidth!r} must be a number or one of {', '.join(RULES)}")
        if not isinstance(bandwidth, str) and not 0 <= bandwidth < math.inf:
            raise ValueError(f"bandwidth={bandwidth} must be finite and at least 0")
        super().__init__(dim, replicates)
        self.bandwidth = bandwidth
        self.register_buffer("kernel_covariance", torch.zeros(self.chains, dim, dim, dtype=torch.float64))

    def finish(self) -> None:
        """Set the kernel."""
        self.check_rows()
        if isinstance(self.bandwidth, str):
            self.kernel_covariance.copy_(self._scaled_covariance(RULES[self.bandwidth]))
        else:
            self.kernel_covariance.copy_(self.bandwidth**2 * torch.eye(self.dim, dtype=torch.float64))

    def _scaled_covariance(self, rule: Callable[[Tensor, int], Tensor]) -> Tensor:
        share = self.row_weights / self.row_weights.sum(0)  # (n, 1) or (n, R)
        squared = share.square().sum(0)  # one over the effective number of rows
        if not bool((squared < 1).all()):
            raise ValueError(f"bandwidth={self.bandwidth!r} needs at least two rows; give a number")
        deviation = self.points - einsum(share.expand(-1, self.chains), self.points, "n r, n r d -> r d")
        scatter = einsum(share[..., None] * deviation, deviation, "n r i, n r j -> r i j")
        return (rule(1 / squared, self.dim).square() / (1 - squared))[:, None, None] * scatter

    def log_density(self, x: Tensor) -> Tensor:
        """Return the log-density in nats at rows (B, R, d), or (B, d) without replicates, as (B, R).

        Raises:
            ValueError: If there is none, because a kernel has no width in some direction.
        """
        self.check_rows()
        factor, failed = torch.linalg.cholesky_ex(self.kernel_covariance)
        if bool(failed.any()):
            raise ValueError(
                f"{self.describe()} has no density in {int((failed > 0).sum())} of {self.chains} replicates, where a "
                "kernel has width zero; give a positive bandwidth"
            )
        places, points = (
            torch.linalg.solve_triangular(factor, rearrange(rows, "n r d -> r d n"), upper=False)
            for rows in (self.arranged(x).to(torch.float64), self.points)
        )
        constant = self.dim / 2 * math.log(2 * math.pi) + factor.diagonal(dim1=1, dim2=2).log().sum(1)
        log_weights = (self.row_weights / self.row_weights.sum(0)).log().T
        return (log_kernel_sums(places, points, log_weights) - constant[:, None]).T

    def loss(self, batch: Batch) -> Tensor:
        """Return the negative log-density of each row in nats, averaged over replicates, (B,)."""
        return -self.log_density(batch.x).mean(1)

    def sample(self, n: int, generator: torch.Generator, y: Tensor | None = None) -> Tensor:
        """Draw (n, d), or (n, R, d) with replicates.

        Raises:
            ValueError: If the model was fitted on no rows.
        """
        self.check_rows()
        uniform = torch.rand(n, self.chains, dtype=torch.float64, generator=generator, device=generator.device)
        chosen = pick(self.row_weights, uniform)
        x = self.points[chosen, torch.arange(self.chains, device=chosen.device)]
        if self.bandwidth == 0:
            return self.emitted(x)
        noise = standard_normal(n, self.chains, self.dim, generator=generator)
        return self.emitted(x + einsum(square_root(self.kernel_covariance), noise, "r i j, n r j -> n r i"))


def log_kernel_sums(places: Tensor, points: Tensor, log_weights: Tensor) -> Tensor:
    r"""Return the logarithms of sums of unit kernels, without their constant, block by block.

    .. math:: \log \sum_i w_i \exp\bigl(-\tfrac12 \lVert z - z_i \rVert^2\bigr)

    Args:
        places: (R, d, B) z.
        points: (R, d, n).
        log_weights: (1, n) or (R, n).

    Returns:
        (R, B).
    """
    chains, _, count = points.shape
    size = max(1, BLOCK // chains)  # points of a block
    step = max(1, BLOCK // (chains * min(size, count)))  # places of a block
    parts = []
    for near in places.split(step, dim=2):
        total = torch.full_like(near[:, 0], -math.inf)
        for block, weight in zip(points.split(size, dim=2), log_weights.split(size, dim=1), strict=True):
            exponent = weight[:, None, :]
            for a, b in zip(near.unbind(1), block.unbind(1), strict=True):
                exponent = exponent - (a[:, :, None] - b[:, None, :]).square_() / 2
            total = torch.logaddexp(total, exponent.logsumexp(2))
        parts.append(total)
    return torch.cat(parts, dim=1)
