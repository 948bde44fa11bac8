"""Probabilistic principal component analysis: a Gaussian with few directions of its own."""

from __future__ import annotations

import torch
from einops import einsum
from torch import Tensor

from collapse.data.rows import Batch
from collapse.models.estimators.gaussian import Gaussian
from collapse.models.estimators.points import check_finite

__all__ = ["PPCA"]


class PPCA(Gaussian):
    r"""The q leading principal components of the training set, and equal noise in every direction.

    .. math:: x = \mu + Wz + \sigma\varepsilon, \qquad z \sim \mathcal N(0, I_q), \quad
        \varepsilon \sim \mathcal N(0, I_d), \qquad \Sigma = WW^\top + \sigma^2 I

    With the eigenvalues and eigenvectors of the sample covariance in falling order, the likelihood is largest at

    .. math:: W = U_q (\Lambda_q - \sigma^2 I)^{1/2}, \qquad \sigma^2 = \frac{1}{d-q} \sum_{i>q} \lambda_i

    which keeps the trace. No more than q + 1 different rows leave a noise variance of zero: such a model samples on the
    plane it has collapsed to, and has no density.

    Args:
        dim: Dimension d of a row, at least 1.
        latent_dim: Number q of components, in 0 to d - 1.
        ddof: 0 for maximum likelihood, 1 for the unbiased sample covariance.
        replicates: R independent chains, on data with rows (R, d); None for rows (d,).

    Attributes:
        mean: (R, d) float64.
        loadings: (R, d, q) float64, W.
        noise_variance: (R,) float64.
        covariance: (R, d, d) float64, that of the model.
        count: (R,) float64, rows fitted on, or the sum of their weights.

    References:
        Tipping, Bishop, "Probabilistic principal component analysis", JRSS-B 61, 1999, equations 7 and 8.
    """

    loadings: Tensor
    noise_variance: Tensor

    def __init__(self, dim: int, latent_dim: int, *, ddof: int = 0, replicates: int | None = None) -> None:
        if not 0 <= latent_dim < dim:
            raise ValueError(f"latent_dim={latent_dim} must lie in 0 to dim - 1, below dim={dim}")
        super().__init__(dim, ddof, replicates)
        self.latent_dim = latent_dim
        self.register_buffer("loadings", torch.zeros(self.chains, dim, latent_dim, dtype=torch.float64))
        self.register_buffer("noise_variance", torch.zeros(self.chains, dtype=torch.float64))

    def finish(self) -> None:
        """Keep the leading directions of the sample covariance, and level the others.

        Raises:
            ValueError: If the training set held values that are NaN or infinite.
        """
        super().finish()
        check_finite(self, self.covariance)
        values, vectors = torch.linalg.eigh(self.covariance)  # in rising order
        rest = self.dim - self.latent_dim
        noise = values[:, :rest].mean(1).clamp_min(0)
        loadings = vectors[:, :, rest:] * (values[:, rest:] - noise[:, None]).clamp_min(0).sqrt()[:, None, :]
        self.noise_variance.copy_(noise)
        self.loadings.copy_(loadings.flip(2))
        identity = torch.eye(self.dim, dtype=noise.dtype, device=noise.device)
        self.covariance.copy_(einsum(loadings, loadings, "r i k, r j k -> r i j") + noise[:, None, None] * identity)

    def loss(self, batch: Batch) -> Tensor:
        """Return the negative log-likelihood of each row in nats, averaged over replicates, (B,).

        Raises:
            ValueError: If the noise variance of a replicate is zero.
        """
        if not bool((self.noise_variance > 0).all()):
            raise ValueError(f"{self.describe()} has no density without noise; fit it on more rows than latent_dim + 1")
        return super().loss(batch)
