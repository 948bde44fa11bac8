"""A batch by index from the memory-mapped pool, against one row at a time."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable

import numpy as np
import torch

from benchmarks.timing import alternate
from collapse import GenerationStore, Samples
from collapse.data.pool import DataPool

ROWS, BATCH, BATCHES = 20_000, 128, 200


def by_index(pool: DataPool, rows: torch.Tensor) -> None:
    """Read one batch in one call."""
    pool.gather(rows)


def row_by_row(pool: DataPool, rows: torch.Tensor) -> None:
    """Read one batch as a Dataset of single rows would."""
    torch.cat([pool.gather(rows[index : index + 1]).x for index in range(len(rows))])


def main(repeats: int = 7) -> list[tuple[str, str, str]]:
    """Return (what, measured, wanted) rows."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        store = GenerationStore(folder, durable=False)
        images = np.random.default_rng(0).integers(0, 256, (ROWS, 1, 28, 28), dtype=np.uint8)
        pool = store.pool([store.write_gold(Samples(images), facts={})])
        order = torch.randperm(ROWS, generator=torch.Generator().manual_seed(0))

        def timed(read: Callable[[DataPool, torch.Tensor], None]) -> float:
            start = time.perf_counter()
            for index in range(BATCHES):
                read(pool, order[(index * BATCH) % (ROWS - BATCH) :][:BATCH])
            return (time.perf_counter() - start) / BATCHES

        result = alternate(lambda: timed(by_index), lambda: timed(row_by_row), repeats)
    shown = f"{result.ratio:.3f}x ({result.ours * 1e6:.0f} / {result.other * 1e6:.0f} µs for {BATCH} rows of 784 bytes)"
    return [("batch by index / row by row", shown, "< 0.2x")]
