"""Watch what every generation deposits: could these rows be real?"""

from __future__ import annotations

import dataclasses
import warnings
from typing import Any

import pytorch_lightning as pl
import torch

from collapse.data.generation import Generation, GenerationCallback
from collapse.data.strata import holds_tokens
from collapse.metrics.features import FeatureExtractor
from collapse.metrics.incoming import IncomingReport, check_incoming
from collapse.mitigations.gate import gold_rows
from collapse.seeding import Stream

__all__ = ["IncomingCheck", "IncomingWarning"]


class IncomingWarning(UserWarning):
    """What a generation deposited for the next cannot pass for real."""


class IncomingCheck(GenerationCallback):
    """Test every deposit against gold, record the statistics, and warn when it cannot pass for real.

    Recorded as ``check/<statistic>``, each with its expectation between real rows as the floor, and ``check/p_value``
    of all of them together. See :func:`~collapse.metrics.incoming.check_incoming`. ``PoolGate`` is the same test as a
    refusal, before the rows are committed.

    Data with replicates are passed over, as every replicate is an experiment of its own; so are fewer than 3 rows, and
    tokens, which have no distances, without an extractor.

    Args:
        false_alarm: Probability of a warning in a generation whose rows are real, in (0, 0.5].
        extractor: Feature space; the rows' own when None.
        max_rows: Most rows of each set, at least 3.
    """

    def __init__(
        self, false_alarm: float = 0.01, extractor: FeatureExtractor | None = None, max_rows: int = 1000
    ) -> None:
        if not 0 < false_alarm <= 0.5:
            raise ValueError(f"false_alarm must lie in (0, 0.5], got {false_alarm}")
        if max_rows < 3:
            raise ValueError(f"max_rows must be at least 3, got {max_rows}")
        self.false_alarm, self.extractor, self.max_rows = false_alarm, extractor, max_rows

    def on_generation_end(self, trainer: pl.Trainer, module: Any, generation: Generation) -> None:
        """Check on the first process; the others wait at the end of the generation."""
        replicates = getattr(getattr(trainer, "datamodule", None), "replicates", None)
        if not trainer.is_global_zero or replicates is not None:
            return
        report = self._check(generation)
        if report is None:
            return
        extractor = None if self.extractor is None else self.extractor.id
        for found in report.findings:
            generation.record(
                f"check/{found.statistic}", found.value, n=report.rows, extractor=extractor, floor=found.expected
            )
        generation.record("check/p_value", report.p_value, n=report.rows, extractor=extractor)
        if report.alarms:
            warnings.warn(f"generation {generation.index} deposited {report}", IncomingWarning, stacklevel=2)

    def _check(self, generation: Generation) -> IncomingReport | None:
        gold, deposit = gold_rows(generation, self.max_rows), generation.deposit
        if deposit is None or min(len(gold), len(deposit)) < 3 or (self.extractor is None and holds_tokens(deposit)):
            return None
        draws = generation.generator(Stream.CHECK, 1)
        drawn = torch.randperm(len(deposit), generator=draws)[: self.max_rows]
        rows = deposit.gather(drawn.sort().values).x
        if self.extractor is not None:
            gold, rows = self.extractor(gold), self.extractor(rows)
        report = check_incoming(
            gold, rows, generator=draws, false_alarm=self.false_alarm, max_rows=max(len(gold), len(rows))
        )
        return dataclasses.replace(report, total=len(deposit))
