r"""Nearest-neighbor balls: the support of a finite set as a union of balls.

Every point :math:`x_i` owns the ball that reaches its k-th nearest *other* point of the same set,

.. math:: B_i = \{z : \lVert z - x_i \rVert \le r_i\}, \qquad r_i = \operatorname{NND}_k(x_i).

Precision, recall, density and coverage all count incidences between such balls and the points of the other set.
"""

import torch
from torch import Tensor

from collapse.metrics.metric import feature_sets

__all__ = ["neighborhood_profile", "neighbor_radii"]


def distances(x: Tensor, y: Tensor) -> Tensor:
    """Compute Euclidean distances from differences, so that equal points are at distance exactly 0.

    The matrix-product form loses half of the digits near 0, where the balls of duplicated samples live.

    Args:
        x: Points, (N, D).
        y: Points, (M, D).

    Returns:
        Distances, (N, M).
    """
    return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")


@torch.no_grad()
def neighbor_radii(x: Tensor, k: int, *, chunk_size: int = 1024) -> Tensor:
    """Distance of every point to its k-th nearest other point of the same set.

    Args:
        x: Points, (N, D), N > k.
        k: Number of neighbors, at least 1, not counting the point itself.
        chunk_size: Rows whose distances are held at once; memory is O(chunk_size * N).

    Returns:
        Radii, (N,); 0 for a point with k or more exact duplicates.
    """
    # The point itself is at distance 0, hence always among the k + 1 nearest, whatever the duplicates.
    # topk and not kthvalue, which has no deterministic CUDA kernel.
    return torch.cat([distances(c, x).topk(k + 1, dim=1, largest=False).values[:, k] for c in x.split(chunk_size)])


@torch.no_grad()
def neighborhood_profile(
    reference: Tensor, generated: Tensor, k: int = 5, *, strict: bool = False, chunk_size: int = 1024
) -> dict[str, Tensor]:
    r"""Compute precision, recall, density and coverage from one pass over the distances.

    With balls :math:`B_i` around the N reference points and :math:`B'_j` around the M generated points,

    .. math::
        \text{precision} &= \tfrac1M \#\{j : y_j \in \textstyle\bigcup_i B_i\}, &
        \text{density} &= \tfrac1{kM} \#\{(i, j) : y_j \in B_i\}, \\
        \text{recall} &= \tfrac1N \#\{i : x_i \in \textstyle\bigcup_j B'_j\}, &
        \text{coverage} &= \tfrac1N \#\{i : B_i \cap \{y_j\} \ne \emptyset\}.

    Two samples of one continuous law have expected density 1 and expected coverage
    :math:`1 - \prod_{i=1}^{k} (N - i) / (M + N - i)` in any dimension. Compare only equal set sizes. Counts have no
    gradient.

    Args:
        reference: Features of the reference set, (N, D), N > k.
        generated: Features of generated samples, (M, D), M > k.
        k: Number of neighbors that set the radius, at least 1, not counting the point itself.
        strict: Whether the balls are open (<), as in the ``prdc`` package, instead of closed (<=). They differ only
            on ties, which duplicated samples produce: an open ball of radius 0 is empty.
        chunk_size: Rows whose distances are held at once; memory is O(chunk_size * max(N, M)).

    Returns:
        The keys ``precision``, ``recall``, ``density`` and ``coverage``, each (), float64; in [0, 1] but for
        density, which has no upper bound below N / k.

    Raises:
        ValueError: If k or chunk_size is below 1, a set has k rows or fewer, or the shapes do not match.

    References:
        Kynkäänniemi et al., "Improved Precision and Recall Metric for Assessing Generative Models", 2019.
        arXiv:1904.06991, equations 1 and 2.
        Naeem et al., "Reliable Fidelity and Diversity Metrics for Generative Models", 2020. arXiv:2002.09797.
    """
    if k < 1:
        raise ValueError(f"k = {k}, but a ball needs at least one neighbor; use k >= 1, for example 5.")
    if chunk_size < 1:
        raise ValueError(f"chunk_size = {chunk_size}, but at least one row is needed; use chunk_size >= 1.")
    x, y = feature_sets(reference, generated, rows=k + 1)
    x_radii = neighbor_radii(x, k, chunk_size=chunk_size)
    y_radii = neighbor_radii(y, k, chunk_size=chunk_size)
    inside = torch.lt if strict else torch.le

    balls_at_y = torch.zeros(len(y), dtype=torch.int64, device=y.device)  # reference balls that hold y_j, (M,)
    covered, recalled = [], []
    for rows, radii in zip(x.split(chunk_size), x_radii.split(chunk_size), strict=True):
        d = distances(rows, y)  # (chunk, M)
        y_in_ball = inside(d, radii[:, None])
        balls_at_y += y_in_ball.sum(dim=0)
        covered.append(y_in_ball.any(dim=1))
        recalled.append(inside(d, y_radii[None, :]).any(dim=1))
    return {
        "precision": (balls_at_y > 0).double().mean(),
        "recall": torch.cat(recalled).double().mean(),
        "density": balls_at_y.double().mean() / k,
        "coverage": torch.cat(covered).double().mean(),
    }
