"""Fidelity: do generated samples look like reference samples?"""

from torch import Tensor

from collapse.metrics.gaussians import gaussian_frechet
from collapse.metrics.metric import feature_sets
from collapse.metrics.neighbors import neighborhood_profile

__all__ = ["frechet_distance", "precision", "density"]


def frechet_distance(reference: Tensor, generated: Tensor) -> Tensor:
    r"""Compute the squared Fréchet distance between Gaussians fitted to two sets of features.

    .. math:: \lVert\mu_r - \mu_g\rVert^2 + \operatorname{tr}\bigl(\Sigma_r + \Sigma_g - 2(\Sigma_r\Sigma_g)^{1/2}\bigr)

    This is the *squared* 2-Wasserstein distance of the two fits, whose covariances divide by N - 1. It is biased
    upwards: in one dimension, two independent n-samples of one normal law with variance :math:`s^2` are at
    :math:`s^2 [2/n + 2(1 - c_4(n)^2)]` in expectation. Compare only equal set sizes, and show this floor.
    The gradient is finite for collapsed sets, too.

    Args:
        reference: Features of the reference set, (N, D), N >= 2; N <= D is allowed (singular covariance).
        generated: Features of generated samples, (M, D), M >= 2.

    Returns:
        The squared distance in squared feature units, (), float64, never negative.

    Raises:
        ValueError: If a set is not a finite matrix with at least two rows, or the widths differ.

    References:
        Heusel et al., "GANs Trained by a Two Time-Scale Update Rule", 2017. arXiv:1706.08500, equation 6.

    Example:
        >>> import torch
        >>> x = torch.randn(512, 4, generator=torch.Generator().manual_seed(0))
        >>> bool(frechet_distance(x, x) < 1e-9)
        True
    """
    x, y = feature_sets(reference, generated, rows=2)
    return gaussian_frechet(*_moments(x.double()), *_moments(y.double()))


def precision(reference: Tensor, generated: Tensor, k: int = 5, *, strict: bool = False) -> Tensor:
    """Compute the share of generated samples inside at least one reference ball.

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
        Kynkäänniemi et al., "Improved Precision and Recall Metric for Assessing Generative Models", 2019.
        arXiv:1904.06991, equation 2.
    """
    return neighborhood_profile(reference, generated, k, strict=strict)["precision"]


def density(reference: Tensor, generated: Tensor, k: int = 5, *, strict: bool = False) -> Tensor:
    """Compute how many reference balls hold a generated sample, relative to the k that chance gives.

    A thin view on :func:`~collapse.metrics.neighbors.neighborhood_profile`, which has the formula. The expectation
    is 1 for two samples of one continuous law; a set compared with itself gives (k + 1) / k, because each point also
    lies in its own ball. Mode-seeking raises the value above 1.

    Args:
        reference: Features of the reference set, (N, D), N > k.
        generated: Features of generated samples, (M, D), M > k.
        k: Number of neighbors that set the radius, at least 1.
        strict: Whether the balls are open (<) instead of closed (<=).

    Returns:
        The density in [0, N / k], (), float64.

    Raises:
        ValueError: If k is below 1, a set has k rows or fewer, or the shapes do not match.

    References:
        Naeem et al., "Reliable Fidelity and Diversity Metrics for Generative Models", 2020. arXiv:2002.09797.
    """
    return neighborhood_profile(reference, generated, k, strict=strict)["density"]


def _moments(x: Tensor) -> tuple[Tensor, Tensor]:
    mean = x.mean(dim=0)
    centered = x - mean
    return mean, centered.mT @ centered / (len(x) - 1)
