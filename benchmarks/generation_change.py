"""What a generation change costs beside sampling and fsync."""

from __future__ import annotations

import statistics
import tempfile
import time
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from collapse import VAE, Digits, GenerationStore, RecursiveTrainer

GENERATIONS = 11


class InstantVAE(VAE):
    """A VAE whose samples cost nothing, so that what is left is the change itself."""

    def sample(self, n: int, generator: torch.Generator, y: Tensor | None = None) -> Tensor:
        """Return gray images."""
        return torch.full((n, 1, 8, 8), 0.5)


class Stopwatch(pl.Callback):
    """Seconds from the end of a generation's last step to the start of the next one's first."""

    def __init__(self) -> None:
        self.ended, self.changes = 0.0, list[float]()

    def on_train_batch_start(self, trainer: pl.Trainer, module: Any, batch: Any, batch_idx: int) -> None:
        """Stop."""
        if batch_idx == 0 and self.ended:
            self.changes.append(time.perf_counter() - self.ended)

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, *unused: Any) -> None:
        """Start."""
        self.ended = time.perf_counter()


def seconds(generations: int, epochs: int) -> float:
    """Return the median seconds of a boundary between epochs of one batch."""
    watch = Stopwatch()
    with tempfile.TemporaryDirectory() as folder:
        recursion = RecursiveTrainer(
            generations,
            samples_per_generation=1347,
            epochs_per_generation=epochs,
            store=GenerationStore(folder, durable=False),
            chunk_size=2048,
        )
        trainer = pl.Trainer(
            **recursion.trainer_kwargs(),
            callbacks=[recursion, watch],
            logger=False,
            accelerator="cpu",
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
        )
        trainer.fit(InstantVAE(latent_dim=8), datamodule=Digits(batch_size=None))
    return statistics.median(watch.changes)


def main(repeats: int = 5) -> list[tuple[str, str, str]]:
    """Return (what, measured, wanted) rows."""
    torch.set_num_threads(1)
    changes = [seconds(GENERATIONS, 1) for _ in range(repeats)]
    epochs = [seconds(1, GENERATIONS) for _ in range(repeats)]
    change, epoch = statistics.median(changes), statistics.median(epochs)
    shown = f"{(change - epoch) * 1e3:.1f} ms, on top of the {epoch * 1e3:.1f} ms of any epoch boundary"
    return [("generation change without sampling and fsync", shown, "< 10 ms")]
