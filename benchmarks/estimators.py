"""What the machinery costs an estimator: a generation against bare NumPy, and a published sweep as one command."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
import warnings

import numpy as np
import torch

from collapse import Gaussian, GaussianData, run_chain

REPLICATES, ROWS = 20_000, 100
SHORT, LONG = 10, 40


def bare(generations: int) -> float:
    """Return the seconds of a Gaussian chain in NumPy."""
    rng = np.random.default_rng(0)
    mean, std = np.zeros(REPLICATES), np.ones(REPLICATES)
    start = time.perf_counter()
    for _ in range(generations):
        x = rng.standard_normal((ROWS, REPLICATES)) * std + mean
        mean, std = x.mean(0), x.std(0, ddof=1)
    return time.perf_counter() - start


def ours(generations: int) -> float:
    """Return the seconds of the same chain through ``run_chain``: provenance, hashes, manifests, ledger and all."""
    data = GaussianData(ROWS, replicates=REPLICATES, reference_rows=1)
    data.gold()
    start = time.perf_counter()
    run_chain(
        Gaussian(replicates=REPLICATES),
        data,
        generations=generations,
        samples_per_generation=ROWS,
        chunk_size=ROWS // 2,  # while one chunk is hashed, the next is drawn
        evaluate=False,
    )
    return time.perf_counter() - start


def sweep() -> float:
    """Return the seconds of `collapse theory kazdan2025_gaussian`, interpreter and imports included."""
    start = time.perf_counter()
    command = [sys.executable, "-m", "collapse", "theory", "kazdan2025_gaussian"]
    subprocess.run(command, check=False, capture_output=True)
    return time.perf_counter() - start


def main(repeats: int = 9) -> list[tuple[str, str, str]]:
    """Return (what, measured, wanted) rows."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)  # the other core hashes
    ours(2)
    ratios, generation = [], []
    for _ in range(repeats):  # A/B/A/B: the machine drifts
        numpy = (bare(LONG) - bare(SHORT)) / (LONG - SHORT)
        chain = (ours(LONG) - ours(SHORT)) / (LONG - SHORT)
        ratios.append(chain / numpy)
        generation.append(chain)
    shown = f"{statistics.median(ratios):.2f}x ({min(ratios):.2f} to {max(ratios):.2f})"
    shown += f", {statistics.median(generation) * 1e3:.0f} ms a generation"
    seconds = [sweep() for _ in range(3)]
    published = f"{statistics.median(seconds):.1f} s ({min(seconds):.1f} to {max(seconds):.1f})"
    return [
        ("generation of 20,000 Gaussians, n = 100 / bare NumPy", shown, "<= 1.5x"),
        ("collapse theory kazdan2025_gaussian, 15 x 100 chains", published, "< 20 s"),
    ]
