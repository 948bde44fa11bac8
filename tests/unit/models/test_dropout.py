"""Dropout leaves out its share of the values, independently, and the seed decides which."""

import pytest
import torch

from collapse.nn.dropout import Dropout
from collapse.seeding import keyed_rng


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_dropout_leaves_out_its_share_and_keeps_the_mean(p):
    layer, x = Dropout(p), torch.ones(1000, 1003)
    with keyed_rng(1):
        y = layer(x)
    kept = y != 0
    n = x.numel()
    assert abs((~kept).double().mean().item() - p) < 5 * (p * (1 - p) / n) ** 0.5
    assert y[kept].unique().tolist() == pytest.approx([1 / (1 - p)], rel=1e-4)
    assert abs(y.double().mean().item() - 1) < 5 * (p / (1 - p) / n) ** 0.5
    for shift in range(1, 5):  # the four values of one number are independent, too
        flat = kept.flatten().double() - (1 - p)
        assert abs((flat[shift:] * flat[:-shift]).mean().item()) < 5 * p * (1 - p) / n**0.5


def test_dropout_has_gradients_where_it_kept_and_the_seed_decides():
    layer, x = Dropout(0.3), torch.ones(7, 5, requires_grad=True)
    with keyed_rng(1):
        y = layer(x)
    with keyed_rng(1):
        assert torch.equal(layer(x), y)
    y.sum().backward()
    assert torch.equal(x.grad, y.detach())
    assert layer.eval()(x) is x


@pytest.mark.parametrize("p", [0.0, 1e-9, 1.0])
def test_dropout_of_all_or_nothing_is_that_of_torch(p):
    x = torch.ones(9)
    assert torch.equal(Dropout(p)(x), x * (p < 0.5))
