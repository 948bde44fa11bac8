"""What every metric of the namespace owes: a direction that it keeps under a controlled degradation."""

from __future__ import annotations

import pytest
import torch

from collapse.metrics import METRICS
from collapse.seeding import generator

N = 400


def cloud(seed, n=N):
    """Four Gaussian modes in the plane, equally many rows of each: a distance must see noise, not uneven counts."""
    source = generator(seed)
    modes = torch.tensor([[0.0, 0.0], [4.0, 0.0], [0.0, 4.0], [4.0, 4.0]])
    return modes[torch.arange(n) % 4] + 0.5 * torch.randn(n, 2, generator=source)


def shrink(x, strength):
    return x.mean(0) + (1 - 0.9 * strength) * (x - x.mean(0))


DEGRADATIONS = {
    "fidelity": lambda x, strength: x + 4 * strength * torch.randn(x.shape, generator=generator(77)),
    "diversity": shrink,
    "tails": shrink,
}


@pytest.fixture(params=METRICS, ids=lambda metric: metric.name)
def metric(request):
    return request.param


def test_declares_its_character(metric):
    assert metric.detects in {"fidelity", "diversity", "tails", "memorization"}
    assert any(character.isdigit() for character in metric.citation)


def test_moves_in_the_declared_direction(metric):
    reference, other = cloud(1), cloud(2)
    degrade = DEGRADATIONS[metric.detects]
    values = [float(metric.compute(reference, degrade(other, strength))) for strength in (0.0, 0.3, 0.6, 1.0)]
    signed = values if metric.higher_is_better else [-value for value in values]
    assert signed == sorted(signed, reverse=True)
    assert signed[0] > signed[-1]


def test_does_not_depend_on_the_order_of_rows(metric):
    reference, other = cloud(1), cloud(2)
    shuffled = other[torch.randperm(N, generator=generator(3))]
    value, again = metric.compute(reference, other), metric.compute(reference.flip(0), shuffled)
    torch.testing.assert_close(value, again, rtol=1e-9, atol=1e-9)


def test_is_best_on_the_set_itself(metric):
    reference, other = cloud(1), cloud(2)
    moved = shrink(other, 0.3) if metric.detects == "tails" else other + 1.5  # a set beside the reference is all tail
    itself, value = metric.compute(reference, reference), metric.compute(reference, moved)
    assert itself > value if metric.higher_is_better else itself < value


def test_is_a_function_of_the_two_sets(metric):
    """No global generator is read or moved, the dtype is float64, and gradients of the arguments stop nothing."""
    reference, other = cloud(1), cloud(2)
    before = torch.get_rng_state()
    value = metric.compute(reference, other)
    assert torch.equal(torch.get_rng_state(), before)
    assert value.dtype == torch.float64
    assert value.shape == ()
    torch.manual_seed(5)
    assert torch.equal(metric.compute(reference.clone().requires_grad_(), other.clone().requires_grad_()), value)
