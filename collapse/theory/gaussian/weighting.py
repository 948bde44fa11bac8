r"""Laws of weighted means: fresh real points and synthetic points, with a weight of one's own choice.

The variance :math:`\sigma_0^2` is known and only the mean is fitted. After a first fit to :math:`n_1` real points,

.. math:: \mu_t = w\,\bar X_t + (1-w)\,\bar Y_t, \qquad \bar X_t \sim N(\mu_0, \sigma_0^2/n_r), \quad
    \bar Y_t \sim N(\mu_{t-1}, \sigma_0^2/n_s),

with :math:`\bar X_t` the mean of real points that no fit has used before. The squared error is an affine recursion,

.. math:: a_t = w^2\frac{\sigma_0^2}{n_r} + (1-w)^2\Bigl(a_{t-1} + \frac{\sigma_0^2}{n_s}\Bigr), \qquad
    a_t = \mathbb{E}(\mu_t-\mu_0)^2.

* t counts model fits: t = 1 is the fit on real data only, so the generation index of the framework is t - 1.
* The weight is on the *means*. Equal weights on all points are :math:`w = n_r/(n_r+n_s)`, which is never the best.
* D dimensions: errors are linear in ``variance``; pass the trace of the real covariance.

References:
    He, Xu and Cheng, "Golden Ratio Weighting Prevents Model Collapse", 2025. arXiv:2502.18049.
"""

from __future__ import annotations

import math

from collapse.theory._checks import check_count, check_positive, check_t

__all__ = [
    "weighted_mean_square_error",
    "weighted_stationary_mean_square_error",
    "weighted_minimal_mean_square_error",
    "optimal_real_weight",
]


def weighted_mean_square_error(
    t: int, *, n_real: int, n_synthetic: int, weight: float, n_first: int | None = None, variance: float = 1.0
) -> float:
    r"""Expected squared error of the fitted mean.

    .. math:: a_t = a_\infty + (1-w)^{2(t-1)}(a_1 - a_\infty), \qquad a_1 = \sigma_0^2/n_1

    Without weight on real points there is no :math:`a_\infty`, and :math:`a_t = a_1 + (t-1)\,\sigma_0^2/n_s`.

    Args:
        t: Number of fits, at least 1.
        n_real: Fresh real points per fit, at least 1.
        n_synthetic: Synthetic points per fit, at least 1.
        weight: Weight w on the mean of the real points, in [0, 1].
        n_first: Real points of the first fit, at least 1; n_real if None.
        variance: Variance of the real law, positive.

    Returns:
        The expectation of :math:`(\mu_t - \mu_0)^2`.

    Raises:
        ValueError: If an argument is out of its range.
    """
    check_t(t)
    _check_counts(n_real, n_synthetic)
    _check_weight(weight)
    first = n_real if n_first is None else n_first
    check_count("n_first", first, 1)
    check_positive("variance", variance)
    kept = (1 - weight) ** 2  # what a fit keeps of the error before it
    noise = weight**2 / n_real + kept / n_synthetic
    memory = kept ** (t - 1)
    steps = t - 1 if kept == 1 else (1 - memory) / (1 - kept)
    return variance * (memory / first + noise * steps)


def weighted_stationary_mean_square_error(
    n_real: int, n_synthetic: int, *, weight: float, variance: float = 1.0
) -> float:
    r"""Expected squared error of the fitted mean after infinitely many fits.

    .. math:: a_\infty = \frac{\sigma_0^2}{1-(1-w)^2}\Bigl(\frac{w^2}{n_r} + \frac{(1-w)^2}{n_s}\Bigr)

    Args:
        n_real: Fresh real points per fit, at least 1.
        n_synthetic: Synthetic points per fit, at least 1.
        weight: Weight w on the mean of the real points, in (0, 1].
        variance: Variance of the real law, positive.

    Returns:
        The stationary squared error.

    Raises:
        ValueError: If an argument is out of its range; without weight on real points the error grows for ever.
    """
    _check_counts(n_real, n_synthetic)
    _check_weight(weight)
    check_positive("variance", variance)
    if weight == 0:
        raise ValueError("weight must be positive for a stationary error, got 0; without real points it grows for ever")
    kept = (1 - weight) ** 2
    return variance * (weight**2 / n_real + kept / n_synthetic) / (1 - kept)


def optimal_real_weight(n_real: int, n_synthetic: int) -> float:
    r"""Weight on the real mean that minimizes the stationary error.

    .. math:: w^\ast = \frac{\sqrt{r^2+4r} - r}{2}, \qquad r = \frac{n_r}{n_s}

    the root of :math:`w^2 + rw - r` in (0, 1). As many real as synthetic points give 0.618, the reciprocal of the
    golden ratio. It is above :math:`n_r/(n_r+n_s)`: a real point deserves more weight than a synthetic one, whose mean
    is itself uncertain.

    Args:
        n_real: Fresh real points per fit, at least 1.
        n_synthetic: Synthetic points per fit, at least 1.

    Returns:
        The weight, in (0, 1).

    Raises:
        ValueError: If a count is below its range.
    """
    _check_counts(n_real, n_synthetic)
    r = n_real / n_synthetic
    return 2 / (1 + math.sqrt(1 + 4 / r))  # the root, free of the cancellation at large r


def weighted_minimal_mean_square_error(n_real: int, n_synthetic: int, *, variance: float = 1.0) -> float:
    r"""Stationary squared error at the optimal weight.

    .. math:: a_\infty(w^\ast) = w^\ast\,\sigma_0^2/n_r

    Below :math:`\sigma_0^2/n_r`, the error of the fresh real points alone: synthetic points help if weighted right.

    Args:
        n_real: Fresh real points per fit, at least 1.
        n_synthetic: Synthetic points per fit, at least 1.
        variance: Variance of the real law, positive.

    Returns:
        The minimum over weights of the stationary squared error.

    Raises:
        ValueError: If an argument is out of its range.
    """
    check_positive("variance", variance)
    return variance * optimal_real_weight(n_real, n_synthetic) / n_real


def _check_counts(n_real: int, n_synthetic: int) -> None:
    check_count("n_real", n_real, 1)
    check_count("n_synthetic", n_synthetic, 1)


def _check_weight(weight: float) -> None:
    if not 0 <= weight <= 1:
        raise ValueError(f"weight must lie in [0, 1], got {weight}; it is the share of the real mean in the fit")
