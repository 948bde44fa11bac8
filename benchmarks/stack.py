"""A small VAE through Lightning and RecursiveTrainer, against a bare PyTorch loop on the same batches."""

from __future__ import annotations

import logging
import statistics
import tempfile
import time
import warnings
from itertools import pairwise
from typing import Any

import pytorch_lightning as pl
import torch

from benchmarks.timing import Comparison, alternate
from collapse import VAE, Digits, EpochCheckpoint, run_chain
from collapse.data.loading import GenerationLoader, TrainingSet
from collapse.recursion.lightning import NoProfiler

STEPS, WARMUP = 500, 50

logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
warnings.filterwarnings("ignore")


class Stopwatch(pl.Callback):
    """Looks at the clock at the end of every step."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Look at the clock."""
        self.times.append(time.perf_counter())


def per_step(times: list[float]) -> float:
    """Return the median seconds between steps after the warm-up: a neighbor's burst of work does not count."""
    return statistics.median(after - before for before, after in pairwise(times[WARMUP:]))


def model(hidden: int = 256) -> VAE:
    """Return the benchmark's model, 64-256-8; with few hidden units, one whose step is all overhead."""
    return VAE(latent_dim=8, hidden=hidden)


class Plain:
    """Serves gold in the recursion's own order, without a recursion."""

    def __init__(self, data: Digits) -> None:
        base = data.training_set()  # gold: nobody else serves it yet
        self.training_set = TrainingSet(base.pool, base.rows, steps=STEPS)

    def upcoming(self) -> TrainingSet:
        """Return gold."""
        return self.training_set


def recursive(hidden: int = 256) -> float:
    """Return seconds per step of a chain at the settings of ``run_chain``."""
    watch = Stopwatch()
    with tempfile.TemporaryDirectory() as folder:
        run_chain(
            model(hidden),
            Digits(batch_size=128),
            generations=1,
            samples_per_generation=1,
            steps_per_generation=STEPS,
            store=folder,
            evaluate=False,
            callbacks=[watch],
            accelerator="cpu",
        )
    return per_step(watch.times)


def plain(hidden: int = 256) -> float:
    """Return seconds per step through Lightning alone, at the same settings."""
    watch, data = Stopwatch(), Digits(batch_size=128)
    data.source = Plain(data)
    with tempfile.TemporaryDirectory() as folder:
        pl.Trainer(
            max_epochs=1,
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=folder,
            profiler=NoProfiler(),
            accelerator="cpu",
            callbacks=[EpochCheckpoint(folder), watch],
        ).fit(model(hidden), datamodule=data)
    return per_step(watch.times)


def bare() -> float:
    """Return seconds per step of a plain loop over the same batches."""
    module = model()
    optimizer = module.configure_optimizers()
    loader = GenerationLoader(Plain(Digits(batch_size=128)).training_set, 128)
    times = []
    for batch in loader:
        optimizer.zero_grad()
        module.loss(batch).mean().backward()
        optimizer.step()
        times.append(time.perf_counter())
    return per_step(times)


def main(repeats: int = 7) -> list[tuple[str, str, str]]:
    """Return (what, measured, wanted) rows."""
    torch.set_num_threads(1)
    own: Comparison = alternate(lambda: recursive(8), lambda: plain(8), 2 * repeats)
    whole: Comparison = alternate(recursive, bare, repeats)
    return [
        ("RecursiveTrainer's own cost per step", f"{own.difference * 1e6:+.0f} µs ({own.ratio:.3f}x)", "< 50 µs"),
        (
            "whole stack / bare loop, VAE 64-256-8, batch 128",
            f"{whole.ratio:.2f}x ({whole.ours * 1e6:.0f} / {whole.other * 1e6:.0f} µs)",
            "< 1.25x",
        ),
    ]
