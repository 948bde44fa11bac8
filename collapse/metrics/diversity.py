"""Diversity: do generated samples spread over everything the reference set holds?"""

import torch
from torch import Tensor

from collapse.metrics.metric import feature_sets
from collapse.metrics.neighbors import neighborhood_profile

__all__ = ["recall", "coverage", "variance_ratio", "class_histogram", "total_variation"]


def recall(reference: Tensor, generated: Tensor, k: int = 5, *, strict: bool = False) -> Tensor:
    """Compute the share of reference samples inside at least one generated ball.

    A thin view on :func:`~collapse.metrics.neighbors.neighborhood_profile`, which has the formula. A few far-out
    samples have large balls, so that recall hardly notices noise; coverage does.

    Args:
        reference: Features of the reference set, (N, D), N > k.
        generated: Features of generated samples, (M, D), M > k.
        k: Number of neighbors that set the radius, at least 1.
        strict: Whether the balls are open (<) instead of closed (<=).

    Returns:
        The share in [0, 1], (), float64.

    Raises:
        ValueError: If k is below 1, a set has k rows or fewer, or the shapes do not match.

    References:
        Kynkäänniemi et al., "Improved Precision and Recall Metric for Assessing Generative Models", 2019.
        arXiv:1904.06991, equation 2.
    """
    return neighborhood_profile(reference, generated, k, strict=strict)["recall"]


def coverage(reference: Tensor, generated: Tensor, k: int = 5, *, strict: bool = False) -> Tensor:
    """Compute the share of reference balls that hold at least one generated sample.

    A thin view on :func:`~collapse.metrics.neighbors.neighborhood_profile`, which has the formula.

    Args:
        reference: Features of the reference set, (N, D), N > k.
        generated: Features of generated samples, (M, D), M > k.
        k: Number of neighbors that set the radius, at least 1.
        strict: Whether the balls are open (<) instead of closed (<=).

    Returns:
        The share in [0, 1], (), float64.

    Raises:
        ValueError: If k is below 1, a set has k rows or fewer, or the shapes do not match.

    References:
        Naeem et al., "Reliable Fidelity and Diversity Metrics for Generative Models", 2020. arXiv:2002.09797.
    """
    return neighborhood_profile(reference, generated, k, strict=strict)["coverage"]


def variance_ratio(reference: Tensor, generated: Tensor) -> Tensor:
    r"""Compute the total variance of generated samples relative to the reference set.

    .. math:: \operatorname{tr} \Sigma_g / \operatorname{tr} \Sigma_r

    Under recursive training its mean over seeds can stay at 1 while almost every chain collapses (unbiased fits);
    average the logarithm instead.

    Args:
        reference: Features of the reference set, (N, D), N >= 2, not all equal.
        generated: Features of generated samples, (M, D), M >= 2.

    Returns:
        The ratio, (), float64: 1 without collapse, 0 when all samples are equal, above 1 when they spread too far.

    Raises:
        ValueError: If a set is not a finite matrix with at least two rows, the widths differ, or all reference rows
            are equal.

    References:
        Shumailov et al., "AI models collapse when trained on recursively generated data", 2024. arXiv:2305.17493.
    """
    x, y = feature_sets(reference, generated, rows=2)
    total = x.double().var(dim=0).sum()
    if total == 0:
        raise ValueError(f"reference has {len(x)} equal rows, so its variance is 0; pass a reference set that varies.")
    return y.double().var(dim=0).sum() / total


def class_histogram(labels: Tensor, classes: int) -> Tensor:
    """Compute the share of each class among labels.

    Args:
        labels: Class indices, (N,), integers in [0, classes), N >= 1.
        classes: Number of classes, at least 1; a class without a row has share 0.

    Returns:
        Shares that sum to 1, (classes,), float64.

    Raises:
        ValueError: If labels is not a non-empty vector of integers in range.
    """
    if labels.ndim != 1 or len(labels) == 0 or labels.is_floating_point() or labels.is_complex():
        raise ValueError(
            f"labels has shape {tuple(labels.shape)} and dtype {labels.dtype}, but a non-empty vector of integers is "
            "needed; pass class indices, for example logits.argmax(1)."
        )
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= classes:
        raise ValueError(f"labels range over [{low}, {high}], outside [0, {classes}); check classes = {classes}.")
    return torch.bincount(labels, minlength=classes).double() / len(labels)


def total_variation(p: Tensor, q: Tensor) -> Tensor:
    r"""Compute the total variation distance between two histograms, the mass that must move.

    .. math:: \tfrac12 \sum_c \lvert p_c - q_c \rvert

    Args:
        p: Shares, (K,), non-negative, summing to 1.
        q: Shares, (K,), non-negative, summing to 1.

    Returns:
        The distance in [0, 1], (), float64.

    Raises:
        ValueError: If the shapes differ or one argument is not a histogram of shares.
    """
    if p.ndim != 1 or p.shape != q.shape:
        raise ValueError(
            f"p has shape {tuple(p.shape)} and q has shape {tuple(q.shape)}, but two vectors of one length are needed; "
            "use class_histogram with the same number of classes."
        )
    for name, shares in (("p", p), ("q", q)):
        total = shares.double().sum()
        if not (shares >= 0).all() or abs(total - 1) > 1e-5:
            raise ValueError(f"{name} sums to {float(total):.6g} or has negative entries; pass shares, p / p.sum().")
    return (p.double() - q.double()).abs().sum() / 2
