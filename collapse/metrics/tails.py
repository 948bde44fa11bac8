"""Tails: does anything still lie where the reference has its rarest rows?"""

import math
from functools import cache

import torch
from torch import Tensor

from collapse.metrics.metric import feature_sets
from collapse.metrics.neighbors import distances, neighbor_radii

__all__ = ["tail_mass", "tail_recall", "gaussian_tail_mass"]


@torch.no_grad()
def tail_mass(reference: Tensor, generated: Tensor, q: float = 0.05) -> Tensor:
    r"""Compute the share of generated samples beyond the ellipsoid that holds all but a share q of the reference.

    .. math:: \tfrac1M \#\{j : d(y_j) > r_q\}, \qquad
        d^2(z) = (z - \mu_r)^\top \Sigma_r^{+} (z - \mu_r)

    with the reference's mean and covariance, and the radius :math:`r_q` that :math:`\lfloor qN \rfloor` reference rows
    exceed. Collapse moves it from q to 0. It does not tell a kept tail from noise: a set that is spread too far or
    shifted is above q. So are other real rows, as the ellipsoid was not fitted to them, and the more so the larger D/N:
    about 0.07 instead of 0.05 for 2000 rows of 64 features. Show this floor. A count, it has no gradient.

    Args:
        reference: Features of the reference set, (N, D), N above the number of dimensions it spans plus 1.
        generated: Features of generated samples, (M, D), M >= 2.
        q: Share of the reference that is called its tail, in (0, 1).

    Returns:
        The share in [0, 1], (), float64. Directions in which the reference has no variance are left out.

    Raises:
        ValueError: If a set is not a finite matrix with enough rows, the widths differ, q is out of range, all
            reference rows are equal, or there are too few to have a tail.

    References:
        Mahalanobis, "On the Generalised Distance in Statistics", 1936; tails as the first thing that collapse takes:
        Shumailov et al., "AI models collapse when trained on recursively generated data", 2024. arXiv:2305.17493.
    """
    _check_share(q)
    x, y = (s.double() for s in feature_sets(reference, generated, rows=2))
    center = x.mean(dim=0)
    spread, axes = torch.linalg.eigh((x - center).mT @ (x - center) / (len(x) - 1))
    kept = spread > spread[-1] * len(spread) * torch.finfo(spread.dtype).eps
    rank = int(kept.sum())
    if rank == 0 or len(x) <= rank + 1:
        raise ValueError(
            f"reference has {len(x)} rows that span {rank} dimensions, so that no row is farther out than another; "
            "pass a reference set that varies, with more rows or fewer features."
        )
    white = axes[:, kept] / spread[kept].sqrt()
    inner, outer = (((s - center) @ white).square().sum(dim=1) for s in (x, y))
    beyond = math.floor(q * len(x) + 1e-9)  # 0.29 * 100 is below 29
    return (outer > inner.topk(beyond + 1).values[-1]).double().mean()


@torch.no_grad()
def tail_recall(reference: Tensor, generated: Tensor, k: int = 5, *, q: float = 0.1, chunk_size: int = 1024) -> Tensor:
    r"""Compute the recall of the reference's rarest rows: the share of them inside at least one generated ball.

    .. math:: \frac{1}{\lvert T\rvert} \#\{i \in T : x_i \in \textstyle\bigcup_j B'_j\}, \qquad
        T = \{i : r_i \text{ among the } \max(1, \lfloor qN \rfloor) \text{ largest}\}

    with the balls of :mod:`~collapse.metrics.neighbors`: a row is rare where its k-th neighbor in the reference is far.
    The rows of a rare class or style go first, while recall of all rows hardly moves. As recall does, it takes noise
    for diversity. Counts have no gradient.

    Args:
        reference: Features of the reference set, (N, D), N > k.
        generated: Features of generated samples, (M, D), M > k.
        k: Number of neighbors that set the radius, at least 1.
        q: Share of the reference that is called its tail, in (0, 1).
        chunk_size: Rows whose distances are held at once; memory is O(chunk_size * max(N, M)).

    Returns:
        The share in [0, 1], (), float64.

    Raises:
        ValueError: If k is below 1, q out of range, a set has k rows or fewer, or the shapes do not match.

    References:
        Kynkäänniemi et al., "Improved Precision and Recall Metric for Assessing Generative Models", 2019.
        arXiv:1904.06991, equation 2, here over the rows of lowest density.
    """
    _check_share(q)
    if k < 1:
        raise ValueError(f"k = {k}, but a ball needs at least one neighbor; use k >= 1, for example 5.")
    x, y = feature_sets(reference, generated, rows=k + 1)
    radii = neighbor_radii(x, k, chunk_size=chunk_size)
    rare = x[radii.topk(max(1, math.floor(q * len(x) + 1e-9))).indices]
    balls = neighbor_radii(y, k, chunk_size=chunk_size)
    inside = [(distances(rows, y) <= balls).any(dim=1) for rows in rare.split(chunk_size)]
    return torch.cat(inside).double().mean()


def gaussian_tail_mass(
    q: float,
    std: Tensor | float,
    *,
    mean: Tensor | float = 0.0,
    dim: int = 1,
    two_sided: bool = True,
) -> Tensor:
    r"""Compute the mass of a Gaussian where N(0, I) has the mass q: the tail that a collapsed fit has left.

    .. math:: P(\lvert X \rvert > r_q) = \operatorname{sf}_{\chi^2_D}(r_q^2 / \sigma^2), \qquad
        P(X > z_q) = \operatorname{sf}\bigl((z_q - \mu) / \sigma\bigr)

    for :math:`X \sim N(\mu, \sigma^2 I)` beyond the radius :math:`r_q`, or beyond the upper quantile :math:`z_q`.

    Args:
        q: Mass under N(0, I), in (0, 1).
        std: Standard deviation σ, (...), non-negative.
        mean: Mean μ, (...); 0 in more than one dimension.
        dim: Number of dimensions D, at least 1.
        two_sided: Whether the tail is all that is farther out than :math:`r_q`; otherwise the upper one, in one
            dimension.

    Returns:
        The mass, (...), float64.

    Raises:
        ValueError: If q, std or dim is out of range, or a mean or a one-sided tail is asked for in more dimensions.
    """
    _check_share(q)
    std, mean = (torch.as_tensor(value, dtype=torch.float64) for value in (std, mean))
    if not (std >= 0).all():
        raise ValueError(f"std reaches {float(std.min())}, but a standard deviation is not negative; pass its root.")
    if dim < 1 or (dim > 1 and (not two_sided or (mean != 0).any())):
        raise ValueError(
            f"dim = {dim}, but one dimension is needed for a mean and a one-sided tail, and one at least for any; "
            "use dim=1, or mean=0 and two_sided=True."
        )
    if not two_sided:
        return _upper((_chi(2 * q, 1) if q < 0.5 else -_chi(2 - 2 * q, 1)) - mean, std)
    if dim == 1:
        return _upper(_chi(q, 1) - mean, std) + _upper(_chi(q, 1) + mean, std)
    half = torch.full((), dim / 2, dtype=torch.float64, device=std.device)
    return torch.special.gammaincc(half, (_chi(q, dim) / std).square() / 2)


def _upper(distance: Tensor, std: Tensor) -> Tensor:
    return torch.special.erfc(distance / std / math.sqrt(2)) / 2


@cache
def _chi(q: float, dim: int) -> float:
    """Radius that N(0, I) exceeds with probability q, by bisection."""
    low, high = 0.0, 1.0
    while _beyond(high, dim) > q:
        low, high = high, 2 * high
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _beyond(middle, dim) > q else (low, middle)
    return (low + high) / 2


def _beyond(radius: float, dim: int) -> float:
    half, square = (torch.tensor(value / 2, dtype=torch.float64) for value in (dim, radius**2))
    return float(torch.special.gammaincc(half, square))


def _check_share(q: float) -> None:
    if not 0 < q < 1:
        raise ValueError(f"q = {q}, but the share of a tail lies between 0 and 1; use 0.05.")
