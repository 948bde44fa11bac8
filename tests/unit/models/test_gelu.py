"""GELU and a linear layer are torch's, value for value and gradient for gradient, whatever is written over what."""

import pytest
import torch
import torch.nn.functional as F

from collapse.nn.gelu import GELULinear
from collapse.seeding import generator, keyed_rng


def made(dtype=torch.bfloat16, bias=True):
    with keyed_rng(1):
        return GELULinear(6, 5, bias=bias).to(dtype)


def inputs(lead=(4, 3), dtype=torch.bfloat16):
    return torch.randn(*lead, 6, generator=generator(2)).to(dtype).requires_grad_()


def exact(layer, h):
    """The layer in float64, on leaves of its own."""
    leaves = [t.detach().double().requires_grad_() for t in (h, *layer.parameters())]
    return F.linear(F.gelu(leaves[0]), *leaves[1:]), leaves


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no_bias"])
@pytest.mark.parametrize("lead", [(7,), (4, 3), (2, 2, 3)], ids=str)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_values_and_gradients_are_those_of_torch(dtype, lead, bias):
    layer, h = made(dtype, bias), inputs(lead, dtype)
    close = {"rtol": 0, "atol": 0.05 if dtype == torch.bfloat16 else 1e-5}
    found, (expected, leaves) = layer(h), exact(layer, h)
    torch.testing.assert_close(found.double(), expected, **close)
    weights = torch.randn(found.shape, generator=generator(3)).to(dtype)
    theirs = torch.autograd.grad(expected, leaves, weights.double())
    for gradient, wanted in zip(torch.autograd.grad(found, (h, *layer.parameters()), weights), theirs, strict=True):
        assert gradient.dtype == dtype
        torch.testing.assert_close(gradient.double(), wanted, **close)


def test_a_gradient_can_be_asked_for_again_and_nothing_else_is_written_over():
    layer, h = made(), inputs()
    y = layer(h)
    weights = torch.randn(y.shape, generator=generator(3)).bfloat16()
    kept = weights.clone(), h.detach().clone()
    first, second = (torch.autograd.grad(y, (h, layer.weight), weights, retain_graph=True) for _ in range(2))
    assert all(map(torch.equal, first, second))
    assert torch.equal(weights, kept[0])
    assert torch.equal(h.detach(), kept[1])


def test_it_has_second_derivatives_and_jacobians():
    layer, h = made(bias=False), inputs((3,))

    def curvature(f, h, weight):
        (slope,) = torch.autograd.grad(f(h).square().sum(), h, create_graph=True)
        return torch.autograd.grad(slope.square().sum(), (h, weight))

    wide, weight = h.detach().double().requires_grad_(), layer.weight.detach().double().requires_grad_()
    theirs = curvature(lambda x: F.linear(F.gelu(x), weight), wide, weight)
    for gradient, wanted in zip(curvature(layer, h, layer.weight), theirs, strict=True):
        torch.testing.assert_close(gradient.double(), wanted, rtol=0.05, atol=0.05)
    jacobian = torch.func.vmap(torch.func.jacrev(layer))(h)
    wanted = torch.func.vmap(torch.func.jacrev(lambda x: F.linear(F.gelu(x), weight)))(wide)
    torch.testing.assert_close(jacobian.double(), wanted, rtol=0, atol=0.05)


def test_autocast_narrows_the_work_and_not_the_weights():
    layer, h = made(torch.float32), inputs()
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(h)
    assert y.dtype == torch.bfloat16
    y.float().sum().backward()
    assert layer.weight.grad.dtype == torch.float32
    expected, (_, weight, _) = exact(layer, h)
    expected.sum().backward()
    torch.testing.assert_close(layer.weight.grad.double(), weight.grad, rtol=0.02, atol=0.05)


def test_hooks_see_what_goes_in_and_what_comes_out():
    layer, h, seen = made(), inputs(), []
    layer.register_forward_hook(lambda module, args, y: seen.append((args[0], y)))
    y = layer(h)
    assert seen[0][0] is h
    assert seen[0][1] is y


def test_it_compiles():
    layer, h = made(), inputs()
    assert torch.equal(
        torch.compile(layer, backend="eager", fullgraph=True)(h), F.linear(F.gelu(h), *layer.parameters())
    )
