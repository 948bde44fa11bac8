"""Laws of the regression chain on fresh real and fresh synthetic rows in a fixed proportion."""

from __future__ import annotations

import numpy as np

from collapse.theory._checks import check_count, check_t
from collapse.theory.regression._first_fit import first_fit_error

__all__ = [
    "real_fraction_excess_error",
    "real_fraction_stationary_excess_error",
    "real_fraction_contraction",
]


def real_fraction_excess_error(
    t: int, *, n_real: int, n_synthetic: int, dim: int, n_first: int, noise_variance: float = 1.0
) -> float:
    r"""Expected excess error of a fit to fresh real and fresh synthetic rows in a fixed proportion.

    .. math:: E_t = \kappa E_{t-1} + \frac{\sigma^2 d}{N-d-1}, \qquad E_1 = \frac{\sigma^2 d}{n_1-d-1}, \qquad
        N = n_r + n_s

    with :math:`\kappa` the :func:`real_fraction_contraction`.

    Args:
        t: Number of fits, at least 1.
        n_real: Fresh real rows per fit, at least 0.
        n_synthetic: Synthetic rows per fit, at least 0; the two together at least d + 2.
        dim: Number of features d, at least 1.
        n_first: Real rows of the first fit, at least d + 2.
        noise_variance: Variance of the label noise, positive.

    Returns:
        The expected excess error.

    Raises:
        ValueError: If an argument is out of its range.
    """
    check_t(t)
    kappa = real_fraction_contraction(n_real, n_synthetic, dim=dim)
    noise = first_fit_error("n_real + n_synthetic", n_real + n_synthetic, dim, noise_variance)
    error = first_fit_error("n_first", n_first, dim, noise_variance)
    for _ in range(t - 1):
        error = kappa * error + noise
    return error


def real_fraction_stationary_excess_error(
    n_real: int, n_synthetic: int, *, dim: int, noise_variance: float = 1.0
) -> float:
    r"""Expected excess error after infinitely many fits in a fixed proportion.

    .. math:: E_\infty = \frac{\sigma^2 d}{(1-\kappa)(N-d-1)}

    Args:
        n_real: Fresh real rows per fit, at least 1.
        n_synthetic: Synthetic rows per fit, at least 0; the two together at least d + 2.
        dim: Number of features d, at least 1.
        noise_variance: Variance of the label noise, positive.

    Returns:
        The stationary excess error.

    Raises:
        ValueError: If an argument is out of its range; without real rows the error grows for ever.
    """
    check_count("n_real", n_real, 1)
    kappa = real_fraction_contraction(n_real, n_synthetic, dim=dim)
    return first_fit_error("n_real + n_synthetic", n_real + n_synthetic, dim, noise_variance) / (1 - kappa)


def real_fraction_contraction(n_real: int, n_synthetic: int, *, dim: int) -> float:
    r"""Factor by which the excess error of a real-fraction chain forgets its past, per fit.

    With A the Gram matrix of all rows, S that of the synthetic ones and :math:`U = A^{-1/2}SA^{-1/2}`, a matrix beta
    independent of A, the moments :math:`x = \mathbb{E}\operatorname{tr}U^2` and
    :math:`y = \mathbb{E}(\operatorname{tr}U)^2` solve a linear system, and

    .. math:: \kappa = \tfrac1d\,\mathbb{E}\operatorname{tr}(SA^{-2}S) = \frac{(N-1)x - y}{d(N-d-1)}, \qquad
        \begin{aligned}(N^2+N)\,x + N\,y &= n_sd(n_s+d+1)\\ 2N\,x + N^2\,y &= n_sd(n_sd+2)\end{aligned}

    For many rows it is :math:`(n_s/N)^2`.

    Args:
        n_real: Fresh real rows per fit, at least 0.
        n_synthetic: Synthetic rows per fit, at least 0; the two together at least d + 2.
        dim: Number of features d, at least 1.

    Returns:
        The factor, in [0, 1]; one without real rows.

    Raises:
        ValueError: If an argument is out of its range.
    """
    check_count("n_real", n_real, 0)
    check_count("n_synthetic", n_synthetic, 0)
    n, s, d = n_real + n_synthetic, n_synthetic, dim
    first_fit_error("n_real + n_synthetic", n, dim, 1.0)
    # E tr S² and E (tr S)² of a Wishart matrix, written through S = A^{1/2} U A^{1/2} and solved for the moments of U
    x, y = np.linalg.solve([[n**2 + n, n], [2 * n, n**2]], [s * d * (s + d + 1.0), s * d * (s * d + 2.0)])
    return float(((n - 1) * x - y) / (d * (n - d - 1)))
