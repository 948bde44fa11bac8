"""Stopping a chain when the cluster asks for it, so that the requeued job goes on as if nothing had happened."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Checkpoint

from collapse.recursion.lightning import keep_off_signals
from collapse.stopping import StoppedForRequeue, StopRequest

__all__ = ["StopForRequeue"]


class StopForRequeue(Checkpoint):
    """On SIGUSR1 or SIGTERM, save at the end of a step, or at the end of the epoch, and raise StoppedForRequeue.

    The signal's handler sets a flag; what is under way is finished first. After an epoch's last batch that is the
    harvest, the measurements and the epoch's own checkpoint. Several processes stop at the same step, whichever of them
    got the signal: every few seconds they ask each other, and between two such questions nothing is exchanged.

    Args:
        root: The run folder.
        seconds: Time between two questions, above 0. It is kept approximately, by counting steps of the slowest
            process; where one step takes longer, they ask after every step.

    Raises:
        ValueError: If ``seconds`` is not above 0.
    """

    def __init__(self, root: str | Path, *, seconds: float = 5.0) -> None:
        if not seconds > 0:
            raise ValueError(f"seconds={seconds} must be above 0")
        self.root, self.seconds = Path(root), seconds
        self._start_over()

    def _start_over(self) -> None:
        self._request = StopRequest()
        self._interval, self._steps, self._asked = 1, 0, time.monotonic()

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Handle the signals, in Lightning's place."""
        if stage == "fit":
            self._start_over()
            keep_off_signals(trainer)
            self._request.install()

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop between two epochs; all there is to keep is in the checkpoint that the last one ended with."""
        if self._agreed(trainer):
            raise self._stopped(trainer)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save and stop after a step."""
        if not _resumable(trainer, batch_idx):
            return
        self._steps += 1
        if (self._steps >= self._interval or trainer.world_size == 1) and self._agreed(trainer):
            self._save(trainer)
            raise self._stopped(trainer)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Give the signals back."""
        self._request.restore(heeded=True)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Give the signals back, and with them one that came too late to stop anything."""
        self._request.restore(heeded=False)

    def _agreed(self, trainer: pl.Trainer) -> bool:
        """Whether any process was asked to stop: the same answer, at the same step, on all of them."""
        asked = self._request.received is not None
        if trainer.world_size == 1:
            return asked
        elapsed = time.monotonic() - self._asked
        told = torch.tensor([float(asked), elapsed], device=trainer.strategy.root_device)
        anyone, slowest = trainer.strategy.reduce(told, reduce_op="max").tolist()
        # From numbers that all processes share, or they would ask at different steps. At most twice as far ahead as was
        # measured: the first steps of a run are not like those to come.
        ahead = self._steps * self.seconds / max(slowest, 1e-9)
        self._interval = max(1, int(min(2 * self._interval, ahead)))
        self._steps, self._asked = 0, time.monotonic()
        return bool(anyone)

    def _save(self, trainer: pl.Trainer) -> None:
        """Write a checkpoint like those of StepCheckpoint, then remove what it supersedes."""
        folder = self.root / "checkpoints"
        newest = folder / f"step-{trainer.global_step:09d}.ckpt"
        trainer.save_checkpoint(newest)
        if trainer.is_global_zero:
            for path in [*folder.glob("epoch-*.ckpt"), *folder.glob("step-*.ckpt")]:
                if path != newest:
                    trainer.strategy.remove_checkpoint(path)

    def _stopped(self, trainer: pl.Trainer) -> StoppedForRequeue:
        return StoppedForRequeue(
            f"stopped after step {trainer.global_step}, as a signal asked; `collapse resume {self.root}`, or the same "
            "command again, goes on from there"
        )


def _resumable(trainer: pl.Trainer, batch_idx: int) -> bool:
    """Whether Lightning continues a checkpoint of this batch exactly.

    Not on an epoch's last batch: it resumes such a file past the end of the epoch, where the harvest is. Not between
    optimizer steps: accumulated gradients are in no checkpoint. Not before a validation, which would be left out.
    """
    taken = batch_idx + 1
    if trainer.is_last_batch or taken % trainer.accumulate_grad_batches:
        return False
    validation = trainer.val_check_batch if trainer.enable_validation else None
    return not validation or taken % validation != 0
