"""Expectation maximization for mixtures of normal laws, many of them at once."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from einops import einsum
from torch import Tensor

from collapse.models.estimators.points import pick

__all__ = [
    "COVARIANCES",
    "Components",
    "Rows",
    "Settings",
    "first_components",
    "fit_components",
    "k_means",
    "log_joint",
]

LAPS = 20  # of k-means, which only finds a start
ROUNDING = 10 * torch.finfo(torch.float64).eps  # share of the mass below which a component has died
JITTER = 1e-12  # of a component's own variance, added where a covariance is factorized


class Components(NamedTuple):
    """Mixtures of K normal laws: weights (R, K), mean (R, K, d), covariance (R, K, d, d), all float64."""

    weights: Tensor
    mean: Tensor
    covariance: Tensor


class Rows(NamedTuple):
    """What they are fitted to: rows x (R, n, d) and their mass (R, n), at least 0; both float64."""

    x: Tensor
    mass: Tensor


def spherical(covariance: Tensor) -> Tensor:
    """Give every direction the mean variance."""
    mean = covariance.diagonal(dim1=-2, dim2=-1).mean(-1, keepdim=True)
    return torch.diag_embed(mean.expand(covariance.shape[:-1]))


# What is fitted of a component's covariance (..., d, d).
COVARIANCES: dict[str, Callable[[Tensor], Tensor]] = {
    "full": lambda covariance: covariance,
    "diagonal": lambda covariance: torch.diag_embed(covariance.diagonal(dim1=-2, dim2=-1)),
    "spherical": spherical,
}


class Settings(NamedTuple):
    """How to fit: the form of the covariances, what is added to their diagonal, and when to stop."""

    covariance_type: str
    regularization: float
    iterations: int
    tolerance: float


def log_joint(x: Tensor, components: Components) -> Tensor:
    r"""Return :math:`\log \pi_k + \log \mathcal N(x;\, \mu_k, \Sigma_k)` of rows (R, n, d), (R, n, K).

    A component of weight zero has minus infinity. A singular covariance counts as one whose narrow directions have
    ``JITTER`` times its mean variance.
    """
    dim = x.shape[-1]
    factor = factorize(components.covariance)
    distance = [
        torch.linalg.solve_triangular(root, (x - mean[:, None]).mT, upper=False).square().sum(1)
        for root, mean in zip(factor.unbind(1), components.mean.unbind(1), strict=True)
    ]
    constant = dim / 2 * math.log(2 * math.pi) + factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return (components.weights.log() - constant)[:, None] - torch.stack(distance, dim=2) / 2


def factorize(covariance: Tensor) -> Tensor:
    """Return lower triangular factors of covariances (..., d, d), singular ones made regular by a jitter."""
    diagonal = covariance.diagonal(dim1=-2, dim2=-1)
    jitter = (JITTER * diagonal.mean(-1, keepdim=True)).clamp_min(1e-200)  # so that a point has a density as well
    return torch.linalg.cholesky(covariance + torch.diag_embed(jitter.expand_as(diagonal)))


def maximize(rows: Rows, shares: Tensor, before: Components, settings: Settings) -> Components:
    r"""Return the components of largest likelihood for given shares (R, n, K) of the rows, each row's summing to one.

    .. math:: N_k = \sum_i m_i r_{ik}, \qquad \pi_k = \frac{N_k}{\sum_i m_i}, \qquad
        \mu_k = \frac{1}{N_k} \sum_i m_i r_{ik} x_i, \qquad
        \Sigma_k = \frac{1}{N_k} \sum_i m_i r_{ik} (x_i - \mu_k)(x_i - \mu_k)^\top + \epsilon I

    A component that no row has a share of dies: it gets weight zero, and keeps mean and covariance of ``before``.
    """
    taken = shares * rows.mass[..., None]
    mass = taken.sum(1)
    alive = mass > ROUNDING * mass.sum(1, keepdim=True)
    mass = torch.where(alive, mass, 0)
    per_mass = taken / torch.where(alive, mass, 1)[:, None]
    mean = einsum(per_mass, rows.x, "r n k, r n d -> r k d")
    scatter = []
    for share, center in zip(per_mass.unbind(2), mean.unbind(1), strict=True):
        deviation = rows.x - center[:, None]
        scatter.append(einsum(share[..., None] * deviation, deviation, "r n i, r n j -> r i j"))
    covariance = COVARIANCES[settings.covariance_type](torch.stack(scatter, dim=1))
    covariance.diagonal(dim1=-2, dim2=-1).add_(settings.regularization)
    return Components(
        mass / mass.sum(1, keepdim=True),
        torch.where(alive[..., None], mean, before.mean),
        torch.where(alive[..., None, None], covariance, before.covariance),
    )


def first_components(rows: Rows, centers: Tensor, settings: Settings) -> Components:
    """Give every row to the nearest of the centers (R, K, d); one that gets none has the covariance of all rows."""
    chains, count, dim = centers.shape
    blank = Components(*(centers.new_zeros(chains, 1, *shape) for shape in ((), (dim,), (dim, dim))))
    whole = maximize(rows, torch.ones_like(rows.mass)[..., None], blank, settings)
    own = Components(whole.weights.expand(-1, count), centers, whole.covariance.expand(-1, count, -1, -1))
    nearest = torch.nn.functional.one_hot(assign(rows.x, centers), count)
    return maximize(rows, nearest, own, settings)


def fit_components(rows: Rows, first: Components, settings: Settings) -> Components:
    """Iterate until the mean log-likelihood changes by less than the tolerance, each replicate on its own.

    Args:
        rows: What to fit.
        first: Where to start.
        settings: How to fit.

    Returns:
        The components after the last iteration of each replicate.

    References:
        Dempster, Laird, Rubin, "Maximum likelihood from incomplete data via the EM algorithm", JRSS-B 39, 1977.
    """
    fitted = Components(*(part.clone() for part in first))
    current, active = first, torch.arange(len(rows.x), device=rows.x.device)
    likelihood = rows.x.new_full((len(rows.x),), -math.inf)
    for _ in range(settings.iterations):
        joint = log_joint(rows.x, current)
        evidence = joint.logsumexp(2)
        current = maximize(rows, (joint - evidence[..., None]).exp(), current, settings)
        before, likelihood = likelihood, (rows.mass * evidence).sum(1) / rows.mass.sum(1)
        for whole, part in zip(fitted, current, strict=True):
            whole[active] = part
        left = ~((likelihood - before).abs() < settings.tolerance)
        if not bool(left.all()):  # the others are done: go on without them
            active, likelihood = active[left], likelihood[left]
            rows, current = Rows(*(part[left] for part in rows)), Components(*(part[left] for part in current))
        if not len(active):
            break
    return fitted


def k_means(rows: Rows, count: int) -> Tensor:
    """Find centers: each picked among the rows with probability proportional to mass times the squared distance to the
    nearest one so far, all of them then moved to the means of what is nearest to them.

    Draws from torch's global generator, which is seeded by key in every step of a chain.

    Args:
        rows: Rows (R, n, d).
        count: Number K of centers, at least 1.

    Returns:
        (R, K, d). With fewer different rows than K some coincide.

    References:
        Arthur, Vassilvitskii, "k-means++: the advantages of careful seeding", SODA 2007.
    """
    x, chains = rows.x, torch.arange(len(rows.x), device=rows.x.device)
    centers, distance = x[:, :0], torch.ones_like(rows.mass)
    for _ in range(count):
        uniform = torch.rand(1, len(x), dtype=x.dtype, device=x.device)
        chosen = x[chains, pick((rows.mass * distance).T, uniform)[0]][:, None]
        centers = torch.cat([centers, chosen], dim=1)
        nearer = (x - chosen).square().sum(2)
        distance = nearer if centers.shape[1] == 1 else torch.minimum(distance, nearer)
    for _ in range(LAPS):
        taken = torch.nn.functional.one_hot(assign(x, centers), count) * rows.mass[..., None]
        mass = taken.sum(1)[..., None]
        means = einsum(taken, x, "r n k, r n d -> r k d") / mass.clamp_min(torch.finfo(x.dtype).tiny)
        before, centers = centers, torch.where(mass > 0, means, centers)
        if torch.equal(before, centers):
            break
    return centers


def assign(x: Tensor, centers: Tensor) -> Tensor:
    """Return the index of the center nearest to each row, (R, n); of equally near ones the first."""
    return torch.stack([(x - center[:, None]).square().sum(2) for center in centers.unbind(1)], dim=2).argmin(2)
