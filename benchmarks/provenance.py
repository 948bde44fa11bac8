"""What provenance and hashing cost, and how fast a run is verified."""

from __future__ import annotations

import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import collapse.data.folder
import collapse.data.intake
import collapse.data.journal
import collapse.data.store
import collapse.recursion.composition
import collapse.recursion.harvest
import collapse.recursion.identity
from collapse import VAE, Digits, GenerationStore, Origin, Samples, run_chain
from collapse.data.files import array_digest
from collapse.data.rows import provenance, row_digests
from collapse.recursion.verification import faults

GENERATIONS, EPOCHS, ROWS = 4, 40, 1000
POOL_BYTES = 1 << 29

WATCHED = [
    (collapse.data.store, "row_digests"),
    (collapse.data.store, "array_digest"),
    (collapse.data.store, "file_digest"),
    (collapse.data.intake, "array_digest"),
    (collapse.data.intake, "row_digests"),
    (collapse.data.folder.RunFolder, "write_training_set"),
    (collapse.data.journal.Journal, "announce"),
    (collapse.data.store.GenerationStore, "seal"),
    (collapse.recursion.harvest, "provenance"),
    (collapse.recursion.harvest, "state_digest"),
    (collapse.recursion.composition, "training_facts"),
    (collapse.recursion.identity, "refuse_changed"),
]
"""Everything that is there for the sake of provenance or of integrity, writing the files it needs included."""


class Stopwatch:
    """Seconds spent inside functions, the outermost one's when one calls another, over all threads."""

    def __init__(self) -> None:
        self.seconds, self.inside = 0.0, threading.local()

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return ``function``, timed."""

        def timed(*arguments: Any, **options: Any) -> Any:
            if getattr(self.inside, "yes", False):
                return function(*arguments, **options)
            self.inside.yes, begun = True, time.perf_counter()
            try:
                return function(*arguments, **options)
            finally:
                self.seconds += time.perf_counter() - begun
                self.inside.yes = False

        return timed


def share_of_a_generation() -> tuple[float, float]:
    """Return the share of a digits chain's time that goes into provenance, and the seconds of a generation."""
    watch, before = Stopwatch(), [getattr(owner, name) for owner, name in WATCHED]
    for (owner, name), function in zip(WATCHED, before, strict=True):
        setattr(owner, name, watch.around(function))
    try:
        with tempfile.TemporaryDirectory() as folder:
            begun = time.perf_counter()
            run_chain(
                VAE(),
                Digits(),
                generations=GENERATIONS,
                samples_per_generation=ROWS,
                epochs_per_generation=EPOCHS,
                store=Path(folder) / "run",
                evaluate=False,
            )
            seconds = time.perf_counter() - begun
    finally:
        for (owner, name), function in zip(WATCHED, before, strict=True):
            setattr(owner, name, function)
    return watch.seconds / seconds, seconds / GENERATIONS


def of_a_thousand_rows(shape: tuple[int, ...], repeats: int = 200) -> float:
    """Return the median seconds of the records, the row digests and the file digests of 1000 rows."""
    x = np.random.default_rng(0).integers(0, 255, (1000, *shape), dtype=np.uint8)
    taken = []
    for _ in range(repeats):
        begun = time.perf_counter()
        records = provenance(len(x), origin=Origin.SYNTHETIC, generation=1, candidate=0)
        records["digest"] = row_digests(x)
        array_digest(x)
        array_digest(records)
        taken.append(time.perf_counter() - begun)
    return statistics.median(taken)


def bytes_per_second(repeats: int = 3) -> float:
    """Return the median speed at which a pool of images that is in the page cache is verified."""
    rows = POOL_BYTES // (3 * 32 * 32)
    with tempfile.TemporaryDirectory() as folder:
        x = np.random.default_rng(0).integers(0, 255, (rows, 3, 32, 32), dtype=np.uint8)
        GenerationStore(Path(folder) / "run", durable=False).write_gold(Samples(x), facts={})
        taken = []
        for _ in range(repeats):
            begun = time.perf_counter()
            found = list(faults(GenerationStore(Path(folder) / "run")))
            taken.append(time.perf_counter() - begun)
            if found:
                raise RuntimeError(found[0])
    return x.nbytes / statistics.median(taken)


def main(repeats: int = 5) -> list[tuple[str, str, str]]:
    """Return (what, measured, wanted) rows."""
    torch.set_num_threads(1)
    shares = [share_of_a_generation() for _ in range(repeats)]
    share, seconds = (statistics.median(column) for column in zip(*shares, strict=True))
    small, large = of_a_thousand_rows((1, 8, 8)), of_a_thousand_rows((1, 28, 28))
    return [
        (
            "provenance and hashing of a digits VAE generation",
            f"{share:.2%} of {seconds:.2f} s, the journal's fsync included",
            "< 3 %",
        ),
        ("provenance and hashing of 1,000 digits", f"{small * 1e3:.2f} ms ({large * 1e3:.2f} ms at 28x28)", "< 1 ms"),
        ("verification on one core", f"{bytes_per_second() / 1e6:.0f} MB/s", ">= 400 MB/s"),
    ]
