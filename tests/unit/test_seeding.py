"""Keys are pinned: a changed key changes every published chain."""

from __future__ import annotations

import random

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from collapse.seeding import Clock, Stream, generator, key, keyed_rng, numpy_generator, reseed


def test_keys_are_the_same_for_ever():
    assert key() == 5700357409661599242
    assert key(0) == 3980143261097177850
    assert key(7, Stream.SAMPLE, 3, 1) == 5628124367258770957


def test_streams_are_never_renumbered():
    names = "INIT SAMPLE STEP ORDER VALIDATE COMPOSE ANCHOR REGULARIZE CURATE EVALUATE DATA LOADER PREDICT"
    assert [stream.name for stream in Stream] == names.split()
    assert [int(stream) for stream in Stream] == list(range(1, 14))


@given(st.lists(st.integers(-(2**70), 2**70), min_size=1, max_size=6))
def test_keys_fit_a_generator(parts):
    assert 0 <= key(*parts) < 2**63
    torch.Generator().manual_seed(key(*parts))


def test_neighboring_addresses_have_unrelated_keys():
    keys = np.array([key(0, 1, index) for index in range(4096)], dtype=np.uint64)
    assert len(set(keys.tolist())) == 4096
    bits = (keys[:, None] >> np.arange(63, dtype=np.uint64)) & np.uint64(1)
    # each bit is set in half of the keys, within 4.5 standard errors
    assert np.abs(bits.mean(0) - 0.5).max() < 4.5 * 0.5 / 64
    flips = (keys[1:] ^ keys[:-1])[:, None] >> np.arange(63, dtype=np.uint64) & np.uint64(1)
    assert np.abs(flips.mean(0) - 0.5).max() < 4.5 * 0.5 / 63.9


def test_keyed_rng_seeds_everything_and_puts_everything_back():
    def draws():
        return torch.rand(3).tolist(), np.random.rand(3).tolist(), random.random()  # noqa: NPY002

    torch.manual_seed(1), np.random.seed(1), random.seed(1)  # noqa: NPY002
    expected = draws()
    torch.manual_seed(1), np.random.seed(1), random.seed(1)  # noqa: NPY002
    with keyed_rng(5):
        inside = draws()
    assert draws() == expected
    with keyed_rng(5):
        assert draws() == inside
    assert inside != expected


def test_reseed_is_manual_seed():
    reseed(123)
    fast = torch.rand(4)
    torch.manual_seed(123)
    assert torch.equal(fast, torch.rand(4))


def test_generators_are_addressed():
    assert torch.equal(torch.rand(3, generator=generator(1, 2)), torch.rand(3, generator=generator(1, 2)))
    assert not torch.equal(torch.rand(3, generator=generator(1, 2)), torch.rand(3, generator=generator(2, 1)))
    assert numpy_generator(1, 2).random() == numpy_generator(1, 2).random()


def test_a_clock_addresses_the_moment():
    clock = Clock(3, 1, 2, 5)
    assert clock.key(Stream.STEP, 0) == key(3, Stream.STEP, 1, 2, 5, 0)
    clock.turn_to(4)
    assert (clock.generation, clock.epoch, clock.batch) == (4, 0, 0)
