"""Laws of the regression chain without real rows: least squares, ridge, minimum norm."""

from __future__ import annotations

import math

from collapse.theory._checks import check_count, check_positive, check_t
from collapse.theory.regression._first_fit import first_fit_error

__all__ = [
    "replace_excess_error",
    "replace_ridge_excess_error",
    "replace_minimum_norm_excess_error",
]


def replace_excess_error(t: int, n: int, *, dim: int, n0: int | None = None, noise_variance: float = 1.0) -> float:
    r"""Expected excess error when every fit sees only labels of the model before.

    .. math:: E_t = \frac{\sigma^2 d}{n_0-d-1} + (t-1)\frac{\sigma^2 d}{n-d-1}

    The same for the same and for fresh designs: the errors of the fits are uncorrelated increments.

    Args:
        t: Number of fits, at least 1.
        n: Rows per fit, at least d + 2.
        dim: Number of features d, at least 1.
        n0: Real rows, those of the first fit, at least d + 2; n if None.
        noise_variance: Variance of the label noise, positive.

    Returns:
        The expected excess error.

    Raises:
        ValueError: If an argument is out of its range.
    """
    check_t(t)
    first = first_fit_error("n0", n if n0 is None else n0, dim, noise_variance)
    return first + (t - 1) * first_fit_error("n", n, dim, noise_variance)


def replace_ridge_excess_error(
    t: int, n: int, *, dim: int, penalty: float, signal: float = 1.0, noise_variance: float = 1.0
) -> float:
    r"""Expected excess error of ridge regression on one orthonormal design, :math:`X^\top X = nI`.

    .. math:: E_t = \lVert w^\ast\rVert^2(1-c^t)^2 + \frac{\sigma^2 d}{n}\sum_{k=1}^t c^{2k}, \qquad
        c = \frac{n}{n+\lambda}

    The penalty forgets the signal geometrically and bounds the noise; without it the error is :math:`t\,\sigma^2 d/n`.

    Args:
        t: Number of fits, at least 1.
        n: Rows per fit, at least d.
        dim: Number of features d, at least 1.
        penalty: Coefficient λ of the squared norm beside the *sum* of squared residuals, at least 0.
        signal: Squared norm of the true coefficients, at least 0.
        noise_variance: Variance of the label noise, positive.

    Returns:
        The expected excess error.

    Raises:
        ValueError: If an argument is out of its range.
    """
    check_t(t)
    check_count("dim", dim, 1)
    check_count("n", n, dim)
    check_count("penalty", penalty, 0)
    check_count("signal", signal, 0)
    check_positive("noise_variance", noise_variance)
    c = n / (n + penalty)
    bias, variance = signal * (1 - c**t) ** 2, noise_variance * dim / n
    return bias + variance * math.fsum(c ** (2 * k) for k in range(1, t + 1))


def replace_minimum_norm_excess_error(t: int, n: int, *, dim: int, signal: float = 1.0) -> float:
    r"""Expected excess error of the minimum-norm fit to fewer rows than features, without label noise, fresh designs.

    .. math:: E_t = \lVert w^\ast\rVert^2\,\bigl[1-(n/d)^t\bigr]

    Every fit projects the coefficients on a random subspace: they are forgotten exponentially without any noise.

    Args:
        t: Number of fits, at least 1.
        n: Rows per fit, at least 1 and at most d.
        dim: Number of features d.
        signal: Squared norm of the true coefficients, at least 0.

    Returns:
        The expected excess error.

    Raises:
        ValueError: If an argument is out of its range.
    """
    check_t(t)
    check_count("n", n, 1)
    check_count("dim", dim, n)
    check_count("signal", signal, 0)
    return signal * (1 - (n / dim) ** t)
