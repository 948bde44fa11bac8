"""Keys are pinned: a changed key changes every published chain."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kstest

from collapse.seeding import Clock, Stream, generator, key, keyed_rng, numpy_generator, reseed, standard_normal


def test_keys_are_the_same_for_ever():
    assert key() == 5700357409661599242
    assert key(0) == 3980143261097177850
    assert key(7, Stream.SAMPLE, 3, 1) == 5628124367258770957


def test_streams_are_never_renumbered():
    names = "INIT SAMPLE STEP ORDER VALIDATE COMPOSE ANCHOR REGULARIZE CURATE EVALUATE DATA LOADER PREDICT CHECK"
    assert [stream.name for stream in Stream] == [*names.split(), "CONDITION", "NOISE"]
    assert [int(stream) for stream in Stream] == list(range(1, 17))


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


# --- normal numbers ---------------------------------------------------------------------------------------------------

BLOCK = 1 << 17


@pytest.fixture
def threads():
    """Set torch's number of threads; put back what it was."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("shape", [(5,), (BLOCK,), (3, BLOCK), (2, 3, BLOCK // 2 + 1)])
def test_normal_numbers_do_not_depend_on_the_number_of_threads(threads, shape):
    drawn = []
    for number in (1, 2, 5):
        threads(number)
        drawn.append(standard_normal(*shape, generator=generator(7)))
    assert drawn[0].shape == shape
    assert torch.equal(drawn[0], drawn[1])
    assert torch.equal(drawn[0], drawn[2])


def test_normal_numbers_are_the_same_for_ever():
    """A changed stream or block changes every published chain of estimators."""
    drawn = standard_normal(BLOCK + 1, generator=generator(0))
    entropy = int(torch.randint(1 << 62, (), generator=generator(0)))
    for place, block in ((0, 0), (BLOCK, 1)):
        wanted = np.random.Generator(np.random.SFC64(key(entropy, block))).standard_normal()
        assert float(drawn[place]) == wanted
    assert float(drawn[0]) == -0.5242095055595813


def test_normal_numbers_are_normal_and_none_comes_twice(threads):
    threads(2)
    count = 20 * BLOCK
    drawn = standard_normal(count, generator=generator(1)).numpy()
    for power, moment, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs((drawn**power).mean() - moment) < 4.5 * (variance / count) ** 0.5
    assert kstest(drawn[: 4 * BLOCK], "norm").pvalue > 1e-4
    assert len(np.unique(drawn)) == count
    blocks = np.corrcoef(drawn.reshape(20, BLOCK)) - np.eye(20)
    assert np.abs(blocks).max() < 5 / BLOCK**0.5
    neighbors = np.corrcoef(drawn[1:], drawn[:-1])[0, 1]
    assert abs(neighbors) < 4.5 / count**0.5


def test_normal_numbers_advance_their_generator_and_nothing_else():
    rng, state = generator(3), (torch.get_rng_state(), np.random.get_state()[1].copy())  # noqa: NPY002
    first, second = standard_normal(4, generator=rng), standard_normal(4, generator=rng)
    assert len(torch.cat([first, second]).unique()) == 8
    assert torch.equal(first, standard_normal(4, generator=generator(3)))
    assert torch.equal(torch.get_rng_state(), state[0])
    assert np.array_equal(np.random.get_state()[1], state[1])  # noqa: NPY002


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (2, 3)])
def test_normal_numbers_have_the_shape_and_type_asked_for(shape, dtype):
    drawn = standard_normal(*shape, generator=generator(0), dtype=dtype)
    assert (drawn.shape, drawn.dtype) == (shape, dtype)
    assert torch.isfinite(drawn).all()
