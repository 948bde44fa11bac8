"""Rows drawn from normal laws and mixtures of them: the laws that estimators are judged by."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from einops import einsum
from torch import Tensor

from collapse.data.drawn import DrawnData
from collapse.data.rows import Samples
from collapse.seeding import standard_normal

__all__ = ["GaussianData", "GaussianMixtureData"]


class GaussianData(DrawnData):
    r"""Rows of a normal law, one experiment or R independent ones at once.

    .. math:: x = \mu + L \varepsilon, \qquad L L^\top = \Sigma, \quad \varepsilon \sim \mathcal N(0, I_d)

    Args:
        rows: Gold rows of each experiment.
        dim: Dimension d.
        mean: The mean, one number for all coordinates or d of them.
        std: Standard deviation of independent coordinates, above 0, one number or d of them.
        covariance: (d, d) positive definite matrix as nested lists; takes the place of ``std``.
        replicates: R experiments side by side, rows of shape (R, d); None for one experiment, rows of shape (d,).
        reference_rows: Reference rows of each experiment.
        seed: Key of the draws.
        batch_size: Rows per process and batch; None for all rows in one batch, as estimators want them.
        num_workers: Loader processes.

    Raises:
        ValueError: If an argument is outside its range or has another length than ``dim``.
    """

    def __init__(
        self,
        rows: int = 1000,
        dim: int = 1,
        *,
        mean: float | Sequence[float] = 0.0,
        std: float | Sequence[float] = 1.0,
        covariance: Sequence[Sequence[float]] | None = None,
        replicates: int | None = None,
        reference_rows: int = 1000,
        seed: int = 0,
        batch_size: int | None = None,
        num_workers: int = 0,
    ) -> None:
        super().__init__(rows, reference_rows, seed, batch_size, num_workers, replicates)
        if dim < 1:
            raise ValueError(f"dim = {dim} must be at least 1")
        self.mean, self.std = coordinates("mean", mean, dim), coordinates("std", std, dim)
        if not bool((self.std > 0).all()):
            raise ValueError(f"std = {std} must be above 0 in every coordinate")
        self.factor = None if covariance is None else cholesky(covariance, dim)

    def draw(self, rows: int, rng: torch.Generator) -> Samples:
        """Draw float64 rows, (rows, d) or (rows, R, d)."""
        axes = () if self.replicates is None else (self.replicates,)
        noise = standard_normal(rows, *axes, len(self.mean), generator=rng)
        x = noise.mul_(self.std) if self.factor is None else noise @ self.factor.T
        return Samples(x.add_(self.mean))


class GaussianMixtureData(DrawnData):
    r"""Rows of a mixture of normal laws, one experiment or R independent ones at once.

    .. math:: k \sim \pi, \qquad x \sim \mathcal N(\mu_k, \Sigma_k)

    Args:
        weights: Probability pi of each of the K components, at least 0, summing to one.
        means: K numbers, or K rows of d numbers.
        stds: Standard deviation of each component, the same in all coordinates, above 0; one number or K of them.
        covariances: K positive definite matrices (d, d) as nested lists; they take the place of ``stds``.
        rows: Gold rows of each experiment.
        replicates: R experiments side by side, rows of shape (R, d) without labels; None for rows of shape (d,),
            labeled with their component.
        reference_rows, seed, batch_size, num_workers: As in ``GaussianData``.

    Raises:
        ValueError: If an argument is outside its range or has not one entry per component.
    """

    def __init__(
        self,
        weights: Sequence[float],
        means: Sequence[float] | Sequence[Sequence[float]],
        *,
        stds: float | Sequence[float] = 1.0,
        covariances: Sequence[Sequence[Sequence[float]]] | None = None,
        rows: int = 1000,
        replicates: int | None = None,
        reference_rows: int = 1000,
        seed: int = 0,
        batch_size: int | None = None,
        num_workers: int = 0,
    ) -> None:
        super().__init__(rows, reference_rows, seed, batch_size, num_workers, replicates)
        self.means = points("means", means)
        self.weights = probabilities(weights, len(means))
        if covariances is None:
            self.factors = scales(stds, len(means))[:, None, None] * torch.eye(self.means.shape[1], dtype=torch.float64)
        elif len(covariances) == len(means):
            named = {f"covariances[{index}]": covariance for index, covariance in enumerate(covariances)}
            dim = self.means.shape[1]
            self.factors = torch.stack([cholesky(covariance, dim, name) for name, covariance in named.items()])
        else:
            raise ValueError(f"covariances has {len(covariances)} matrices for {len(means)} means; give one for each")
        self.classes = len(means) if replicates is None else None  # a row of R points has no one label

    def modes(self) -> Tensor:
        """Return the means, (K, d); row k is that of label k."""
        return self.means

    def draw(self, rows: int, rng: torch.Generator) -> Samples:
        """Draw float64 rows and their labels, (rows, d), or rows alone, (rows, R, d)."""
        count, dim = rows * (self.replicates or 1), self.means.shape[1]
        uniform = torch.rand(count, dtype=torch.float64, generator=rng)
        labels = torch.bucketize(uniform, self.weights.cumsum(0)[:-1], right=True)
        noise = standard_normal(count, dim, generator=rng)
        x = self.means[labels] + einsum(self.factors[labels], noise, "n i j, n j -> n i")
        return Samples(x, labels) if self.replicates is None else Samples(x.reshape(rows, self.replicates, dim))


def probabilities(weights: Sequence[float], count: int) -> Tensor:
    """Return the weights of ``count`` components as (count,) float64."""
    given = numbers("weights", weights)
    if given.shape != (count,) or bool((given < 0).any()) or not abs(float(given.sum()) - 1) < 1e-6:
        raise ValueError(f"weights = {weights} must be {count} probabilities, one per mean, that sum to one")
    return given


def scales(stds: float | Sequence[float], count: int) -> Tensor:
    """Return the standard deviations of ``count`` components as (count,) float64, one number repeated."""
    given = finite_numbers("stds", stds)
    if given.shape not in ((), (count,)) or not bool((given > 0).all()):
        raise ValueError(f"stds = {stds} must be one number above 0 or {count} of them, one per mean")
    return given.expand(count)


def numbers(argument: str, values: Any) -> Tensor:
    """Return numbers, or nested lists of them, as float64.

    Raises:
        ValueError: If lists of one level differ in length, or something is no number.
    """
    try:
        return torch.as_tensor(values, dtype=torch.float64)
    except (ValueError, TypeError, RuntimeError):
        raise ValueError(f"{argument} = {values} must be a number, or equally long lists of numbers") from None


def finite_numbers(argument: str, values: Any) -> Tensor:
    """Return numbers as ``numbers`` does, or raise ValueError if one is NaN or infinite."""
    given = numbers(argument, values)
    if not bool(given.isfinite().all()):
        raise ValueError(f"{argument} = {values} must be finite")
    return given


def points(argument: str, values: Any) -> Tensor:
    """Return K numbers, or K rows of d numbers, as (K, d) float64.

    Raises:
        ValueError: If they are anything else, or none.
    """
    given = finite_numbers(argument, values)
    if given.ndim not in (1, 2) or given.numel() == 0:
        raise ValueError(f"{argument} = {values} must be numbers, or equally long rows of numbers")
    return given.reshape(len(given), -1)


def coordinates(argument: str, value: float | Sequence[float], dim: int) -> Tensor:
    """Return ``value`` as (dim,) float64, one number repeated."""
    given = finite_numbers(argument, value)
    if given.shape not in ((), (1,), (dim,)):
        raise ValueError(f"{argument} = {value} must be one number or dim = {dim} of them")
    return given.expand(dim).clone()


def cholesky(covariance: Sequence[Sequence[float]], dim: int, argument: str = "covariance") -> Tensor:
    """Return the lower triangular factor of a covariance matrix, (dim, dim) float64."""
    matrix = finite_numbers(argument, covariance)
    if matrix.shape != (dim, dim) or not torch.equal(matrix, matrix.T):
        raise ValueError(f"{argument} = {covariance} must be a symmetric matrix of dim = {dim} rows and columns")
    factor, failed = torch.linalg.cholesky_ex(matrix)
    if bool(failed):
        raise ValueError(f"{argument} = {covariance} must be positive definite")
    return factor
