"""Distances between Gaussians from their moments: the closed forms behind the metrics of sets.

Leading axes hold independent pairs of Gaussians, for example the replicates of a chain of estimators.
"""

from typing import Any

import torch
from torch import Tensor

__all__ = ["gaussian_frechet", "kl_gaussian", "moments"]


def gaussian_frechet(mean_p: Tensor, cov_p: Tensor, mean_q: Tensor, cov_q: Tensor) -> Tensor:
    r"""Compute the squared 2-Wasserstein distance between two Gaussians from their moments.

    .. math:: \lVert\mu_p - \mu_q\rVert^2 + \operatorname{tr}\bigl(\Sigma_p + \Sigma_q - 2(\Sigma_p\Sigma_q)^{1/2}\bigr)

    A singular covariance has a value, and a finite gradient: it leaves out the directions in which the root has none.

    Args:
        mean_p: Mean of the first law, (..., D).
        cov_p: Covariance of the first law, (..., D, D), symmetric positive semi-definite, possibly singular or 0.
        mean_q: Mean of the second law, (..., D).
        cov_q: Covariance of the second law, (..., D, D), likewise.

    Returns:
        The squared distance, (...), float64, never negative.

    Raises:
        ValueError: If a shape does not fit or a number is not finite.

    References:
        Dowson and Landau, "The Fréchet Distance between Multivariate Normal Distributions", 1982, equation 4.
    """
    (mean_p, cov_p), (mean_q, cov_q) = moments("p", mean_p, cov_p), moments("q", mean_q, cov_q)
    traces = (cov_p + cov_q).diagonal(dim1=-2, dim2=-1).sum(-1)
    squared = (mean_p - mean_q).square().sum(-1) + traces - 2 * _RootTrace.apply(cov_p, cov_q)
    return squared.clamp(min=0)


def kl_gaussian(mean_p: Tensor, cov_p: Tensor, mean_q: Tensor, cov_q: Tensor) -> Tensor:
    r"""Compute the Kullback-Leibler divergence between two Gaussians from their moments.

    .. math:: \mathrm{KL}(p \Vert q) = \tfrac12 \bigl[\operatorname{tr}(\Sigma_q^{-1} \Sigma_p)
        + \Delta^\top \Sigma_q^{-1} \Delta - D + \ln(\det \Sigma_q / \det \Sigma_p)\bigr], \quad \Delta = \mu_p - \mu_q

    Args:
        mean_p: Mean of p, (..., D).
        cov_p: Covariance of p, (..., D, D), symmetric positive definite.
        mean_q: Mean of q, (..., D).
        cov_q: Covariance of q, (..., D, D), symmetric positive definite.

    Returns:
        The divergence in nats, (...), float64.

    Raises:
        ValueError: If a shape does not fit, a number is not finite, or a covariance is not positive definite; the
            divergence is then infinite or undefined.
    """
    (mean_p, cov_p), (mean_q, cov_q) = moments("p", mean_p, cov_p), moments("q", mean_q, cov_q)
    root_p, root_q = _cholesky("cov_p", cov_p), _cholesky("cov_q", cov_q)
    log_ratio = 2 * (root_q.diagonal(dim1=-2, dim2=-1).log() - root_p.diagonal(dim1=-2, dim2=-1).log()).sum(-1)
    spread = torch.linalg.solve_triangular(root_q, root_p, upper=False).square().sum((-2, -1))
    shift = torch.linalg.solve_triangular(root_q, (mean_p - mean_q)[..., None], upper=False).square().sum((-2, -1))
    return (spread + shift - mean_p.shape[-1] + log_ratio) / 2


def moments(name: str, mean: Tensor, covariance: Tensor) -> tuple[Tensor, Tensor]:
    """Check the moments of one Gaussian and bring them to float64.

    Args:
        name: What errors call the law.
        mean: Mean, (..., D), finite.
        covariance: Covariance, (..., D, D), finite and symmetric.

    Returns:
        Mean and covariance in float64.

    Raises:
        ValueError: If the shapes do not fit, a number is not finite, or the covariance is not symmetric.
    """
    width = mean.shape[-1:]
    if mean.ndim == 0 or covariance.ndim < 2 or covariance.shape[-2:] != width * 2:
        raise ValueError(
            f"mean_{name} has shape {tuple(mean.shape)} and cov_{name} has shape {tuple(covariance.shape)}, but "
            "(..., D) and (..., D, D) are needed; in one dimension pass a vector of one and a 1 by 1 matrix."
        )
    if not (torch.isfinite(mean).all() and torch.isfinite(covariance).all()):
        raise ValueError(f"mean_{name} or cov_{name} has NaN or infinite numbers; drop the fits that diverged.")
    if not torch.allclose(covariance, covariance.mT):
        raise ValueError(f"cov_{name} is not symmetric; pass (cov + cov.mT) / 2.")
    return mean.double(), covariance.double()


class _RootTrace(torch.autograd.Function):
    r"""tr (S_p S_q)^(1/2) and its gradient, without a derivative of eigenvectors.

    With :math:`S_p = AA^\top, S_q = BB^\top`, it is the nuclear norm of :math:`A^\top B = USV^\top`: no root of a
    product, which is not symmetric, and no inverse, so that singular covariances lose no digits. It is also

    .. math:: \min_{G \succ 0} \tfrac12 \bigl(\operatorname{tr} S_p G + \operatorname{tr} S_q G^{-1}\bigr),

    so that the derivatives are G/2 and its inverse over 2 at the minimizer, the optimal transport map
    :math:`G = B V S^{-1} V^\top B^\top`, :math:`G^{-1} = A U S^{-1} U^\top A^\top`.
    """

    @staticmethod
    def forward(ctx: Any, cov_p: Tensor, cov_q: Tensor) -> Tensor:
        ctx.save_for_backward(cov_p, cov_q)
        return torch.linalg.svdvals(_factor(cov_p).mT @ _factor(cov_q)).sum(-1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        # From the arguments, so that a second derivative is right; it does go through eigenvectors.
        a, b = (_factor(covariance) for covariance in ctx.saved_tensors)
        u, s, vh = torch.linalg.svd(a.mT @ b)
        left, right = a @ u, b @ vh.mT
        kept = s > _floor(s[..., :1], s)
        inverse = torch.where(kept, 1 / torch.where(kept, s, 1), 0)[..., None, :]
        half = gradient[..., None, None] / 2
        return half * (right * inverse) @ right.mT, half * (left * inverse) @ left.mT


def _factor(covariance: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(covariance)
    # Rounding noise of a null direction, 1e-16, would become 1e-8 under the square root.
    kept = values > _floor(values[..., -1:], values)
    return vectors * values.where(kept, torch.zeros_like(values)).sqrt()[..., None, :]


def _floor(largest: Tensor, values: Tensor) -> Tensor:
    return largest.clamp(min=0) * values.shape[-1] * torch.finfo(values.dtype).eps


def _cholesky(name: str, covariance: Tensor) -> Tensor:
    factor, failed = torch.linalg.cholesky_ex(covariance)
    if failed.any():
        raise ValueError(
            f"{name} is not positive definite, so that the divergence is infinite or undefined; "
            "drop the directions without variance, or use gaussian_frechet."
        )
    return factor
