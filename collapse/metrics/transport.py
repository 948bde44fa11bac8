"""Optimal transport: how far mass must move from one set to another, exactly on lines and on average over them."""

import math

import torch
from torch import Tensor

from collapse.metrics.gaussians import moments
from collapse.metrics.metric import feature_sets
from collapse.metrics.normality import random_directions
from collapse.seeding import key

__all__ = ["wasserstein_1d", "sliced_wasserstein", "gaussian_sliced_wasserstein"]


def wasserstein_1d(x: Tensor, y: Tensor, p: float = 1.0) -> Tensor:
    r"""Compute the p-th power of the Wasserstein distance between two samples on a line, exactly.

    .. math:: W_p^p = \int_0^1 \bigl\lvert F_x^{-1}(u) - F_y^{-1}(u) \bigr\rvert^p \,du \qquad (1)

    So p = 1 gives :math:`W_1` and p = 2 gives the **squared** :math:`W_2`. The sizes may differ. Two independent
    n-samples are not at 0: for the uniform law on [0, 1] the expected squared distance is :math:`1/(3(n+1))`.

    Args:
        x: Samples, (..., n), n >= 1; leading axes hold independent pairs and broadcast.
        y: Samples, (..., m), m >= 1.
        p: Power, at least 1.

    Returns:
        :math:`W_p^p`, (...), float64.

    Raises:
        ValueError: If p is below 1, a sample is empty or has a non-finite number, or leading axes do not broadcast.

    References:
        Peyré and Cuturi, "Computational Optimal Transport", 2019. arXiv:1803.00567, remark 2.30.

    Example:
        >>> float(wasserstein_1d(torch.tensor([0, 1, 2]), torch.tensor([0.5, 1.5]), p=2))
        0.25
    """
    if not p >= 1:
        raise ValueError(f"p = {p}, but a Wasserstein distance needs p >= 1; use 1 or 2.")
    x, y = _sample("x", x), _sample("y", y)
    n, m = x.shape[-1], y.shape[-1]
    # Both quantile functions are constant between neighboring multiples of 1/n and 1/m: integers in units of 1/(nm).
    steps = [size * torch.arange(1, count + 1, device=x.device) for count, size in ((n, m), (m, n))]
    ends = torch.cat(steps).unique()
    widths = ends.diff(prepend=ends.new_zeros(1)).double() / (n * m)
    try:
        gaps = x.sort(-1).values[..., (ends - 1) // m] - y.sort(-1).values[..., (ends - 1) // n]
    except RuntimeError as error:
        raise ValueError(
            f"x has shape {tuple(x.shape)} and y has shape {tuple(y.shape)}, but all axes before the last must "
            "broadcast; put the samples on the last axis."
        ) from error
    return (gaps.abs() ** p * widths).sum(-1)  # equation (1)


def sliced_wasserstein(
    reference: Tensor,
    generated: Tensor,
    *,
    directions: Tensor | None = None,
    n_projections: int = 128,
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""Compute the squared sliced 2-Wasserstein distance: the mean of squared distances over projections.

    .. math:: \tfrac1S \sum_s W_2^2\bigl(\{\theta_s^\top x_i\}, \{\theta_s^\top y_j\}\bigr)

    Without directions and generator it is a function of the two sets alone: equally spaced angles in the plane, and in
    more dimensions the same uniform directions for every call.

    Args:
        reference: Features of the reference set, (N, D), N >= 1.
        generated: Features of generated samples, (M, D), M >= 1.
        directions: Unit columns, (D, S).
        n_projections: Number of directions S, at least 1, if they are not given.
        generator: Source of uniform directions, on the CPU, if they are not given.

    Returns:
        The squared distance in squared feature units, (), float64.

    Raises:
        ValueError: If a set is not a finite matrix, the widths differ, or the directions do not fit.

    References:
        Bonneel et al., "Sliced and Radon Wasserstein Barycenters of Measures", 2015.
    """
    x, y = feature_sets(reference, generated, rows=1)
    if directions is None:
        directions = _uniform_directions(x.shape[1], n_projections, generator)
    a = _checked(directions, x.shape[1]).to(x.device)
    return wasserstein_1d((x.double() @ a).mT, (y.double() @ a).mT, p=2).mean()


def gaussian_sliced_wasserstein(
    mean_p: Tensor, cov_p: Tensor, mean_q: Tensor, cov_q: Tensor, *, directions: Tensor | None = None
) -> Tensor:
    r"""Compute the squared sliced 2-Wasserstein distance between two Gaussians from their moments.

    With :math:`s^2 = \operatorname{tr}\Sigma/D` and the covariances of unit scale :math:`P = \Sigma_p/s_p^2`,
    :math:`Q = \Sigma_q/s_q^2`, it is the sum of a shift, a scale and a shape,

    .. math:: \frac{\lVert\mu_p - \mu_q\rVert^2}{D} + (s_p - s_q)^2 + s_p s_q\, \mathbb{E}_\theta
        \Bigl(\sqrt{\theta^\top P \theta} - \sqrt{\theta^\top Q \theta}\Bigr)^2 \qquad (1)

    which is exact up to the mean over directions in the last term, and so for proportional covariances in any
    dimension. In the plane the default, 4096 angles, is exact to rounding unless a covariance is nearly singular.

    Args:
        mean_p: Mean of the first law, (..., D).
        cov_p: Covariance of the first law, (..., D, D), symmetric positive semi-definite.
        mean_q: Mean of the second law, (..., D).
        cov_q: Covariance of the second law, (..., D, D), symmetric positive semi-definite.
        directions: Unit columns for the shape, (D, S); 4096 fixed ones if None.

    Returns:
        The squared distance, (...), float64.

    Raises:
        ValueError: If a shape does not fit or a number is not finite.
    """
    (mean_p, cov_p), (mean_q, cov_q) = moments("p", mean_p, cov_p), moments("q", mean_q, cov_q)
    width = mean_p.shape[-1]
    a = _checked(_uniform_directions(width, 4096) if directions is None else directions, width).to(mean_p.device)
    scales, roots = [], []
    for covariance in (cov_p, cov_q):
        square = covariance.diagonal(dim1=-2, dim2=-1).mean(-1)
        along = (a * (covariance @ a)).sum(-2).clamp(min=0)  # (..., S)
        scales.append(square.sqrt())
        roots.append((along / torch.where(square > 0, square, 1)[..., None]).sqrt())
    shift = (mean_p - mean_q).square().mean(-1)
    shape = (roots[0] - roots[1]).square().mean(-1)
    return shift + (scales[0] - scales[1]).square() + scales[0] * scales[1] * shape  # equation (1)


def _uniform_directions(width: int, count: int, generator: torch.Generator | None = None) -> Tensor:
    if count < 1:
        raise ValueError(f"n_projections = {count}, but at least one direction is needed; use 128.")
    if generator is not None:
        return random_directions(width, count, generator)
    if width == 1:
        return torch.ones(1, 1)
    if width == 2:
        angles = math.pi * torch.arange(count, dtype=torch.float64) / count
        return torch.stack([angles.cos(), angles.sin()])
    return random_directions(width, count, torch.Generator().manual_seed(key(width)))


def _checked(directions: Tensor, width: int) -> Tensor:
    if directions.ndim != 2 or directions.shape[0] != width or directions.shape[1] == 0:
        raise ValueError(
            f"directions has shape {tuple(directions.shape)}, but unit columns, ({width}, S), are needed; "
            "make them with random_directions."
        )
    if not ((directions.double().norm(dim=0) - 1).abs() < 1e-4).all():
        raise ValueError("directions has columns that are not of unit length; divide it by directions.norm(dim=0).")
    return directions.double()


def _sample(name: str, x: Tensor) -> Tensor:
    if x.ndim == 0 or x.shape[-1] == 0 or not torch.isfinite(x).all():
        raise ValueError(
            f"{name} has shape {tuple(x.shape)}, but finite samples, (..., n) with n >= 1, are needed; drop NaN and "
            "infinite ones."
        )
    return x.double()
