"""Validation of the arguments that the laws share; every error names the argument, the value and the way out."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["check_count", "check_covariance", "check_fit", "check_positive"]


def check_count(name: str, value: float, minimum: int) -> None:
    """Require a count of at least ``minimum``."""
    if not value >= minimum:
        raise ValueError(f"{name} must be at least {minimum}, got {value}")


def check_positive(name: str, value: float) -> None:
    """Require a positive finite number."""
    if not 0 < value < float("inf"):
        raise ValueError(f"{name} must be positive and finite, got {value}")


def check_fit(t: int, n: int, *, ddof: int, variance: float = 1.0, lam: float = 1.0) -> None:
    """Check the arguments of a Gaussian law: fit index, sample size, estimator, real variance, multiplier."""
    if t < 1:
        raise ValueError(f"t counts model fits and starts at 1, the fit on real data, got {t}; pass generation + 1")
    check_count("the number of points of a fit", n, 2)
    if not 0 <= ddof < n:
        raise ValueError(f"ddof must lie in [0, {n}), the number of points of a fit, got {ddof}; pass 0 or 1")
    check_positive("variance", variance)
    check_positive("lam", lam)


def check_covariance(covariance: ArrayLike) -> NDArray[np.float64]:
    """Return a symmetric positive definite covariance as float64, (D, D)."""
    matrix = np.asarray(covariance, dtype=np.float64)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise ValueError(f"covariance must be a square matrix, got shape {matrix.shape}")
    if not np.allclose(matrix, matrix.T):
        raise ValueError("covariance must be symmetric; pass (covariance + covariance.T) / 2")
    if np.linalg.eigvalsh(matrix)[0] <= 0:
        raise ValueError("covariance must be positive definite; drop the directions without variance")
    return matrix
