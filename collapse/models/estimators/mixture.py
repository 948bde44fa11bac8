"""A mixture of Gaussians, fitted by expectation maximization: the model whose modes die one by one."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from einops import einsum, rearrange
from torch import Tensor

from collapse.data.rows import Batch
from collapse.models.estimators.em import (
    COVARIANCES,
    Components,
    Rows,
    Settings,
    first_components,
    fit_components,
    k_means,
    log_joint,
)
from collapse.models.estimators.points import PointEstimator, pick, square_root
from collapse.seeding import standard_normal

__all__ = ["GaussianMixture"]


class GaussianMixture(PointEstimator):
    r"""Weights, means and covariances of K components, of (locally) largest likelihood.

    .. math:: p(x) = \sum_k \pi_k\, \mathcal N(x;\, \mu_k, \Sigma_k)

    EM starts from the model's own parameters if it has some, as with ``initialization="warm"`` in a chain, and
    otherwise from hard assignment to centers: those of ``start``, or k-means on the rows. A component that no row has a
    share of has died: weight zero, mean and covariance as they were. It comes back only from such a new start.

    Args:
        components: Their number K, at least 1.
        dim: Dimension d of a row, at least 1.
        covariance_type: ``"full"``, ``"diagonal"`` (axes of the coordinates) or ``"spherical"`` (one variance each).
        replicates: R independent chains, on data with rows (R, d); None for rows (d,).
        iterations: Iterations of EM at most, at least 1.
        tolerance: Change of the mean log-likelihood per row, in nats, below which a replicate is done; at least 0.
        regularization: Added to every variance of a component, in the rows' squared units, at least 0. With 0 a
            component can collapse onto a point, which has an unbounded likelihood.
        start: K centers of d numbers each; None for k-means.

    Attributes:
        weights: (R, K) float64.
        mean: (R, K, d) float64.
        covariance: (R, K, d, d) float64.

    References:
        Dempster, Laird, Rubin, JRSS-B 39, 1977. In recursion: Shumailov et al., Nature 631, 2024.
    """

    weights: Tensor
    mean: Tensor
    covariance: Tensor

    def __init__(
        self,
        components: int = 2,
        dim: int = 1,
        *,
        covariance_type: str = "full",
        replicates: int | None = None,
        iterations: int = 100,
        tolerance: float = 1e-3,
        regularization: float = 1e-6,
        start: Sequence[Sequence[float]] | None = None,
    ) -> None:
        if components < 1 or iterations < 1 or not tolerance >= 0 or not 0 <= regularization < math.inf:
            raise ValueError(
                "GaussianMixture needs components >= 1, iterations >= 1, tolerance >= 0 and regularization >= 0, got "
                f"components={components}, iterations={iterations}, tolerance={tolerance}, "
                f"regularization={regularization}"
            )
        if covariance_type not in COVARIANCES:
            raise ValueError(f"covariance_type={covariance_type!r} must be one of {', '.join(COVARIANCES)}")
        super().__init__(dim, replicates)
        self.start = None if start is None else torch.as_tensor(start, dtype=torch.float64)
        if self.start is not None and self.start.shape != (components, dim):
            raise ValueError(f"start={start} must be components={components} centers of dim={dim} numbers each")
        self.components = components
        self.settings = Settings(covariance_type, regularization, iterations, tolerance)
        for name, shape in (("weights", ()), ("mean", (dim,)), ("covariance", (dim, dim))):
            self.register_buffer(name, torch.zeros(self.chains, components, *shape, dtype=torch.float64))

    @property
    def fitted(self) -> bool:
        """Whether there are parameters."""
        return bool((self.weights.sum(1) > 0).all())

    def finish(self) -> None:
        """Fit the rows, and forget them."""
        self.check_rows()
        rows = Rows(rearrange(self.points, "n r d -> r n d"), self.row_weights.T.expand(self.chains, -1))
        first = Components(self.weights, self.mean, self.covariance) if self.fitted else self._first(rows)
        found = fit_components(rows, first, self.settings)
        for buffer, value in zip((self.weights, self.mean, self.covariance), found, strict=True):
            buffer.copy_(value)
        self.begin()

    def _first(self, rows: Rows) -> Components:
        if self.start is None:
            centers = k_means(rows, self.components)
        else:
            centers = self.start.to(rows.x.device).expand(self.chains, -1, -1)
        return first_components(rows, centers, self.settings)

    def log_density(self, x: Tensor) -> Tensor:
        """Return the log-density in nats at rows (B, R, d), or (B, d) without replicates, as (B, R)."""
        self.check_fitted()
        rows = rearrange(self.arranged(x).to(torch.float64), "b r d -> r b d")
        return log_joint(rows, Components(self.weights, self.mean, self.covariance)).logsumexp(2).T

    def loss(self, batch: Batch) -> Tensor:
        """Return the negative log-likelihood of each row in nats, averaged over replicates, (B,)."""
        return -self.log_density(batch.x).mean(1)

    def sample(self, n: int, generator: torch.Generator, y: Tensor | None = None) -> Tensor:
        """Draw (n, d), or (n, R, d) with replicates.

        Raises:
            ValueError: If the model was not fitted.
        """
        self.check_fitted()
        uniform = torch.rand(n, self.chains, dtype=torch.float64, generator=generator, device=generator.device)
        chosen = pick(self.weights.T, uniform)[..., None]
        noise = standard_normal(n, self.chains, self.dim, generator=generator)
        x, roots = torch.zeros_like(noise), square_root(self.covariance)
        for index, (mean, root) in enumerate(zip(self.mean.unbind(1), roots.unbind(1), strict=True)):
            x = torch.where(chosen == index, mean + einsum(root, noise, "r i j, n r j -> n r i"), x)
        return self.emitted(x)

    def check_fitted(self) -> None:
        """Raise ValueError if there are no parameters."""
        if not self.fitted:
            raise ValueError(f"{self.describe()} was not fitted yet; fit it, or load a state")
