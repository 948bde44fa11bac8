"""Sampling goes to the disk in chunks: what a chain holds in memory does not grow with what it samples."""

from __future__ import annotations

import subprocess
import sys

import pytest

CHILD = """
import logging, re, sys
from pathlib import Path
import numpy as np, torch
from collapse import VAE, GenerationStore, RecursiveDataModule, Samples, run_chain
from collapse.data.generation import GenerationCallback

logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
torch.set_num_threads(1)
folder, generations, rows = Path(sys.argv[1]), *map(int, sys.argv[2:])

class Images(RecursiveDataModule):
    classes = 4
    def gold(self):
        x = np.random.default_rng(0).integers(0, 256, (256, 1, 28, 28), np.uint8)
        return Samples(x, np.arange(256) % 4)
    def reference(self): return self.gold()

def resident():  # without the mapped pages of files, of which the system takes back what it needs
    return int(re.search(r"RssAnon:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) >> 10

sizes, calls = [], []

class Watched(VAE):
    def sample(self, n, generator, y=None):
        x = super().sample(n, generator, y)
        sizes.append(resident())
        return x

class Count(GenerationCallback):
    def on_generation_end(self, trainer, module, generation): calls.append(len(sizes))

model = Watched((1, 28, 28), 2, hidden=8, harvest="mean", classes=4)
chain = run_chain(model, Images(batch_size=64), generations=generations, samples_per_generation=rows, chunk_size=1000,
                  steps_per_generation=2, store=folder, evaluate=False, callbacks=[Count()])
most = [max(sizes[begin:end]) for begin, end in zip([0, *calls], calls)]
print(most[0] - sizes[4], max(most[3:], default=0) - max(most[:3]), len(sizes), int((chain.pool().labels >= 0).sum()))
"""


def grown(folder, generations, rows):
    """MiB by which memory grew within the first harvest, and from the first three harvests to the largest after."""
    command = [sys.executable, "-c", CHILD, str(folder / "run"), str(generations), str(rows)]
    child = subprocess.run(command, capture_output=True, text=True, timeout=280)
    assert child.returncode == 0, child.stderr
    within, across, calls, labeled = (int(word) for word in child.stdout.split())
    assert (calls, labeled) == (generations * rows // 1000, 256 + generations * rows)
    return within, across


@pytest.mark.slow
def test_sixty_thousand_images_are_sampled_in_a_few_chunks_of_memory(tmp_path):
    within, _ = grown(tmp_path, 1, 60_000)
    assert within < 25, f"memory grew by {within} MiB, and the pool has 45"


@pytest.mark.slow
def test_memory_does_not_grow_with_generations(tmp_path):
    _, across = grown(tmp_path, 8, 20_000)
    assert across < 30, f"memory grew by {across} MiB while five pools of 15 were sampled"
