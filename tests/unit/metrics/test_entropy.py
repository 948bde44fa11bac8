"""Entropy and effective numbers against scipy, known histograms and finite differences."""

import math
from collections import Counter

import pytest
import scipy.stats
import torch

from collapse.metrics import entropy, hill_number

CORPUS = ["the cat sat on the mat", "the cat sat on the rug", "a dog sat on the log"]


def weights(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_m11_unigram_entropy():
    counts = torch.tensor(list(Counter(" ".join(CORPUS).split()).values()))
    assert entropy(counts).item() == pytest.approx(2.000085221, rel=1e-6)
    assert entropy(counts, base=2).item() == pytest.approx(2.88551303, rel=1e-6)


@pytest.mark.parametrize("base", [2, math.e, 10])
def test_entropy_equals_scipy_and_does_not_see_the_scale(base):
    w = weights(3, 7)
    expected = torch.tensor(scipy.stats.entropy(w.numpy(), base=base, axis=-1))
    torch.testing.assert_close(entropy(w, base), expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(entropy(13 * w, base), expected, rtol=1e-12, atol=0)


def test_unused_classes_count_nothing():
    used, padded = torch.tensor([3, 1]), torch.tensor([0, 3, 0, 1, 0])
    assert entropy(used) == entropy(padded)
    assert entropy(torch.tensor([0, 7])) == 0
    for order in (0, 0.5, 1, 2, math.inf):
        assert hill_number(padded, order).item() == pytest.approx(hill_number(used, order).item(), rel=1e-12)
        assert hill_number(torch.tensor([0, 7]), order).item() == pytest.approx(1, rel=1e-12)


@pytest.mark.parametrize("order", [0, 0.3, 1, 2, 5, math.inf])
def test_equal_classes_have_their_number_at_every_order(order):
    assert hill_number(torch.full((6,), 4), order).item() == pytest.approx(6, rel=1e-12)


def test_orders_are_the_known_indices_and_fall():
    p = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    values = [hill_number(p, order).item() for order in (0, 1, 2, 3, math.inf)]
    entropies = [3, math.exp(scipy.stats.entropy(p)), 1 / 0.38, (1 / 0.16) ** 0.5, 2]
    assert values == pytest.approx(entropies, rel=1e-12)
    assert values == sorted(values, reverse=True)
    assert hill_number(p, 1 + 1e-6).item() == pytest.approx(values[1], rel=1e-5)  # the limits
    assert hill_number(p, 1e5).item() == pytest.approx(2, rel=1e-4)


@pytest.mark.parametrize("order", [0.5, 1, 2, 1e4, math.inf])
def test_gradients_are_those_of_finite_differences(order):
    w = weights(2, 4, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda w: hill_number(w, order), w)
    assert torch.autograd.gradcheck(entropy, w)


def test_an_unused_class_has_a_finite_gradient():
    w = torch.tensor([0.0, 1.0, 3.0], requires_grad=True)
    for function in (entropy, hill_number, lambda w: hill_number(w, 0.5)):
        (gradient,) = torch.autograd.grad(function(w), w)
        assert torch.isfinite(gradient).all()
        assert gradient[1] > 0 > gradient[2]  # more of the rarer class evens the histogram out


@pytest.mark.parametrize("function", [entropy, hill_number])
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ([], "empty histogram, whose entries sum to 0; count at least one row"),
        ([[1, 2], [0, 0]], "empty histogram"),
        ([1, -1], r"weights, of shape \(2,\), must be non-negative finite"),
        ([1, math.nan], "must be non-negative finite numbers along the last axis; pass counts"),
        (1.0, r"weights, of shape \(\)"),
    ],
)
def test_wrong_weights_are_a_sentence(function, wrong, message):
    with pytest.raises(ValueError, match=message):
        function(torch.tensor(wrong))


def test_wrong_options_are_a_sentence():
    for base in (1, 0.5, math.nan):
        with pytest.raises(ValueError, match=f"base = {base}, but a logarithm that grows"):
            entropy(torch.ones(2), base)
    with pytest.raises(ValueError, match=r"order = -0.5, but an order is at least 0"):
        hill_number(torch.ones(2), -0.5)
