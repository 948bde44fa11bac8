"""The error of the first fit, from which every law of least squares starts."""

from __future__ import annotations

from collapse.theory._checks import check_count, check_positive

__all__ = ["first_fit_error"]


def first_fit_error(name: str, n: int, dim: int, noise_variance: float) -> float:
    """Expected excess error of least squares on n rows, after checking that it is finite."""
    check_count("dim", dim, 1)
    check_positive("noise_variance", noise_variance)
    if n < dim + 2:
        raise ValueError(f"{name} must be at least d + 2 = {dim + 2} rows for a finite expected error, got {n}")
    return noise_variance * dim / (n - dim - 1)
