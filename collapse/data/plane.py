"""Modes in the plane, on which a collapse can be seen."""

from __future__ import annotations

import abc
import math

import torch
from torch import Tensor

from collapse.data.drawn import DrawnData
from collapse.data.rows import Samples

__all__ = ["GridOfGaussians", "RingOfGaussians", "TwoMoons"]


class PlaneData(DrawnData):
    """Labeled float32 points (2,), or unlabeled rows (R, 2): a mode chosen with equal probability, a place around it.

    Args:
        classes: Number of modes.
        rows, reference_rows, seed, batch_size, num_workers, replicates: As in ``DrawnData``.
    """

    def __init__(
        self,
        classes: int,
        rows: int,
        reference_rows: int,
        seed: int,
        batch_size: int | None,
        num_workers: int,
        replicates: int | None,
    ) -> None:
        super().__init__(rows, reference_rows, seed, batch_size, num_workers, replicates)
        self.classes = classes if replicates is None else None  # a row of R points has no one label

    @abc.abstractmethod
    def modes(self) -> Tensor:
        """Return the mean of every mode, (K, 2) float64; row k is that of label k."""

    @abc.abstractmethod
    def scatter(self, labels: Tensor, rng: torch.Generator) -> Tensor:
        """Draw one point per label, (n, 2) float64."""

    def draw(self, rows: int, rng: torch.Generator) -> Samples:
        """Draw labels and a point for each, (rows, 2), or points alone, (rows, R, 2)."""
        labels = torch.randint(len(self.modes()), (rows * (self.replicates or 1),), generator=rng)
        x = self.scatter(labels, rng).float()
        return Samples(x, labels) if self.replicates is None else Samples(x.reshape(rows, self.replicates, 2))


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
        replicates: R experiments side by side, unlabeled rows of shape (R, 2); None for labeled rows of shape (2,).
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
        replicates: int | None = None,
        reference_rows: int = 1000,
        seed: int = 0,
        batch_size: int | None = 128,
        num_workers: int = 0,
    ) -> None:
        super().__init__(modes, rows, reference_rows, seed, batch_size, num_workers, replicates)
        if modes < 1 or not 0 <= std < math.inf or not math.isfinite(radius):
            raise ValueError(
                f"modes = {modes} must be at least 1, std = {std} at least 0 and finite, radius = {radius} finite"
            )
        self.count, self.radius, self.std = modes, radius, std

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
        replicates: R experiments side by side, unlabeled rows of shape (R, 2); None for labeled rows of shape (2,).
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
        replicates: int | None = None,
        reference_rows: int = 1000,
        seed: int = 0,
        batch_size: int | None = 128,
        num_workers: int = 0,
    ) -> None:
        super().__init__(side * side, rows, reference_rows, seed, batch_size, num_workers, replicates)
        if side < 1 or not 0 <= std < math.inf or not math.isfinite(spacing):
            raise ValueError(
                f"side = {side} must be at least 1, std = {std} at least 0 and finite, spacing = {spacing} finite"
            )
        self.side, self.spacing, self.std = side, spacing, std

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
        spaced: Deal the angles t out evenly instead, half of the rows to each moon, as scikit-learn's ``make_moons``
            does: only the noise is left to chance, so a hundred rows say as much as many more independent ones.
        replicates: R experiments side by side, unlabeled rows of shape (R, 2); None for labeled rows of shape (2,).
        rows, reference_rows, seed, batch_size, num_workers: As in ``GaussianData``.

    Raises:
        ValueError: If an argument is outside its range.
    """

    def __init__(
        self,
        noise: float = 0.05,
        rows: int = 1000,
        *,
        spaced: bool = False,
        replicates: int | None = None,
        reference_rows: int = 1000,
        seed: int = 0,
        batch_size: int | None = 128,
        num_workers: int = 0,
    ) -> None:
        super().__init__(2, rows, reference_rows, seed, batch_size, num_workers, replicates)
        if not 0 <= noise < math.inf:
            raise ValueError(f"noise = {noise} must be at least 0 and finite")
        self.noise, self.spaced = noise, spaced

    def modes(self) -> Tensor:
        """Return the mean of each moon, (2, 2): the mean of sin t is 2 / pi."""
        return torch.tensor([[0, 2 / math.pi], [1, 0.5 - 2 / math.pi]], dtype=torch.float64)

    def draw(self, rows: int, rng: torch.Generator) -> Samples:
        """Draw labels and a point for each, (rows, 2), or points alone, (rows, R, 2)."""
        if not self.spaced:
            return super().draw(rows, rng)
        labels = (torch.arange(rows) >= rows // 2).long()
        t = torch.cat([torch.linspace(0, math.pi, n, dtype=torch.float64) for n in (rows // 2, rows - rows // 2)])
        order, chains = torch.randperm(rows, generator=rng), self.replicates or 1
        places = half_circles(labels[order], t[order])[:, None].expand(-1, chains, -1)
        x = (places + self.noise * plane_noise(rows * chains, rng).reshape(places.shape)).float()
        return Samples(x[:, 0], labels[order]) if self.replicates is None else Samples(x)

    def scatter(self, labels: Tensor, rng: torch.Generator) -> Tensor:
        """Draw noisy points of the half circles of ``labels``."""
        t = math.pi * torch.rand(len(labels), generator=rng, dtype=torch.float64)
        return half_circles(labels, t) + self.noise * plane_noise(len(labels), rng)


def half_circles(labels: Tensor, t: Tensor) -> Tensor:
    """Return the points at angles t (n,) of the moons of ``labels``, (n, 2)."""
    moon = torch.stack([t.cos(), t.sin()], dim=1)
    other = torch.tensor([1, 0.5], dtype=torch.float64) - moon
    return torch.where(labels[:, None] == 0, moon, other)


def plane_noise(rows: int, rng: torch.Generator) -> Tensor:
    """Draw standard normal points, (rows, 2) float64."""
    return torch.randn(rows, 2, generator=rng, dtype=torch.float64)
