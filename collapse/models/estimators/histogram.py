"""The histogram estimator: a density that is constant on bins, and does not spread as a kernel density does."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from collapse.data.discrete import cumulated, draw_each
from collapse.data.rows import Batch
from collapse.models.estimators.categorical import check_mass, count
from collapse.models.estimators.estimator import Estimator

__all__ = ["Histogram"]

BLOCK = 1 << 17  # rows times replicates counted at a time


class Histogram(Estimator):
    r"""Share of the rows in each of B equal bins; samples uniformly within a bin.

    .. math:: f(x) = \frac{p_b}{w}, \qquad p_b = \frac1n \#\{i : b = \lfloor (x_i - \mathrm{low})/w \rfloor\}, \qquad
        w = \frac{\mathrm{high} - \mathrm{low}}{B}

    The bin of a row is all that is kept of it, so bins follow the laws of categories, and the expected second moment
    of f is the same in every generation. With row weights the shares are weighted.

    Args:
        low: Left edge of the first bin.
        high: Right edge of the last bin, above ``low``; rows lie in [low, high).
        bins: Their number B, at least 1.
        replicates: R independent chains, on data with rows (R, 1); None for rows (1,).

    Attributes:
        probabilities: (R, B) float64.
        counts: (R, B) float64, rows in each bin, or the sum of their weights.
        edges: The B + 1 edges, (B + 1,) float64.
    """

    probabilities: Tensor
    counts: Tensor
    edges: Tensor

    def __init__(self, low: float, high: float, bins: int = 32, replicates: int | None = None) -> None:
        if not -math.inf < low < high < math.inf or bins < 1:
            raise ValueError(
                f"Histogram needs finite low < high and bins >= 1, got low={low}, high={high}, bins={bins}"
            )
        super().__init__((1,), replicates)
        self.low, self.high, self.bins = low, high, bins
        self.register_buffer("probabilities", torch.zeros(self.chains, bins, dtype=torch.float64))
        self.register_buffer("counts", torch.zeros(self.chains, bins, dtype=torch.float64))
        self.register_buffer("edges", torch.linspace(low, high, bins + 1, dtype=torch.float64), persistent=False)

    @property
    def width(self) -> float:
        """Width w of a bin."""
        return (self.high - self.low) / self.bins

    def begin(self) -> None:
        """Forget the rows counted so far."""
        self.counts.zero_()

    def update(self, batch: Batch, weights: Tensor | None = None) -> None:
        """Count the rows (B, R, 1) in their bins.

        Raises:
            ValueError: If a row is outside [low, high).
        """
        size = max(1, BLOCK // self.chains)
        for start in range(0, len(batch.x), size):
            x = batch.x[start : start + size, :, 0].to(torch.float64)
            outside = ~self.covers(x)
            if bool(outside.any()):
                raise ValueError(f"{self.describe()} got the value {float(x[outside][0])}; widen low and high")
            count(self.counts, self.bin_of(x), None if weights is None else weights[start : start + size])

    def finish(self) -> None:
        """Turn counts into shares."""
        self.probabilities.copy_(self.counts / self.counts.sum(1, keepdim=True).clamp_min(torch.finfo().tiny))

    def covers(self, x: Tensor) -> Tensor:
        """Return whether values lie in [low, high), bool in their shape; NaN does not."""
        return (x >= self.edges[0]) & (x < self.edges[-1])

    def bin_of(self, x: Tensor) -> Tensor:
        """Return the bins of values (B, R) in [low, high), int64."""
        return torch.bucketize(x.contiguous(), self.edges[1:-1], right=True)

    def log_prob(self, x: Tensor) -> Tensor:
        """Return the log-density in nats of rows (n, R, 1) or (n, 1), (n, R) or (n,); -inf outside [low, high)."""
        values = self.arranged(x)[..., 0].to(torch.float64)
        density = self.probabilities.gather(1, self.bin_of(values).T).T / self.width
        return self.emitted(torch.where(self.covers(values), density, 0).log())

    def loss(self, batch: Batch) -> Tensor:
        """Return the negative log-likelihood of each row in nats, averaged over replicates, (B,)."""
        return -self.log_prob(batch.x).reshape(len(batch.x), -1).mean(1)

    def sample(self, n: int, generator: torch.Generator, y: Tensor | None = None) -> Tensor:
        """Draw float64 values, (n, 1), or (n, R, 1) with replicates.

        Raises:
            ValueError: If the model was fitted on no rows.
        """
        check_mass(self.probabilities, self)
        bins = draw_each(cumulated(self.probabilities), n, generator)
        within = torch.rand(bins.shape, dtype=torch.float64, generator=generator, device=generator.device)
        x = self.low + self.width * (bins + within)
        return self.emitted(x.clamp_(*_inner(self.low, self.high))[..., None])


def _inner(low: float, high: float) -> tuple[float, float]:
    """Return the outermost float32 numbers in [low, high): what they bound stays inside when it is stored as float32.

    Where float32 cannot tell them apart, the outermost float64 numbers.
    """
    first, last = np.float32(low), np.float32(high)
    if float(first) < low:
        first = np.nextafter(first, np.float32(math.inf))
    if float(last) >= high:
        last = np.nextafter(last, np.float32(-math.inf))
    return (float(first), float(last)) if first < last else (low, math.nextafter(high, low))
