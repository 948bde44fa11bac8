"""Freed memory serves the next tensors instead of going back to the system."""

import os
import platform
import subprocess
import sys

import pytest

from collapse import GaussianData, run_chain
from collapse.memory import keep_freed_memory
from collapse.models import Gaussian

STEPS = """
import resource
import torch
from collapse.memory import keep_freed_memory

{begin}
def step():
    return sum(torch.ones(3_000_000) for _ in range(3)).sum()  # tensors of 12 MB
for _ in range(5):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def pages_asked_for(begin, **environment):
    """Pages that ten steps ask the system for in a process of their own."""
    plain = {name: value for name, value in os.environ.items() if "MALLOC" not in name and name != "GLIBC_TUNABLES"}
    ran = subprocess.run(
        [sys.executable, "-c", STEPS.format(begin=begin)],
        capture_output=True,
        text=True,
        check=True,
        env=plain | environment,
    )
    return int(ran.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of the GNU C library")
def test_steps_ask_for_no_memory_twice_unless_the_environment_says_so():
    kept = pages_asked_for(
        "assert keep_freed_memory()", MALLOC_ARENA_MAX="2", GLIBC_TUNABLES="glibc.malloc.tcache_count=7"
    )
    assert kept < pages_asked_for("") / 5
    begin = "assert not keep_freed_memory()"
    assert kept < pages_asked_for(begin, MALLOC_MMAP_THRESHOLD_="1000000") / 5
    assert kept < pages_asked_for(begin, GLIBC_TUNABLES="glibc.malloc.mmap_threshold=1000000") / 5


def test_a_chain_keeps_it(monkeypatch):
    asked = []
    monkeypatch.setattr("collapse.recursion.trainer.keep_freed_memory", lambda: asked.append(keep_freed_memory()))
    run_chain(Gaussian(), GaussianData(rows=10), generations=1, samples_per_generation=10)
    assert len(asked) == 1
