"""Rows drawn from laws known in closed form: oracles for estimators, and planes on which a collapse can be seen."""

from __future__ import annotations

import abc
import math
from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor

from collapse.data.module import RecursiveDataModule
from collapse.data.rows import Samples
from collapse.seeding import Stream, generator

__all__ = ["GaussianData", "GridOfGaussians", "RingOfGaussians", "TwoMoons"]

GOLD, REFERENCE = 0, 1


class DrawnData(RecursiveDataModule):
    """Gold and reference rows drawn from one law, each once, at the first call, from a key of its own."""

    def __init__(self, rows: int, reference_rows: int, seed: int, batch_size: int | None, num_workers: int) -> None:
        super().__init__(batch_size, num_workers)
        if min(rows, reference_rows) < 1:
            raise ValueError(f"rows = {rows} and reference_rows = {reference_rows} must both be at least 1")
        self.rows, self.reference_rows, self.seed = rows, reference_rows, seed

    @abc.abstractmethod
    def draw(self, rows: int, rng: torch.Generator) -> Samples:
        """Draw ``rows`` independent rows of the law with ``rng`` alone."""

    @cached_property
    def _gold(self) -> Samples:
        return self.draw(self.rows, generator(self.seed, Stream.DATA, GOLD))

    @cached_property
    def _reference(self) -> Samples:
        return self.draw(self.reference_rows, generator(self.seed, Stream.DATA, REFERENCE))

    def gold(self) -> Samples:
        """Return the rows drawn for training."""
        return self._gold

    def reference(self) -> Samples:
        """Return the rows drawn for comparison."""
        return self._reference


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
        super().__init__(rows, reference_rows, seed, batch_size, num_workers)
        if dim < 1 or (replicates is not None and replicates < 1):
            raise ValueError(f"dim = {dim} and replicates = {replicates} must be at least 1; None is no replicate axis")
        self.replicates = replicates
        self.mean, self.std = coordinates("mean", mean, dim), coordinates("std", std, dim)
        if bool((self.std <= 0).any()):
            raise ValueError(f"std = {std} must be above 0 in every coordinate")
        self.factor = None if covariance is None else cholesky(covariance, dim)

    def draw(self, rows: int, rng: torch.Generator) -> Samples:
        """Draw float64 rows, (rows, d) or (rows, R, d)."""
        axes = () if self.replicates is None else (self.replicates,)
        noise = torch.randn(rows, *axes, len(self.mean), generator=rng, dtype=torch.float64)
        x = noise.mul_(self.std) if self.factor is None else noise @ self.factor.T
        return Samples(x.add_(self.mean))


class PlaneData(DrawnData):
    """Labeled float32 points (2,): a mode chosen with equal probability, then a place around it."""

    @abc.abstractmethod
    def modes(self) -> Tensor:
        """Return the mean of every mode, (K, 2) float64; row k is that of label k."""

    @abc.abstractmethod
    def scatter(self, labels: Tensor, rng: torch.Generator) -> Tensor:
        """Draw one point per label, (n, 2) float64."""

    def draw(self, rows: int, rng: torch.Generator) -> Samples:
        """Draw labels and a point for each."""
        labels = torch.randint(len(self.modes()), (rows,), generator=rng)
        return Samples(self.scatter(labels, rng).float(), labels)


class IsotropicModes(PlaneData):
    """Equal round normal laws around the modes."""

    std: float

    def scatter(self, labels: Tensor, rng: torch.Generator) -> Tensor:
        """Draw normal points around the modes of ``labels``."""
        return self.modes()[labels] + self.std * plane_noise(len(labels), rng)


class RingOfGaussians(IsotropicModes):
    r"""Equal normal laws on a circle.

    .. math:: \mu_k = r\,(\cos 2\pi k/K,\; \sin 2\pi k/K), \qquad x \sim \mathcal N(\mu_k, s^2 I_2)

    Args:
        modes: Their number K, at least 1.
        radius: Radius r of the circle.
        std: Standard deviation s of each, at least 0.
        rows, reference_rows, seed, batch_size, num_workers: As in ``GaussianData``.

    Raises:
        ValueError: If an argument is outside its range.
    """

    def __init__(
        self,
        modes: int = 8,
        radius: float = 1.0,
        *,
        std: float = 0.05,
        rows: int = 1000,
        reference_rows: int = 1000,
        seed: int = 0,
        batch_size: int | None = 128,
        num_workers: int = 0,
    ) -> None:
        super().__init__(rows, reference_rows, seed, batch_size, num_workers)
        if modes < 1 or std < 0:
            raise ValueError(f"modes = {modes} must be at least 1 and std = {std} at least 0")
        self.classes = self.count = modes
        self.radius, self.std = radius, std

    def modes(self) -> Tensor:
        """Return the centers counter-clockwise from the positive x-axis, (K, 2)."""
        angles = torch.arange(self.count, dtype=torch.float64) * (2 * math.pi / self.count)
        return self.radius * torch.stack([angles.cos(), angles.sin()], dim=1)


class GridOfGaussians(IsotropicModes):
    r"""Equal normal laws on a square grid around the origin.

    .. math:: \mu_{im+j} = a\,\bigl(i - \tfrac{m-1}2,\; j - \tfrac{m-1}2\bigr), \qquad x \sim \mathcal N(\mu_k, s^2 I_2)

    Args:
        side: Modes m along one side, at least 1; there are m squared.
        spacing: Distance a between neighbors.
        std: Standard deviation s of each, at least 0.
        rows, reference_rows, seed, batch_size, num_workers: As in ``GaussianData``.

    Raises:
        ValueError: If an argument is outside its range.
    """

    def __init__(
        self,
        side: int = 5,
        spacing: float = 1.0,
        *,
        std: float = 0.05,
        rows: int = 1000,
        reference_rows: int = 1000,
        seed: int = 0,
        batch_size: int | None = 128,
        num_workers: int = 0,
    ) -> None:
        super().__init__(rows, reference_rows, seed, batch_size, num_workers)
        if side < 1 or std < 0:
            raise ValueError(f"side = {side} must be at least 1 and std = {std} at least 0")
        self.classes, self.side, self.spacing, self.std = side * side, side, spacing, std

    def modes(self) -> Tensor:
        """Return the centers, the second coordinate running fastest, (side * side, 2)."""
        places = self.spacing * (torch.arange(self.side, dtype=torch.float64) - (self.side - 1) / 2)
        return torch.cartesian_prod(places, places)


class TwoMoons(PlaneData):
    r"""Two interleaved half circles with normal noise.

    .. math::
        x_0 = (\cos t, \sin t), \quad x_1 = (1 - \cos t, \tfrac12 - \sin t), \quad t \sim \mathcal U[0, \pi],
        \qquad x = x_k + s\,\varepsilon

    Args:
        noise: Standard deviation s, at least 0.
        rows, reference_rows, seed, batch_size, num_workers: As in ``GaussianData``.

    Raises:
        ValueError: If an argument is outside its range.
    """

    classes = 2

    def __init__(
        self,
        noise: float = 0.05,
        rows: int = 1000,
        *,
        reference_rows: int = 1000,
        seed: int = 0,
        batch_size: int | None = 128,
        num_workers: int = 0,
    ) -> None:
        super().__init__(rows, reference_rows, seed, batch_size, num_workers)
        if noise < 0:
            raise ValueError(f"noise = {noise} must be at least 0")
        self.noise = noise

    def modes(self) -> Tensor:
        """Return the mean of each moon, (2, 2): the mean of sin t is 2 / pi."""
        return torch.tensor([[0, 2 / math.pi], [1, 0.5 - 2 / math.pi]], dtype=torch.float64)

    def scatter(self, labels: Tensor, rng: torch.Generator) -> Tensor:
        """Draw noisy points of the half circles of ``labels``."""
        t = math.pi * torch.rand(len(labels), generator=rng, dtype=torch.float64)
        moon = torch.stack([t.cos(), t.sin()], dim=1)
        other = torch.tensor([1, 0.5], dtype=torch.float64) - moon
        return torch.where(labels[:, None] == 0, moon, other) + self.noise * plane_noise(len(labels), rng)


def plane_noise(rows: int, rng: torch.Generator) -> Tensor:
    """Draw standard normal points, (rows, 2) float64."""
    return torch.randn(rows, 2, generator=rng, dtype=torch.float64)


def coordinates(argument: str, value: float | Sequence[float], dim: int) -> Tensor:
    """Return ``value`` as (dim,) float64, one number repeated."""
    given = torch.as_tensor(value, dtype=torch.float64)
    if given.shape not in ((), (1,), (dim,)):
        raise ValueError(f"{argument} = {value} must be one number or dim = {dim} of them")
    return given.expand(dim).clone()


def cholesky(covariance: Sequence[Sequence[float]], dim: int) -> Tensor:
    """Return the lower triangular factor of a covariance matrix, (dim, dim) float64."""
    matrix = torch.as_tensor(covariance, dtype=torch.float64)
    if matrix.shape != (dim, dim) or not torch.equal(matrix, matrix.T):
        raise ValueError(f"covariance = {covariance} must be a symmetric matrix of dim = {dim} rows and columns")
    factor, failed = torch.linalg.cholesky_ex(matrix)
    if bool(failed):
        raise ValueError(f"covariance = {covariance} must be positive definite")
    return factor
