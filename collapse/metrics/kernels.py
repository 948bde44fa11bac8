"""Maximum mean discrepancy: the distance between two laws that a Gaussian kernel sees."""

import torch
from torch import Tensor

from collapse.metrics.metric import feature_set, feature_sets

__all__ = ["mmd2", "median_bandwidth"]

MEDIAN_ROWS = 2000


def mmd2(
    reference: Tensor,
    generated: Tensor,
    bandwidth: float | None = None,
    *,
    unbiased: bool = True,
    chunk_size: int = 256,
) -> Tensor:
    r"""Compute the squared maximum mean discrepancy under the Gaussian kernel.

    .. math:: \mathrm{MMD}^2 = \operatorname{mean} k(x_i, x_j) + \operatorname{mean} k(y_i, y_j)
        - 2 \operatorname{mean} k(x_i, y_j), \qquad k(x, y) = e^{-\lVert x - y\rVert^2 / (2\ell^2)}

    The unbiased form leaves out the pairs i = j of the first two means. Its expectation is 0 for two samples of one
    law, so that it can be negative. The biased form is a squared norm; kernel values of equal points, 1, raise its
    expectation by :math:`(1 - \mathbb{E}k)/n` for each set.

    Args:
        reference: Features of the reference set, (N, D), N >= 2 (1 if biased).
        generated: Features of generated samples, (M, D), M >= 2 (1 if biased).
        bandwidth: Kernel width ℓ in feature units, positive; if None, :func:`median_bandwidth` of the reference, so
            that all generations are compared under one kernel.
        unbiased: Whether to compute the U-statistic instead of the V-statistic.
        chunk_size: Rows whose kernel values are held at once; memory is O(chunk_size * max(N, M)).

    Returns:
        The squared discrepancy, (), float64, at most 2.

    Raises:
        ValueError: If a set is not a finite matrix with enough rows, the widths differ, or bandwidth or chunk_size is
            not positive.

    References:
        Gretton et al., "A Kernel Two-Sample Test", 2012, equations 3 and 5.
    """
    x, y = (s.double() for s in feature_sets(reference, generated, rows=2 if unbiased else 1))
    width = float(median_bandwidth(x)) if bandwidth is None else float(bandwidth)
    if not 0 < width < float("inf"):
        raise ValueError(f"bandwidth = {width}, but a positive width is needed; pass one in feature units, or None.")
    if chunk_size < 1:
        raise ValueError(f"chunk_size = {chunk_size}, but at least one row is needed; use chunk_size >= 1.")
    center = x.detach().mean(dim=0)  # squares of a far-off mean would cost digits
    x, y = ((s - center) / width for s in (x, y))
    within = [_mean_within(s, unbiased, chunk_size) for s in (x, y)]
    return within[0] + within[1] - 2 * _kernel_sum(x, y, chunk_size) / (len(x) * len(y))


@torch.no_grad()
def median_bandwidth(reference: Tensor) -> Tensor:
    """Compute the median distance between different rows, a usual width for a Gaussian kernel.

    Args:
        reference: Features, (N, D), N >= 2; of more than 2000 rows, that many evenly spaced ones stand for all.

    Returns:
        The (lower) median distance, (), float64, positive. It carries no gradient.

    Raises:
        ValueError: If reference is not a finite matrix with two rows, or half of its pairs of rows are equal.

    References:
        Gretton et al., "A Kernel Two-Sample Test", 2012, section 8.
    """
    x = feature_set("reference", reference, rows=2).double()
    x = x[:: -(-len(x) // MEDIAN_ROWS)]
    median = torch.nn.functional.pdist(x).median()
    if median == 0:
        raise ValueError(
            f"reference has {len(x)} rows, and half of their pairs are equal, so that the median distance is 0; "
            "pass a bandwidth, or a reference set that varies."
        )
    return median


def _mean_within(x: Tensor, unbiased: bool, chunk_size: int) -> Tensor:
    total, n = _kernel_sum(x, x, chunk_size), len(x)
    return (total - n) / (n * (n - 1)) if unbiased else total / n**2  # k(x, x) = 1


def _kernel_sum(x: Tensor, y: Tensor, chunk_size: int) -> Tensor:
    half_x, half_y = (s.square().sum(dim=1) / 2 for s in (x, y))
    # -|x - y|^2 / 2; rounding may lift it above 0, where equal points are
    exponents = (
        torch.addmm(-half_y, c, y.mT) - h[:, None]
        for c, h in zip(x.split(chunk_size), half_x.split(chunk_size), strict=True)
    )
    return torch.stack([e.clamp(max=0).exp().sum() for e in exponents]).sum()
