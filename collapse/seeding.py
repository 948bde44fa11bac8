"""Counter-keyed randomness: every draw has an address, and nothing random is ever saved.

A chain never stores the state of a random generator. Whatever it draws, it draws from a generator seeded with
``key(seed, stream, generation, ...)``: the address of the draw. A chain killed anywhere and resumed asks for the same
addresses and gets the same bits; an observer that draws random numbers of its own cannot shift anybody else's.
"""

from __future__ import annotations

import contextlib
import enum
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

__all__ = ["Clock", "Stream", "generator", "key", "keyed_rng", "numpy_generator", "reseed", "standard_normal"]

_MASK = (1 << 64) - 1
_BLOCK = 1 << 17  # normal numbers of one stream; part of what a chain's draws are
_CUDA = torch.cuda.is_available()  # tens of microseconds a call: asked once, never in a step


class Stream(enum.IntEnum):
    """What a random number is for. The numbers are part of every run's identity: append, never renumber."""

    INIT = 1
    SAMPLE = 2
    STEP = 3
    ORDER = 4
    VALIDATE = 5
    COMPOSE = 6
    ANCHOR = 7
    REGULARIZE = 8
    CURATE = 9
    EVALUATE = 10
    DATA = 11
    LOADER = 12
    PREDICT = 13
    CHECK = 14
    CONDITION = 15
    NOISE = 16


def key(*parts: int) -> int:
    """Mix integers into one 63-bit key, the same on every platform and in every version (SplitMix64 finalizer).

    Args:
        parts: The address of the draw: seed first, then the stream, then counters. Any integers.

    Returns:
        A key in [0, 2^63).

    References:
        Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014.

    Example:
        >>> key(0, Stream.INIT, 3) == key(0, Stream.INIT, 3) != key(0, Stream.INIT, 4)
        True
    """
    state = 0x9E3779B97F4A7C15
    for part in parts:
        state = ((state ^ (part & _MASK)) + 0x9E3779B97F4A7C15) & _MASK
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK
        state ^= state >> 31
    return state >> 1


def generator(*parts: int, device: torch.device | str = "cpu") -> torch.Generator:
    """Return a torch generator on ``device`` seeded with ``key(*parts)``."""
    return torch.Generator(device=device).manual_seed(key(*parts))


def numpy_generator(*parts: int) -> np.random.Generator:
    """Return a NumPy generator seeded with ``key(*parts)`` (Philox: identical across NumPy releases)."""
    return np.random.Generator(np.random.Philox(key=key(*parts)))


def standard_normal(*shape: int, generator: torch.Generator, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """Draw standard normal numbers on the generator's device; on the CPU much faster than ``torch.randn`` does.

    There they come from NumPy's ziggurat (SFC64), a block of them from a stream of its own: whoever fills a block, and
    when, they are the same.

    Args:
        shape: Shape of the result.
        generator: The only source of randomness; advanced by one draw on the CPU.
        dtype: float64 or float32.

    Returns:
        Numbers of ``shape``.
    """
    if generator.device.type != "cpu":
        return torch.randn(shape, dtype=dtype, generator=generator, device=generator.device)
    entropy = int(torch.randint(1 << 62, (), generator=generator))
    # torch's memory, not NumPy's, whose huge pages take longer to get than to fill where they are kept.
    values = torch.empty(math.prod(shape), dtype=dtype, device="cpu")
    for block, part in enumerate(values.split(_BLOCK)):
        out: Any = part.numpy()
        np.random.Generator(np.random.SFC64(key(entropy, block))).standard_normal(out=out, dtype=out.dtype)
    return values.reshape(shape)


def reseed(value: int) -> None:
    """Seed torch's global generators in about a microsecond (``torch.manual_seed`` takes a hundred times that)."""
    torch.default_generator.manual_seed(value)
    if _CUDA:
        torch.cuda.manual_seed(value)


@contextlib.contextmanager
def keyed_rng(value: int) -> Iterator[None]:
    """Seed every global generator (torch, NumPy, Python) inside the block and put all of them back after it."""
    numpy_state, python_state = np.random.get_state(), random.getstate()  # noqa: NPY002 - the global one is the point
    torch_state = torch.default_generator.get_state()
    device_states = torch.cuda.get_rng_state_all() if _CUDA else []
    reseed(value)
    np.random.seed(value & 0xFFFFFFFF)  # noqa: NPY002
    random.seed(value)
    try:
        yield
    finally:
        torch.default_generator.set_state(torch_state)
        if device_states:
            torch.cuda.set_rng_state_all(device_states)
        np.random.set_state(numpy_state)  # noqa: NPY002
        random.setstate(python_state)


@dataclass
class Clock:
    """Where in a chain the computation stands: the counters that address a draw.

    Attributes:
        seed: The chain's seed.
        generation: Generation in training, from 0.
        epoch: Epoch within the generation, from 0. Never the run-wide epoch: a generation must not depend on how long
            the ones before it trained.
        batch: Batch within the epoch, from 0.
    """

    seed: int = 0
    generation: int = 0
    epoch: int = 0
    batch: int = 0

    def turn_to(self, generation: int) -> None:
        """Stand at the beginning of a generation."""
        self.generation, self.epoch, self.batch = generation, 0, 0

    def key(self, stream: Stream, *rest: int) -> int:
        """Return the key of this moment in ``stream``; ``rest`` adds counters of the caller's own (a rank, a slot)."""
        return key(self.seed, stream, self.generation, self.epoch, self.batch, *rest)
