"""One line of progress for the whole chain."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytorch_lightning as pl
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from collapse.data.generation import Generation, GenerationCallback

__all__ = ["ChainProgress"]

SHOWN = ("train/loss", "heldout_cross_entropy", "fd_classifier", "fd_identity", "coverage", "variance_ratio")


class ChainProgress(GenerationCallback):
    """Show the chain's progress: one live line on a terminal, one plain line per generation in a log file.

    Put it last in the list of callbacks, so that it sees what the others measured.

    Args:
        metrics: Names to show, where they were measured.
        console: Where to write; standard error by default.
    """

    def __init__(self, metrics: Sequence[str] = SHOWN, console: Console | None = None) -> None:
        self.metrics = tuple(metrics)
        self.console = console or Console(stderr=True)
        self._progress: Progress | None = None
        self._trainer: pl.Trainer | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Go to a spawned process without the console, which holds locks; ``__setstate__`` opens one there."""
        return {**self.__dict__, "console": None, "_progress": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update({**state, "console": Console(stderr=True)})

    @property
    def begun(self) -> bool:
        """Whether the chain has taken a step, in this process or before a resume."""
        return self._trainer is not None and self._trainer.global_step > 0

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Remember whose progress it is."""
        self._trainer = trainer

    def on_generation_start(self, trainer: pl.Trainer, module: Any, generation: Generation) -> None:
        """Draw the line, if somebody is watching."""
        if trainer.is_global_zero and self.console.is_terminal:
            self._line(generation)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Move the bar by an epoch."""
        if self._progress is not None:
            self._progress.update(
                self._progress.task_ids[0], completed=trainer.current_epoch + 1, total=trainer.max_epochs
            )

    def on_generation_end(self, trainer: pl.Trainer, module: Any, generation: Generation) -> None:
        """Show what the generation measured."""
        if not trainer.is_global_zero:
            return
        parts = [f"{name} {generation.measured[name]:.4g}" for name in self.metrics if name in generation.measured]
        text = "  ".join([f"generation {generation.index + 1}/{generation.total}", *parts])
        if self.console.is_terminal:
            self._line(generation)
            if self._progress is not None:
                self._progress.update(self._progress.task_ids[0], description=text)
        else:
            self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Leave the line as it is."""
        self._stop()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Give the terminal back before an error is printed."""
        self._stop()

    def _line(self, generation: Generation) -> None:
        if self._progress is None:
            columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
            self._progress = Progress(*columns, console=self.console)
            self._progress.add_task(f"generation {generation.index + 1}/{generation.total}", total=generation.total)
            self._progress.start()

    def _stop(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None
