"""Rows of categories and of tokens, drawn from laws known in closed form; and how a category is drawn from a table."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from collapse.data.drawn import DrawnData
from collapse.data.rows import Samples
from collapse.data.toy import numbers
from collapse.theory.categorical import zipf_probabilities

__all__ = ["CategoricalData", "MarkovData", "ZipfData", "cumulated", "draw_each", "draw_given"]

BLOCK = 1 << 17  # draws worked on at a time: as many as a processor's cache holds
FEW = 16  # categories up to which comparing with all of them is faster than bisection


def cumulated(probabilities: Tensor) -> Tensor:
    """Return cumulative probabilities for an inverse-CDF draw: the first entry above a uniform number is the draw.

    From the last category with probability on they are infinite, so that rounding of the sum to less than a uniform
    number cannot bring up a category that has died.

    Args:
        probabilities: Laws over K categories, (..., K) float64, each with a sum of 1.

    Returns:
        The table, (..., K).
    """
    sums = probabilities.cumsum(-1)
    return sums.masked_fill_(sums >= sums[..., -1:], math.inf)


def draw_each(table: Tensor, n: int, generator: torch.Generator) -> Tensor:
    """Draw n categories from every row of a table.

    Args:
        table: R laws over K categories, (R, K), from ``cumulated``.
        n: Draws from each.
        generator: On the table's device; the only source of randomness.

    Returns:
        Categories, int32 (n, R).
    """
    uniform = torch.rand(n, len(table), dtype=table.dtype, generator=generator, device=generator.device)
    if table.shape[1] > FEW:
        return torch.searchsorted(table, uniform.T.contiguous(), right=True, out_int32=True).T.contiguous()
    draws = torch.zeros(uniform.shape, dtype=torch.int32, device=table.device)
    for bound in table.T.contiguous()[:-1]:
        draws += uniform >= bound
    return draws


def draw_given(table: Tensor, rows: Tensor, generator: torch.Generator) -> Tensor:
    """Draw a category from row ``rows[i]`` of a table, by bisection in that row.

    Args:
        table: M laws over K categories, (M, K), from ``cumulated``.
        rows: The row for each draw, any shape, int64 in [0, M).
        generator: On the table's device; the only source of randomness.

    Returns:
        Categories, int64 in the shape of ``rows``.
    """
    categories, entries = table.shape[-1], table.reshape(-1)
    parts = []
    for given in rows.reshape(-1).split(BLOCK):
        uniform = torch.rand(given.shape, dtype=table.dtype, generator=generator, device=generator.device)
        first, passed = given * categories, torch.zeros_like(given)
        step = 1 << (categories - 1).bit_length() >> 1
        while step:  # the entries passed, those not above the uniform number, in binary digits; the last never is
            place = (passed + (step - 1)).clamp_(max=categories - 1).add_(first)
            passed += step * (entries.take(place) <= uniform)
            step >>= 1
        parts.append(passed)
    return torch.cat(parts).reshape(rows.shape)


class CategoricalData(DrawnData):
    r"""Independent draws of a category, one experiment or R independent ones at once.

    .. math:: P(x = i) = p_i, \qquad i = 0, \dots, K - 1

    Args:
        rows: Gold rows of each experiment.
        probabilities: The K probabilities, non-negative, with a sum of 1.
        replicates: R experiments side by side, rows of shape (R,); None for one experiment, rows that are numbers.
        reference_rows: Reference rows of each experiment.
        seed: Key of the draws.
        batch_size: Rows per process and batch; None for all rows in one batch, as estimators want them.
        num_workers: Loader processes.

    Raises:
        ValueError: If an argument is outside its range.
    """

    def __init__(
        self,
        rows: int = 1000,
        probabilities: Sequence[float] = (0.4, 0.3, 0.2, 0.1),
        *,
        replicates: int | None = None,
        reference_rows: int = 1000,
        seed: int = 0,
        batch_size: int | None = None,
        num_workers: int = 0,
    ) -> None:
        super().__init__(rows, reference_rows, seed, batch_size, num_workers)
        check_replicates(replicates)
        self.replicates = replicates
        self.probabilities = laws("probabilities", probabilities, axes=1)

    def draw(self, rows: int, rng: torch.Generator) -> Samples:
        """Draw int32 categories, (rows,) or (rows, R)."""
        shape = (rows,) if self.replicates is None else (rows, self.replicates)
        uniform = torch.rand(shape, dtype=torch.float64, generator=rng)
        return Samples(torch.searchsorted(cumulated(self.probabilities), uniform, right=True, out_int32=True))


class ZipfData(CategoricalData):
    r"""Independent draws of a category under Zipf's law, the most frequent category first.

    .. math:: P(x = i) \propto (i + 1)^{-\beta}, \qquad i = 0, \dots, K - 1

    Args:
        rows: Gold rows of each experiment.
        categories: Their number K, at least 1.
        exponent: beta, above 0; words of a text have one near 1.
        replicates, reference_rows, seed, batch_size, num_workers: As in ``CategoricalData``.

    Raises:
        ValueError: If an argument is outside its range.

    References:
        Dohmatob et al., "A Tale of Tails: Model Collapse as a Change of Scaling Laws", ICML 2024, arXiv:2402.07043.
    """

    def __init__(
        self,
        rows: int = 1000,
        categories: int = 1000,
        *,
        exponent: float = 1.5,
        replicates: int | None = None,
        reference_rows: int = 1000,
        seed: int = 0,
        batch_size: int | None = None,
        num_workers: int = 0,
    ) -> None:
        super().__init__(
            rows,
            zipf_probabilities(categories, exponent=exponent).tolist(),
            replicates=replicates,
            reference_rows=reference_rows,
            seed=seed,
            batch_size=batch_size,
            num_workers=num_workers,
        )


class MarkovData(DrawnData):
    r"""Sequences of tokens of a Markov chain: what a bigram model can learn exactly.

    .. math:: P(x_1 = i) = \pi_i, \qquad P(x_{l+1} = j \mid x_l = i) = P_{ij}

    Args:
        rows: Gold rows of each experiment.
        transition: (V, V) matrix P as nested lists; every row non-negative, with a sum of 1.
        initial: The V probabilities of the first token; None for the stationary law, pi P = pi.
        length: Tokens L of a row, at least 1.
        replicates: R experiments side by side, rows of shape (R, L); None for one experiment, rows of shape (L,).
        reference_rows, seed, batch_size, num_workers: As in ``CategoricalData``.

    Attributes:
        vocabulary: V.

    Raises:
        ValueError: If an argument is outside its range, or the stationary law is asked for and there are several.
    """

    def __init__(
        self,
        rows: int = 1000,
        transition: Sequence[Sequence[float]] = ((0.9, 0.1), (0.3, 0.7)),
        *,
        initial: Sequence[float] | None = None,
        length: int = 16,
        replicates: int | None = None,
        reference_rows: int = 1000,
        seed: int = 0,
        batch_size: int | None = None,
        num_workers: int = 0,
    ) -> None:
        super().__init__(rows, reference_rows, seed, batch_size, num_workers)
        check_replicates(replicates)
        if length < 1:
            raise ValueError(f"length = {length} must be at least 1 token")
        self.replicates, self.length = replicates, length
        self.transition = laws("transition", transition, axes=2)
        if len(self.transition) != self.transition.shape[1]:
            raise ValueError(f"transition must be a square matrix, got {tuple(self.transition.shape)}")
        self.vocabulary = len(self.transition)
        self.initial = stationary_law(self.transition) if initial is None else laws("initial", initial, axes=1)
        if len(self.initial) != len(self.transition):
            raise ValueError(f"initial has {len(self.initial)} probabilities for {len(self.transition)} tokens")

    def draw(self, rows: int, rng: torch.Generator) -> Samples:
        """Draw int32 tokens, (rows, L) or (rows, R, L)."""
        start, step = cumulated(self.initial[None]), cumulated(self.transition)
        x = torch.zeros(rows, self.replicates or 1, self.length, dtype=torch.int32)
        token = draw_given(start, torch.zeros(x.shape[:2], dtype=torch.int64), rng)
        for place in range(self.length):
            x[..., place] = token = token if place == 0 else draw_given(step, token, rng)
        return Samples(x[:, 0] if self.replicates is None else x)


def stationary_law(transition: Tensor) -> Tensor:
    """Return the law that a transition matrix (V, V) leaves as it is, (V,) float64.

    Raises:
        ValueError: If there are several: the chain falls into parts that it cannot leave.
    """
    drift = torch.eye(len(transition), dtype=torch.float64) - transition
    if int(torch.linalg.matrix_rank(drift)) < len(transition) - 1:
        raise ValueError("transition has more than one stationary law; give initial, the law of the first token")
    # pi (I - P) = 0 and pi 1 = 1 in one regular system
    law = torch.linalg.solve((drift + 1).T, torch.ones(len(transition), dtype=torch.float64))
    return law.clamp_(min=0).div_(law.sum())


def laws(argument: str, values: Sequence[Any], axes: int) -> Tensor:
    """Return probabilities as float64 with ``axes`` axes, the last one over the categories."""
    given = numbers(argument, values)
    if given.ndim != axes or given.numel() == 0:
        raise ValueError(f"{argument} must be probabilities with {axes} axes, got the shape {tuple(given.shape)}")
    if not bool((given >= 0).all()):
        raise ValueError(f"{argument} must be non-negative, got {float(given.min())}")
    sums = given.sum(-1, keepdim=True)
    worst = float(sums.flatten()[(sums - 1).abs().argmax()])
    if not abs(worst - 1) <= 1e-6:
        raise ValueError(f"{argument} must have a sum of 1, got {worst}; divide by the sum")
    return given / sums


def check_replicates(replicates: int | None) -> None:
    """Raise ValueError unless ``replicates`` is None or at least 1."""
    if replicates is not None and replicates < 1:
        raise ValueError(f"replicates = {replicates} must be at least 1; None is no replicate axis")
