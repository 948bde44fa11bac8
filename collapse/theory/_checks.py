"""Validation of the arguments that the laws share; every error names the argument, the value and the way out."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "check_count",
    "check_covariance",
    "check_fit",
    "check_laws",
    "check_positive",
    "check_probabilities",
    "check_t",
]


def check_count(name: str, value: float, minimum: int) -> None:
    """Require a count of at least ``minimum``."""
    if not value >= minimum:
        raise ValueError(f"{name} must be at least {minimum}, got {value}")


def check_positive(name: str, value: float) -> None:
    """Require a positive finite number."""
    if not 0 < value < float("inf"):
        raise ValueError(f"{name} must be positive and finite, got {value}")


def check_t(t: int) -> None:
    """Check the fit index."""
    if t < 1:
        raise ValueError(f"t counts model fits and starts at 1, the fit on real data, got {t}; pass generation + 1")


def check_fit(t: int, n: int, *, ddof: int, variance: float = 1.0, lam: float = 1.0) -> None:
    """Check the arguments of a Gaussian law: fit index, sample size, estimator, real variance, multiplier."""
    check_t(t)
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


def check_probabilities(probabilities: ArrayLike) -> NDArray[np.float64]:
    """Return the probabilities of K categories as float64, (K,), rounding errors of their sum divided out."""
    vector = np.asarray(probabilities, dtype=np.float64)
    if vector.ndim != 1 or len(vector) == 0:
        raise ValueError(f"probabilities must be a vector with an entry per category, got shape {vector.shape}")
    if not np.all(vector >= 0) or not abs(float(vector.sum()) - 1) < 1e-6:
        raise ValueError(
            f"probabilities must be non-negative and sum to one, got a smallest of {vector.min()} and a sum of "
            f"{vector.sum()}; divide counts by their sum"
        )
    return vector / vector.sum()


def check_laws(
    first: tuple[ArrayLike, ArrayLike], second: tuple[ArrayLike, ArrayLike]
) -> list[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Return mean (D,) and positive definite covariance (D, D) of two normal laws as float64."""
    laws = [(np.asarray(mean, dtype=np.float64), check_covariance(covariance)) for mean, covariance in (first, second)]
    for mean, covariance in laws:
        if mean.shape != covariance.shape[:1]:
            raise ValueError(f"the mean must have shape {covariance.shape[:1]}, as the covariance, got {mean.shape}")
    if len(laws[0][0]) != len(laws[1][0]):
        raise ValueError(f"both laws must have the same dimension, got {len(laws[0][0])} and {len(laws[1][0])}")
    return laws
