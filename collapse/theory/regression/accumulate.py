"""Laws of the regression chain that keeps every row: the error stays bounded."""

from __future__ import annotations

import math

import numpy as np

from collapse.theory._checks import check_count, check_t
from collapse.theory._special import digamma
from collapse.theory.regression._first_fit import first_fit_error

__all__ = [
    "accumulate_same_design_excess_error",
    "accumulate_fresh_design_excess_error",
    "accumulate_same_design_limit_excess_error",
    "accumulate_fresh_design_limit_excess_error",
]


def accumulate_same_design_excess_error(t: int, n: int, *, dim: int, noise_variance: float = 1.0) -> float:
    r"""Expected excess error when every generation adds new labels to the same rows and all labels are fitted.

    .. math:: E_t = \frac{\sigma^2 d}{n-d-1}\sum_{i=1}^t\frac1{i^2}

    Erratum: the formula of Gerstgrasser et al. is an equality for one and the same design only (the code of Kazdan et
    al. keeps it); with fresh designs it is an upper bound, strict from the second fit on.

    Args:
        t: Number of fits, at least 1.
        n: Real rows, and labels added per generation, at least d + 2.
        dim: Number of features d, at least 1.
        noise_variance: Variance of the label noise, positive.

    Returns:
        The expected excess error.

    Raises:
        ValueError: If an argument is out of its range.
    """
    check_t(t)
    return first_fit_error("n", n, dim, noise_variance) * math.fsum(1 / i**2 for i in range(1, t + 1))


def accumulate_fresh_design_excess_error(
    t: int, n: int, *, dim: int, n0: int | None = None, noise_variance: float = 1.0
) -> float:
    r"""Expected excess error when every generation adds new labeled rows and all rows are fitted.

    With :math:`G_t = \sum_{i\le t}X_i^\top X_i` the steps :math:`w_t - w_{t-1} = G_t^{-1}X_t^\top\varepsilon_t` are
    uncorrelated, and exchangeability of the rows gives

    .. math:: E_t = \sigma^2 d\,\Bigl[\frac1{n_0-d-1} + \sum_{j=2}^t\frac{n}{N_j(N_j-d-1)}\Bigr], \qquad
        N_j = n_0 + (j-1)n.

    Args:
        t: Number of fits, at least 1.
        n: Synthetic rows added per generation, at least 1.
        dim: Number of features d, at least 1.
        n0: Real rows, at least d + 2; n if None.
        noise_variance: Variance of the label noise, positive.

    Returns:
        The expected excess error.

    Raises:
        ValueError: If an argument is out of its range.
    """
    check_t(t)
    n0 = n if n0 is None else n0
    first = first_fit_error("n0", n0, dim, noise_variance)
    check_count("n", n, 1)
    pools = n0 + n * np.arange(1, t, dtype=np.float64)
    return first + noise_variance * dim * float(np.sum(n / (pools * (pools - dim - 1))))


def accumulate_same_design_limit_excess_error(n: int, *, dim: int, noise_variance: float = 1.0) -> float:
    r"""Expected excess error after infinitely many relabelings of the same rows.

    .. math:: E_\infty = \frac{\pi^2}{6}\cdot\frac{\sigma^2 d}{n-d-1}

    Args:
        n: Real rows, and labels added per generation, at least d + 2.
        dim: Number of features d, at least 1.
        noise_variance: Variance of the label noise, positive.

    Returns:
        The limit of the expected excess error.

    Raises:
        ValueError: If an argument is out of its range.
    """
    return math.pi**2 / 6 * first_fit_error("n", n, dim, noise_variance)


def accumulate_fresh_design_limit_excess_error(
    n: int, *, dim: int, n0: int | None = None, noise_variance: float = 1.0
) -> float:
    r"""Expected excess error after infinitely many generations of fresh rows.

    .. math:: E_\infty = \sigma^2 d\,\Bigl[\frac1{n_0-d-1} + \frac{\psi(1+n_0/n) - \psi(1+(n_0-d-1)/n)}{d+1}\Bigr]

    For :math:`n_0=n` it is :math:`-\frac{\sigma^2 d}{d+1}\bigl[\gamma + \psi\bigl(1-\frac{d+1}n\bigr)\bigr]`.

    Args:
        n: Synthetic rows added per generation, at least 1.
        dim: Number of features d, at least 1.
        n0: Real rows, at least d + 2; n if None.
        noise_variance: Variance of the label noise, positive.

    Returns:
        The limit of the expected excess error.

    Raises:
        ValueError: If an argument is out of its range.
    """
    n0 = n if n0 is None else n0
    first = first_fit_error("n0", n0, dim, noise_variance)
    check_count("n", n, 1)
    growth = digamma(1 + n0 / n) - digamma(1 + (n0 - dim - 1) / n)
    return first + noise_variance * dim / (dim + 1) * growth
