"""Noise keyed by row: its law, and that nothing but its address matters."""

import math

import pytest
import torch
from scipy import stats

from collapse.noise import row_normal, row_uniform
from collapse.seeding import key

SIGMAS = 4.5
KEY = key(3, 16, 1, 2, 5)
PINNED = [-0.535794, 0.276922, 1.785408, -0.832954]
MASK = (1 << 64) - 1
GOLDEN = 0x9E3779B97F4A7C15


def finalized(state):
    """SplitMix64's output function, with integers of any size."""
    state &= MASK
    state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & MASK
    return state ^ (state >> 31)


def bits_of(address, row, place):
    return finalized(finalized(address + (row + 1) * GOLDEN) + (place + 1) * GOLDEN)


@pytest.mark.parametrize("address", [0, KEY, (1 << 63) - 1], ids=["zero", "usual", "largest"])
def test_numbers_are_the_hash_of_their_address(address):
    rows = torch.tensor([0, 1, 59_999, 2**40])
    words = [[bits_of(address, row, place) for place in range(3)] for row in rows.tolist()]
    low, high = (torch.tensor([[(w >> s) & 0xFFFFFFFF for w in line] for line in words]).double() for s in (0, 32))
    first, second = (high + 0.5) / 2**32, low / 2**32
    torch.testing.assert_close(row_uniform(address, rows, 3).double(), (low + 0.5) / 2**32, rtol=0, atol=1e-7)
    radius, angle = (-2 * first.log()).sqrt(), 2 * math.pi * second
    expected = torch.cat([radius * angle.cos(), radius * angle.sin()], 1)[:, :5]
    torch.testing.assert_close(row_normal(address, rows, (5,)).double(), expected, rtol=0, atol=3e-6)


def test_numbers_are_the_same_for_ever():
    values = row_normal(KEY, torch.tensor([7]), (2, 2)).double().flatten()
    torch.testing.assert_close(values, torch.tensor(PINNED, dtype=torch.float64), rtol=0, atol=3e-6)


@pytest.mark.parametrize("shape", [(1,), (2,), (1, 8, 8), (3, 5, 7)], ids=str)
def test_neither_batch_nor_order_matters(shape):
    rows = torch.randperm(1000, generator=torch.Generator().manual_seed(0))
    whole = row_normal(KEY, rows, shape)
    assert whole.shape == (1000, *shape)
    for size in (1, 3, 17, 500, 999):
        parts = torch.cat([row_normal(KEY, part, shape) for part in rows.split(size)])
        assert torch.equal(parts, whole)
    back = torch.arange(999, -1, -1)
    assert torch.equal(row_normal(KEY, rows[back], shape), whole[back])
    assert torch.equal(row_uniform(KEY, rows, 2), torch.cat([row_uniform(KEY, part, 2) for part in rows.split(7)]))


def test_rows_keep_their_noise_on_any_number_of_threads():
    rows, threads = torch.arange(3000), torch.get_num_threads()
    whole = row_normal(KEY, rows, (64,))
    torch.set_num_threads(2 if threads == 1 else 1)
    try:
        assert torch.equal(row_normal(KEY, rows, (64,)), whole)
    finally:
        torch.set_num_threads(threads)


def test_normal_numbers_are_normal():
    values = row_normal(KEY, torch.arange(2000), (100,)).double()
    n = values.numel()
    for power, moment, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs(float(values.pow(power).mean()) - moment) < SIGMAS * math.sqrt(variance / n)
    assert stats.kstest(values.flatten().numpy(), "norm").pvalue > 1e-4
    assert 4 < float(values.abs().max()) < 6.7


def test_uniform_numbers_are_uniform():
    values = row_uniform(KEY, torch.arange(50_000), 4).double()
    assert stats.kstest(values.flatten().numpy(), "uniform").pvalue > 1e-4
    assert 0 < float(values.min()) < 1e-4
    assert float(values.max()) <= 1


def correlations(values):
    """Correlation matrix of the columns, off its diagonal, in standard errors."""
    matrix = torch.corrcoef(values.double().T)
    return (matrix - torch.eye(len(matrix))).abs().max() * math.sqrt(len(values))


@pytest.mark.parametrize("transform", [torch.clone, torch.square, torch.sign], ids=["plain", "squares", "signs"])
def test_places_rows_and_keys_are_independent(transform):
    values = transform(row_normal(KEY, torch.arange(20_000), (10,)))
    assert correlations(values) < SIGMAS  # places, the two of one pair among them
    neighbors = torch.stack([values[:-1].flatten(), values[1:].flatten()], 1)
    assert correlations(neighbors) < SIGMAS
    keys = [
        transform(row_normal(address, torch.arange(20_000), (1,)))[:, 0] for address in (KEY, KEY + 1, KEY ^ 1 << 62)
    ]
    assert correlations(torch.stack(keys, 1)) < SIGMAS
    shifted = transform(row_normal(KEY, torch.arange(20_000), (20,)))
    assert correlations(torch.stack([values[:, 1], shifted[:, 1], shifted[:, 11]], 1)[:, 1:]) < SIGMAS


def test_a_row_that_is_there_twice_has_its_noise_twice():
    values = row_normal(KEY, torch.tensor([4, 9, 4]), (6,))
    assert torch.equal(values[0], values[2])
    assert not torch.equal(values[0], values[1])
