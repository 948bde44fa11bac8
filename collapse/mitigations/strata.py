"""Protected strata: the tails of gold, which no mitigation may drop or weigh down."""

from __future__ import annotations

import difflib
import inspect
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from collapse.data.generation import Generation
from collapse.data.mixture import Mixture
from collapse.data.pool import DataPool
from collapse.data.rows import Samples
from collapse.data.strata import SCORES, content, tail
from collapse.mitigations.mitigation import Mitigation, Stage

__all__ = ["ProtectedStrata", "Score"]

Score = Callable[[Samples], Tensor | np.ndarray]
"""gold -> (n,) scores, high in the tails, or (n,) bool, which rows to protect."""


def named(function: Any) -> str:
    """Return what identifies a function in a run: its name for one of a module, else its repr.

    Raises:
        ValueError: If that says nothing: of a lambda, a function within another, an object without a repr.
    """
    plain = inspect.isfunction(function) or inspect.isbuiltin(function)
    text = f"{function.__module__}.{function.__qualname__}" if plain else repr(function)
    if "<" in text:
        raise ValueError(
            f"by={text} does not say which function it is, and a run is known by it; use a function of a module, or an "
            "object with a repr of its own"
        )
    return text


class ProtectedStrata(Mitigation):
    r"""Guarantee the tails of gold their places: protected rows are in every training set, at full weight.

    Tails go first: a rare row that one generation is not trained on is not sampled for the next. The ``share`` of gold
    with the highest score is protected, from generation 0 on and the same rows in all of them. Whatever the other
    mitigations do, and in whatever order, each is drawn at least ``quota`` times, within the n rows of the training set
    and within its real fraction; all others make room in proportion. Rows that have their quota anyway change nothing.

    .. math:: c_i = \max(q\,[i\ \text{protected}],\; \lambda w_i), \qquad \sum_i c_i = n

    The product of the factors that mitigations put on the loss of a protected row is at least 1. A row that another
    mitigation holds back, as fresh anchors are, is protected all the same, in every generation. Several ProtectedStrata
    protect the union of their strata. A row of replicated data is protected in all replicates. Where there is no room
    for all of them the chain is refused before its first step. (The training set is what is guaranteed: with fewer
    ``steps_per_generation`` than one pass takes, a generation sees a part of it.)

    Args:
        share: Share of gold, in [0, 1]; at least one row. Zero changes nothing. None where ``by`` says which rows.
        by: How far in the tails a row is. ``"class"``: rows of rare classes. ``"density"``: rows with a distant k-th
            neighbor. ``"token"``: rows of tokens that are rare on average, in nats. ``"rarest_token"``: rows with one
            rare token. Or a deterministic function of a module, from gold (``Samples``) to scores (n,), high in the
            tails, or to the rows to protect, (n,) bool. Equal scores are taken in row order.
        quota: How often each protected row is drawn at least, from 1.
        k: The neighbor of ``"density"``, from 1; None is 5.

    References:
        Shumailov et al., Nature 631, 2024 (tails are lost first); Dohmatob et al., ICML 2024, arXiv:2402.07043 (what
        the loss of rare tokens does to scaling); the guarantee itself is this package's.
    """

    stage = Stage.PROTECT
    citation = "Shumailov et al. (2024), Nature 631:755"

    def __init__(
        self, share: float | None, by: str | Score = "density", *, quota: int = 1, k: int | None = None
    ) -> None:
        if share is not None and not 0 <= share <= 1:
            raise ValueError(f"share must lie in [0, 1] or be None, got {share}")
        if quota < 1:
            raise ValueError(f"quota must be at least 1 place for each protected row, got {quota}")
        if k is not None and (k < 1 or by != "density"):
            raise ValueError(f"k={k} must be at least 1, and goes with by='density' alone")
        if not callable(by):
            _check_name(by, share)
        self.name = named(by) if callable(by) else by
        self.share, self.by, self.quota, self.k = share, by, quota, 5 if k is None else k
        self._found: tuple[str, Tensor] | None = None  # what gold it was, and the places of the tail in it
        self._pool: tuple[weakref.ref[Any], Tensor] | None = None  # the chain's first shard, and the protected rows

    def compose_training_set(self, mixture: Mixture, generation: Generation) -> Mixture:
        """Guarantee every protected row its quota."""
        if self.share == 0:
            return mixture
        copies = torch.zeros(len(generation.pool), dtype=torch.int64)
        copies[self.protected(generation.pool)] = self.quota
        return mixture.guaranteeing(copies)

    def protected(self, pool: DataPool) -> Tensor:
        """Return the protected rows of a chain's pool, (P,) int64 rising; found once for the same gold, from it alone.

        A chain's gold has one digest wherever its rows lie: what a rehearsal in memory found holds for the run folder.
        """
        if self._pool is None or self._pool[0]() is not pool.shards[0]:
            gold = (pool.is_real & (pool.generation == 0)).nonzero().squeeze(1)
            digest = content(pool, gold)
            if self._found is None or self._found[0] != digest:
                self._found = (digest, self._tail(pool, gold))
            self._pool = (weakref.ref(pool.shards[0]), gold[self._found[1]])
        return self._pool[1]

    def _tail(self, pool: DataPool, gold: Tensor) -> Tensor:
        """Return places in ``gold`` (G,)."""
        if not callable(self.by):
            return tail(SCORES[self.by](pool, gold, self.k), self.share or 0.0)
        labels = None if pool.labels is None else pool.labels[gold].numpy()
        score = torch.as_tensor(np.asarray(self.by(Samples(pool.stored(gold.numpy()), labels))))
        if score.shape != gold.shape or bool(score.isnan().any()):
            raise ValueError(
                f"{self.name} must return a score other than NaN, or a bool, for each of gold's {len(gold)} rows; got "
                f"{'NaN' if score.shape == gold.shape else f'the shape {tuple(score.shape)}'}"
            )
        if (score.dtype == torch.bool) != (self.share is None):
            returned, share = ("rows", "None") if self.share is not None else ("scores", "the share of gold to protect")
            raise ValueError(f"{self.name} returned {returned}, and share is {self.share}; give share={share}")
        return score.nonzero().squeeze(1) if self.share is None else tail(score, self.share)

    def describe(self) -> str:
        """As of any mitigation, with a function's name in place of its address."""
        text = super().describe()
        return text.replace(f"by={self.by!r}", f"by={self.name}") if callable(self.by) else text

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_found": None, "_pool": None}


def _check_name(by: Any, share: float | None) -> None:
    if not isinstance(by, str) or by not in SCORES:
        near = difflib.get_close_matches(str(by), SCORES, n=1) or ["density"]
        raise ValueError(f"by must be one of {', '.join(SCORES)}, or a function, got {by!r}; did you mean {near[0]!r}?")
    if share is None:
        raise ValueError(f"by={by!r} scores rows, and share=None; give the share of gold to protect")
