"""A pool larger than the memory it may take."""

from __future__ import annotations

import subprocess
import sys

import pytest

CHILD = """
import logging, sys, threading, time
from pathlib import Path
import numpy as np, torch
from collapse import GenerativeModule, RecursiveDataModule, Samples, run_chain
from collapse.data.files import MappedArray

logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
folder, rows, width = Path(sys.argv[1]), 650_000, (3, 32, 32)

class Big(RecursiveDataModule):
    def gold(self): return Samples(MappedArray(folder / "gold.npy"))
    def reference(self): return Samples(np.zeros((2, *width), np.uint8))

class Mean(GenerativeModule):
    def __init__(self):
        super().__init__()
        self.mean = torch.nn.Parameter(torch.zeros(width))
    def loss(self, batch): return (batch.x - self.mean).square().mean((1, 2, 3))
    def sample(self, n, generator, y=None): return self.mean.detach().expand(n, *width)

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

start, peak = resident(), 0
def watch():
    global peak
    while True:
        peak = max(peak, resident())
        time.sleep(0.005)
threading.Thread(target=watch, daemon=True).start()
chain = run_chain(Mean(), Big(batch_size=512), generations=1, samples_per_generation=64, store=folder / "run",
                  evaluate=False)
print((peak - start) >> 20, chain.records[0].counts["steps"], chain.records[0].counts["real"])
"""


@pytest.mark.slow
def test_two_gigabytes_train_in_less_than_one(tmp_path):
    import numpy as np

    shape = (650_000, 3, 32, 32)
    gold = np.lib.format.open_memmap(tmp_path / "gold.npy", mode="w+", dtype=np.uint8, shape=shape)
    for start in range(0, shape[0], 50_000):
        gold[start : start + 50_000] = start // 50_000
    gold.flush()
    assert gold.nbytes > 1.99e9
    del gold
    child = subprocess.run([sys.executable, "-c", CHILD, str(tmp_path)], capture_output=True, text=True, timeout=500)
    assert child.returncode == 0, child.stderr
    grown, steps, real = (int(word) for word in child.stdout.split())
    assert (steps, real) == (1270, 650_000)  # every row once
    assert grown < 1000, f"resident memory grew by {grown} MiB"
