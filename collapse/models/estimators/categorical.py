"""The categorical estimator: frequencies of categories, the model whose collapse is Wright-Fisher drift."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from collapse.data.discrete import cumulated, draw_each
from collapse.data.rows import Batch
from collapse.models.decoding import Decoding
from collapse.models.estimators.estimator import Estimator

__all__ = ["Categorical", "check_mass", "count", "indices"]

BLOCK = 1 << 17  # rows times replicates counted at a time


class Categorical(Estimator):
    r"""Relative frequencies of K categories, with additive smoothing.

    .. math:: p_k = \frac{c_k + \beta}{n + K\beta}, \qquad c_k = \#\{i : x_i = k\}

    With row weights a count is the sum of its rows' weights, and n the sum of all. Without smoothing a category that
    is not drawn has died: it is never sampled again, and the loss of a row that has it is infinite. With smoothing and
    no row at all the law is uniform.

    Args:
        categories: Their number K, at least 1; rows are integers in [0, K).
        smoothing: beta, the rows added to every category, at least 0.
        replicates: R independent chains, on data with rows (R,); None for rows that are numbers.
        temperature: Of the sampler, above 0; like the next two a recorded sampler setting, see ``Decoding``.
        top_k: Categories the sampler keeps; None for all.
        top_p: Mass the sampler keeps, in (0, 1].

    Attributes:
        probabilities: (R, K) float64.
        counts: (R, K) float64, rows of each category, or the sum of their weights.

    References:
        Shumailov et al., Nature 631, 2024 (discrete distributions); Dohmatob et al., ICML 2024, arXiv:2402.07043;
        Ewens, "Mathematical Population Genetics", 2004, section 3.2 (the chain of frequencies).
    """

    probabilities: Tensor
    counts: Tensor

    def __init__(
        self,
        categories: int,
        smoothing: float = 0.0,
        replicates: int | None = None,
        *,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float = 1.0,
    ) -> None:
        if categories < 1 or not 0 <= smoothing < float("inf"):
            raise ValueError(
                f"Categorical needs categories >= 1 and smoothing >= 0, got categories={categories}, "
                f"smoothing={smoothing}"
            )
        super().__init__((), replicates)
        self.categories, self.smoothing = categories, smoothing
        self.decoding = Decoding(temperature, top_k, top_p)
        self.register_buffer("probabilities", torch.zeros(self.chains, categories, dtype=torch.float64))
        self.register_buffer("counts", torch.zeros(self.chains, categories, dtype=torch.float64))

    @property
    def sampler_settings(self) -> dict[str, Any]:
        """Temperature, top-k and top-p, unless they are neutral."""
        return self.decoding.settings

    def begin(self) -> None:
        """Forget the rows counted so far."""
        self.counts.zero_()

    def update(self, batch: Batch, weights: Tensor | None = None) -> None:
        """Count the rows (B, R)."""
        size = max(1, BLOCK // self.chains)
        for start in range(0, len(batch.x), size):
            rows = indices(batch.x[start : start + size], self.categories, self)
            count(self.counts, rows, None if weights is None else weights[start : start + size])

    def finish(self) -> None:
        """Turn counts into frequencies."""
        total = self.counts.sum(1, keepdim=True) + self.categories * self.smoothing
        self.probabilities.copy_((self.counts + self.smoothing) / total.clamp_min(torch.finfo().tiny))

    def log_prob(self, x: Tensor) -> Tensor:
        """Return the log-likelihood in nats of rows (n, R) or (n,), in their shape."""
        rows = indices(self.arranged(x), self.categories, self)
        return self.emitted(self.probabilities.gather(1, rows.T).log().T)

    def loss(self, batch: Batch) -> Tensor:
        """Return the negative log-likelihood of each row in nats, averaged over replicates, (B,)."""
        return -self.log_prob(batch.x).reshape(len(batch.x), -1).mean(1)

    def sample(self, n: int, generator: torch.Generator, y: Tensor | None = None) -> Tensor:
        """Draw int32 categories, (n,), or (n, R) with replicates.

        Raises:
            ValueError: If the model was fitted on no rows.
        """
        check_mass(self.probabilities, self)
        return self.emitted(draw_each(cumulated(self.decoding.apply(self.probabilities)), n, generator))


def indices(x: Tensor, categories: int, model: Estimator) -> Tensor:
    """Return rows as int64.

    Raises:
        ValueError: If they are no integers, or one lies outside [0, ``categories``).
    """
    if x.is_floating_point() or x.is_complex():
        raise ValueError(
            f"{model.describe()} takes integers, got {x.dtype}; store indices as int32 (a pool reads uint8 as images)"
        )
    if x.numel():
        low, high = (int(value) for value in x.aminmax())
        if low < 0 or high >= categories:
            raise ValueError(f"{model.describe()} takes integers in [0, {categories}), got {low if low < 0 else high}")
    return x.long()


def count(counts: Tensor, cells: Tensor, weights: Tensor | None = None) -> None:
    """Add one, or its row's weight, to the cell of every row.

    Args:
        counts: (R, M) float64 contiguous, added to in place.
        cells: (B, R) or (B, R, L) int64, in [0, M).
        weights: (B, 1) or (B, R) float64.
    """
    flat = torch.arange(len(counts), device=cells.device) * counts.shape[1]
    places = cells + (flat if cells.ndim == 2 else flat[:, None])
    ones = counts.new_ones(()) if weights is None else weights if cells.ndim == 2 else weights[:, :, None]
    counts.view(-1).scatter_add_(0, places.reshape(-1), ones.expand(cells.shape).reshape(-1))


def check_mass(probabilities: Tensor, model: Estimator) -> None:
    """Raise ValueError if there is no law to draw from, in one replicate at least; probabilities (R, ..., K)."""
    if not bool((probabilities.flatten(1).amax(1) > 0).all()):
        raise ValueError(f"{model.describe()} was fitted on 0 rows; it needs one at least, or smoothing above 0")
