"""A mixture: the measure over pool rows that a generation trains on.

Replace, accumulate, subsample, sliding window, anchors, age decay, importance weights: each is a measure over the rows
of the pool and a number of rows to draw. So each is a line or two on this class.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor

from collapse.data.chance import joined, systematic
from collapse.data.guarantee import raised, remainder
from collapse.data.rows import NEVER, Origin

__all__ = ["NEVER", "Mixture"]


@dataclass(frozen=True, eq=False)
class Mixture:
    """A measure over the N rows of a pool, plus how many rows to draw. Every method returns a new mixture.

    Attributes:
        weights: (N,) float64, non-negative, need not sum to one.
        size: Rows to draw, the generation's training set.
        origin: (N,) ``Origin`` of each row.
        arrival: (N,) int64, first generation allowed to train on the row. The pool's generation column, unless a
            mitigation holds rows back (``AnchorReplay(rows="fresh")``).
        real_share: When set, exactly ``round(real_share * size)`` of the rows drawn are real.
        replacement: Draw independently, with replacement.
        coins: With ``real_share``: every row is real with that probability, by a coin of its own, so that the share
            holds in expectation only.
        guaranteed: (N,) int64, how often each row comes at least, whatever the measure says; None without any. Every
            method keeps it.
    """

    weights: Tensor
    size: int
    origin: Tensor
    arrival: Tensor
    real_share: float | None = None
    replacement: bool = False
    coins: bool = False
    guaranteed: Tensor | None = None

    @property
    def is_real(self) -> Tensor:
        """(N,) bool."""
        return self.origin == Origin.REAL

    @property
    def real_fraction(self) -> float:
        """Share of real mass, in [0, 1]; what a draw realizes up to one row (exactly, with ``real_share``)."""
        if self.real_share is not None:
            return self.real_share
        weights = self.raised().weights
        return float(weights[self.is_real].sum() / weights.sum())

    @property
    def masses(self) -> Tensor:
        """(N,) float64, how often a draw takes each row in expectation, up to a common factor."""
        weights = self.raised().weights
        if self.real_share is not None:  # the masses a draw gives the two parts, not those they came with
            parts = ((weights * self.is_real, self.real_share), (weights * ~self.is_real, 1 - self.real_share))
            weights = sum((share * part / part.sum() for part, share in parts if share > 0), torch.zeros_like(weights))
        return weights

    @property
    def effective_size(self) -> float:
        """Kish's effective number of rows, (sum w)^2 / sum w^2."""
        masses = self.masses
        return float(masses.sum() ** 2 / masses.square().sum())

    def over(self, keep: Tensor) -> Mixture:
        """Return the measure that counts each row of ``keep`` (N,) bool once, and nothing else."""
        return dataclasses.replace(self, weights=keep.double(), size=int(keep.sum()))

    def where(self, keep: Tensor) -> Mixture:
        """Drop the rows outside ``keep`` (N,) bool; the size stays, limited to the rows left."""
        weights = self.weights * keep
        left = (weights > 0).long() if self.guaranteed is None else torch.maximum((weights > 0).long(), self.guaranteed)
        return dataclasses.replace(self, weights=weights, size=min(self.size, int(left.sum())))

    def reweighted(self, factor: Tensor) -> Mixture:
        """Multiply the weights by ``factor`` (N,), finite and non-negative."""
        if not bool(torch.isfinite(factor).all() and (factor >= 0).all()):
            raise ValueError("factor must be finite and non-negative in every row of the pool")
        return dataclasses.replace(self, weights=self.weights * factor)

    def with_real(self, weights: Tensor) -> Mixture:
        """Replace the weights of the real rows by ``weights`` (N,), of which the synthetic rows' part is ignored."""
        return dataclasses.replace(self, weights=torch.where(self.is_real, weights.double(), self.weights))

    def with_real_fraction(self, alpha: float, *, coins: bool = False) -> Mixture:
        """Give real rows the share ``alpha`` in [0, 1], exact in every draw to the rounding of one row.

        With ``coins`` the share is a probability: each of the ``size`` rows is real or synthetic independently.
        """
        if not 0 <= alpha <= 1:
            raise ValueError(f"the real fraction must lie in [0, 1], got {alpha}")
        mass = self.weights if self.guaranteed is None else self.weights + self.guaranteed
        real = float(mass[self.is_real].sum())
        synthetic = float(mass.sum()) - real
        if (alpha > 0 and real == 0) or (alpha < 1 and synthetic == 0):
            missing = "real" if real == 0 else "synthetic"
            raise ValueError(f"a real fraction of {alpha} needs {missing} rows, and the mixture has none")
        return dataclasses.replace(self, real_share=alpha, coins=coins)

    def resized(self, size: int, *, replacement: bool = False) -> Mixture:
        """Draw ``size`` rows: without replacement as far as the rows go round, or independently."""
        if size < 1:
            raise ValueError(f"a mixture must draw at least one row, got size={size}")
        return dataclasses.replace(self, size=size, replacement=replacement)

    def arriving(self, arrival: Tensor) -> Mixture:
        """Let row i train from generation ``arrival[i]`` (N,) int64 on; ``NEVER`` holds it back for good."""
        return dataclasses.replace(self, arrival=arrival)

    def guaranteeing(self, copies: Tensor) -> Mixture:
        """Let row i be drawn at least ``copies[i]`` times (N,) int64, whatever is done to the mixture before or after.

        The guaranteed rows are among the ``size`` drawn, and among the real ones of a ``real_share``: they take places,
        and do not add any. Of two guarantees of a row the larger one holds.
        """
        if copies.shape != self.weights.shape or copies.is_floating_point() or not bool((copies >= 0).all()):
            raise ValueError("copies must be an integer of at least 0 for every row of the pool")
        if not bool(copies.any()):
            return self
        copies = copies.long() if self.guaranteed is None else torch.maximum(self.guaranteed, copies.long())
        return dataclasses.replace(self, guaranteed=copies)

    def raised(self) -> Mixture:
        """Work the guarantee into the weights: c_i = max(f_i, lambda w_i), the expected counts of a draw.

        A draw without replacement takes floor(c_i) copies of a row at least, so the weights alone keep the promise.

        Raises:
            ValueError: If more places are guaranteed than there are, among all or among the real rows.
        """
        if self.guaranteed is None:
            return self
        weights = self.weights.clone()
        for kind, keep, places in self._parts():
            weights[keep] = raised(weights[keep], self.guaranteed[keep], places, kind=kind)
        return dataclasses.replace(self, weights=weights, guaranteed=None)

    def _parts(self) -> list[tuple[str, Tensor, float]]:
        """The parts of the training set that have a size of their own: who may be in it, and its places."""
        if self.real_share is None:
            return [("", torch.ones_like(self.is_real), self.size)]
        real = self.real_share * self.size if self.coins else round(self.real_share * self.size)
        return [("real", self.is_real, real), ("synthetic", ~self.is_real, self.size - real)]

    def draw(self, generator: torch.Generator, replicates: int | None = None) -> Tensor:
        """Draw the training set.

        Without replacement, row i comes floor(c_i) or ceil(c_i) times for its expected count c_i = size * w_i / sum w:
        whole copies first, then systematic sampling of the fractions along a random order, which for equal weights is
        simple random sampling. A draw that leaves nothing to chance (every c_i whole) is the same for every replicate.

        Args:
            generator: CPU generator.
            replicates: R for independent draws per replicate of a replicated data set; None for one draw.

        Returns:
            (size,) row indices, int64, in no particular order; (size, R) when replicates are given and chance matters.

        Raises:
            ValueError: If there is no mass to draw from, or too few places for the rows that are guaranteed one.
        """
        if self.guaranteed is not None:
            return self._draw_guaranteed(self.guaranteed, generator, replicates)
        if self.size < 1 or not float(self.weights.sum()) > 0:
            raise ValueError("the mixture is empty: no row of the pool may be trained on; check the mitigations")
        if self.real_share is None:
            return self._pick(self.weights, self.size, generator, replicates)
        if self.coins:
            return self._toss(generator, replicates)
        quota = round(self.real_share * self.size)
        parts = []
        for kind, keep, rows in (("real", self.is_real, quota), ("synthetic", ~self.is_real, self.size - quota)):
            if rows > 0 and not bool((self.weights[keep] > 0).any()):
                raise ValueError(
                    f"a real fraction of {self.real_share} needs {kind} rows, and the mixture lost its own"
                )
            if rows > 0:
                parts.append(self._pick(self.weights * keep, rows, generator, replicates))
        return joined(parts)

    def _draw_guaranteed(self, copies: Tensor, generator: torch.Generator, replicates: int | None) -> Tensor:
        mixture = self.raised()
        if not (self.replacement or self.coins):
            return mixture.draw(generator, replicates)
        # Independent draws promise nothing: guaranteed rows are taken first, and chance adds what they lack to c.
        sure, chance = torch.repeat_interleave(copies), mixture.weights.clone()
        left, share = self.size - len(sure), None
        if left == 0:
            return sure
        for kind, keep, places in self._parts():
            chance[keep] = remainder(chance[keep], copies[keep], places)
            if kind == "real":
                share = round(places - int(copies[keep].sum()), 9) / left
        rest = dataclasses.replace(mixture, weights=chance, size=left, real_share=share)
        return joined([sure, rest.draw(generator, replicates)])

    def _toss(self, generator: torch.Generator, replicates: int | None) -> Tensor:
        if self.real_share in (0, 1):  # a coin with one side
            side = self.is_real if self.real_share else ~self.is_real
            return self._pick(self.weights * side, self.size, generator, replicates)
        real, synthetic = (
            self._pick(self.weights * keep, self.size, generator, None) for keep in (self.is_real, ~self.is_real)
        )
        shape = (self.size,) if replicates is None else (self.size, replicates)
        heads = torch.rand(shape, dtype=torch.float64, generator=generator) < (self.real_share or 0.0)
        columns = (..., None) if replicates else ...
        return torch.where(heads, real[columns], synthetic[columns])

    def _pick(self, weights: Tensor, rows: int, generator: torch.Generator, replicates: int | None) -> Tensor:
        place = weights.nonzero().squeeze(1)  # of a long chain's pool most rows have none
        weights = weights[place]
        if self.replacement:
            cumulative = weights.cumsum(0)
            shape = (rows,) if replicates is None else (rows, replicates)
            uniform = torch.rand(shape, dtype=torch.float64, generator=generator) * cumulative[-1]
            return place[torch.searchsorted(cumulative, uniform, right=True).clamp_(max=len(weights) - 1)]
        expected = rows * weights / weights.sum()
        copies = (expected + 1e-9).floor()
        whole = torch.repeat_interleave(place, copies.long())
        left = rows - len(whole)
        if left == 0:
            return whole
        fraction = (expected - copies).clamp_(min=0)
        candidates = fraction.nonzero().squeeze(1)
        chosen = systematic(fraction[candidates], left, generator, replicates)  # (left,) or (left, R)
        chance = place[candidates][chosen]
        return torch.cat([whole if replicates is None else whole[:, None].expand(-1, replicates), chance])
