"""A diffusion model with the exact score of the Gaussian it was fitted to: what is left is the sampler's own bias."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from einops import einsum
from torch import Tensor

from collapse.models.estimators.gaussian import Gaussian
from collapse.models.estimators.points import check_finite
from collapse.seeding import standard_normal
from collapse.theory.diffusion import SAMPLERS, reverse_steps

__all__ = ["GaussianDiffusion"]


class GaussianDiffusion(Gaussian):
    r"""Mean and covariance of the training set, sampled by running a reverse diffusion with their exact score.

    From :math:`x_K \sim \mathcal N(0, I)`, with the exact prediction of the noise in :math:`x_k`,

    .. math:: \hat\epsilon_k(x) = \sqrt{1-\bar\alpha_k}\, \bigl(\bar\alpha_k \Sigma + (1-\bar\alpha_k) I\bigr)^{-1}
        \bigl(x - \sqrt{\bar\alpha_k}\, \mu\bigr), \qquad \bar\alpha_k = \prod_{j \le k} (1 - \beta_j)

    each step is linear, and separate in every direction of the covariance's eigenvectors. A sampler of finitely many
    steps does not return N(mean, covariance): in every generation it multiplies the variance by a factor of its own,
    which depends on the variance. At the default levels ``"ddpm_beta"`` draws every variance towards one and the others
    shrink it. The loss is that of the fitted Gaussian, not of the sampler.

    Args:
        dim: Dimension d of a row, at least 1.
        steps: Number K of steps, at least 1.
        beta_start: First of the K noise levels beta, which rise linearly, above 0.
        beta_end: The last, at least ``beta_start`` and below 1.
        sampler: ``"ddpm_beta"`` or ``"ddpm_posterior"``, after the noise a step adds, or ``"ddim"``, which adds none.
        ddof: 0 for maximum likelihood, 1 for the unbiased covariance.
        replicates: R independent chains, on data with rows (R, d); None for rows (d,).

    Attributes:
        mean: (R, d) float64.
        covariance: (R, d, d) float64.
        count: (R,) float64, rows fitted on, or the sum of their weights.

    References:
        Ho et al., "Denoising diffusion probabilistic models", 2020, arXiv:2006.11239, equations 7 and 11; Song et al.,
        "Denoising diffusion implicit models", 2021, arXiv:2010.02502, equation 12.
    """

    def __init__(
        self,
        dim: int = 1,
        steps: int = 50,
        *,
        beta_start: float = 1e-4,
        beta_end: float = 0.2,
        sampler: str = "ddpm_beta",
        ddof: int = 1,
        replicates: int | None = None,
    ) -> None:
        if steps < 1 or not 0 < beta_start <= beta_end < 1:
            raise ValueError(
                "GaussianDiffusion needs steps >= 1 and 0 < beta_start <= beta_end < 1, "
                f"got steps={steps}, beta_start={beta_start}, beta_end={beta_end}"
            )
        if sampler not in SAMPLERS:
            raise ValueError(f"sampler={sampler!r} must be one of {', '.join(SAMPLERS)}")
        super().__init__(dim, ddof, replicates)
        self.sampler, self.betas = sampler, np.linspace(beta_start, beta_end, steps)

    @property
    def sampler_settings(self) -> dict[str, Any]:
        """The sampler and its number of steps: none of them samples from the fitted law."""
        return {"sampler": self.sampler, "steps": len(self.betas)}

    def finish(self) -> None:
        """Set the covariance, and check it.

        Raises:
            ValueError: If the training set held values that are NaN or infinite.
        """
        super().finish()
        check_finite(self, self.covariance)

    def sample(self, n: int, generator: torch.Generator, y: Tensor | None = None) -> Tensor:
        """Draw (n, d), or (n, R, d) with replicates.

        Raises:
            ValueError: If the model was fitted on too few rows to have a covariance.
        """
        self.check_fitted()
        values, vectors = torch.linalg.eigh(self.covariance)
        mean = einsum(vectors, self.mean, "r i k, r i -> r k")
        x = standard_normal(n, *self.mean.shape, generator=generator)
        for step in reverse_steps(self.betas, self.sampler, mean=mean, variance=values.clamp_min(0)):
            x = x.mul_(step.scale).add_(step.shift)
            if step.noise_variance > 0:
                x.add_(standard_normal(*x.shape, generator=generator), alpha=step.noise_variance**0.5)
        return self.emitted(einsum(vectors, x, "r i k, n r k -> n r i"))
