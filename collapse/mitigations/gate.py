"""Gates: what a model sampled is compared with gold before it becomes a pool, and dropped or refused."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from collapse.data.generation import Generation
from collapse.data.rows import Samples
from collapse.data.strata import holds_tokens
from collapse.metrics.conformal import conformal_outliers
from collapse.metrics.incoming import IncomingReport, check_incoming, comparable_rows
from collapse.mitigations.mitigation import Mitigation
from collapse.seeding import Stream

__all__ = ["Gate", "OutlierFilter", "PoolGate", "PoolRefusedError", "gold_rows"]


def gold_rows(generation: Generation, most: int) -> Tensor:
    """Return gold's rows as a model sees them, (N, *S); where there are more than ``most``, a draw of them."""
    gold = _places(generation)
    drawn = torch.randperm(len(gold), generator=generation.generator(Stream.CHECK, 0))[:most]
    return generation.pool.gather(gold[drawn.sort().values]).x


def _places(generation: Generation) -> Tensor:
    """Return where gold stands in the pool, (N,) int64."""
    return (generation.pool.is_real & (generation.pool.generation == 0)).nonzero()[:, 0]


class Gate(Mitigation):
    """A curator that judges rows by their distances from gold."""

    def check(self, generation: Generation, replicates: int | None = None) -> None:
        """Refuse a chain whose rows cannot be judged, before anything is trained.

        Args:
            generation: Generation 0.
            replicates: Of the data.

        Raises:
            ValueError: If a row is not one experiment's, or has no distance from another.
        """
        if replicates is not None:
            raise ValueError(
                f"{self!r} judges rows, and each row of these data is {replicates} independent experiments; use data "
                "without replicates, or leave it out"
            )
        if holds_tokens(pool := generation.pool):
            raise ValueError(f"{self!r} needs rows with a distance, and gold's are {pool.dtype} tokens; leave it out")

    def on_generation_start(self, trainer: pl.Trainer, module: Any, generation: Generation) -> None:
        """Check before the first step."""
        if generation.index == 0:
            self.check(generation, getattr(getattr(trainer, "datamodule", None), "replicates", None))


class OutlierFilter(Gate):
    """Drop sampled rows that lie farther from gold than real rows do: those with a conformal p-value up to ``rate``.

    A real row would be dropped with probability ``rate``, so a model as good as gold loses that share of its samples;
    the pool has fewer rows then. The p-value of every candidate, kept or not, is its score on record. Filtering removes
    what gold has not, and brings nothing back that the model has lost.

    Args:
        rate: Share of real rows that would be dropped, in [0, 1), and at least 1 / (N + 1) for the N gold rows that are
            compared with. Zero changes nothing.
        neighbors: A row is as far out as its k-th nearest gold row is away, k at least 1, fewer than gold has rows.
        max_gold: Most gold rows to compare with, more than ``neighbors``.

    References:
        Bates et al., "Testing for outliers with conformal p-values", Annals of Statistics 51, 2023, arXiv:2104.08279;
        Ramaswamy et al., "Efficient algorithms for mining outliers from large data sets", SIGMOD 2000.
    """

    citation = "Bates et al. (2023), arXiv:2104.08279"

    def __init__(self, rate: float = 0.01, neighbors: int = 5, max_gold: int = 2000) -> None:
        if not 0 <= rate < 1:
            raise ValueError(f"rate must lie in [0, 1), got {rate}")
        if neighbors < 1:
            raise ValueError(f"neighbors must be at least 1, got {neighbors}")
        if max_gold <= neighbors:
            raise ValueError(f"max_gold must be more than neighbors, got {max_gold} and {neighbors}")
        if 0 < rate < 1 / (max_gold + 1):
            raise ValueError(f"rate must be 0 or at least 1 / (max_gold + 1), got {rate} and {max_gold}")
        self.rate, self.neighbors, self.max_gold = rate, neighbors, max_gold

    def check(self, generation: Generation, replicates: int | None = None) -> None:
        """As of any gate; and there must be gold rows enough to drop something at this rate."""
        super().check(generation, replicates)
        rows = min(self.max_gold, len(_places(generation)))
        if rows <= self.neighbors:
            raise ValueError(f"{self!r} needs more gold rows than neighbors, and gold has {rows}; lower neighbors")
        if 0 < self.rate < 1 / (rows + 1):
            raise ValueError(
                f"{self!r} can drop nothing beside {rows} gold rows: no p-value is below 1/{rows + 1}; raise rate, or "
                "max_gold where gold has more rows"
            )

    def curate(self, samples: Samples, generation: Generation) -> Samples:
        """Keep the rows that a real row's distance would not tell from gold."""
        if self.rate == 0:
            return samples
        gold = gold_rows(generation, self.max_gold)
        p_values = conformal_outliers(gold, samples.tensors()[0], self.neighbors).p_value
        return samples.select(p_values > self.rate, p_values)


class PoolRefusedError(RuntimeError):
    """A ``PoolGate`` does not let what a model sampled become a pool.

    Attributes:
        generation: The generation the rows were sampled for.
        report: What was found.
    """

    def __init__(self, message: str, generation: int, report: IncomingReport) -> None:
        super().__init__(message)
        self.generation, self.report = generation, report


class PoolGate(Gate):
    """Refuse what a model sampled, all of it, and stop the chain when the rows cannot pass for real.

    See :func:`~collapse.metrics.incoming.check_incoming` for what is compared. A gate that finds nothing changes
    nothing. Behind an ``OutlierFilter`` in the list it judges what that has kept.

    Args:
        false_alarm: Probability that it refuses real rows, for each generation, in [0, 0.5]. Zero refuses nothing.
        max_rows: Most rows of gold and of the candidates that are compared, at least 3.

    References:
        Hemerik, Goeman, "Exact testing with random permutations", TEST 27, 2018, arXiv:1411.7565.
    """

    control = True  # it owes no effect
    citation = "Hemerik, Goeman (2018), arXiv:1411.7565"

    def __init__(self, false_alarm: float = 0.01, max_rows: int = 1000) -> None:
        if not 0 <= false_alarm <= 0.5:
            raise ValueError(f"false_alarm must lie in [0, 0.5], got {false_alarm}")
        if max_rows < 3:
            raise ValueError(f"max_rows must be at least 3, got {max_rows}")
        self.false_alarm, self.max_rows = false_alarm, max_rows

    def check(self, generation: Generation, replicates: int | None = None) -> None:
        """As of any gate; and there must be rows enough on both sides, and gold that varies."""
        super().check(generation, replicates)
        gold = gold_rows(generation, self.max_rows)
        stand_in = gold[:1].expand(min(generation.samples_per_generation, self.max_rows), *gold.shape[1:])
        try:
            comparable_rows(gold, stand_in, self.max_rows)
        except ValueError as error:
            raise ValueError(f"{self!r} cannot compare samples with gold: {error}") from None

    def curate(self, samples: Samples, generation: Generation) -> Samples:
        """Return the rows as they are, or raise before anything is committed.

        Raises:
            PoolRefusedError: Naming the generation, and each statistic with its value and bounds.
        """
        if self.false_alarm == 0:
            return samples
        report = check_incoming(
            gold_rows(generation, self.max_rows),
            samples.tensors()[0],
            generator=generation.generator(Stream.CHECK, 1),
            false_alarm=self.false_alarm,
            max_rows=self.max_rows,
        )
        if report.alarms:
            raise PoolRefusedError(
                f"{self!r} refuses the pool of generation {generation.index + 1}: {report}. The generations before are "
                "as they were; train longer or on more real rows, or lower false_alarm, in a new run folder",
                generation.index + 1,
                report,
            )
        return samples
