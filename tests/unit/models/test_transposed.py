"""The transposed convolution is torch's, value for value and gradient for gradient."""

import pytest
import torch
from torch import nn

from collapse.nn.transposed import ConvTranspose2d
from collapse.seeding import generator, keyed_rng

GEOMETRIES = {
    "doubling": {"kernel_size": 4, "stride": 2, "padding": 1},
    "odd": {"kernel_size": 4, "stride": 2, "padding": 1, "output_padding": (1, 0)},
    "oblong": {"kernel_size": (3, 5), "stride": (1, 2), "padding": (0, 2)},
    "no_bias": {"kernel_size": 2, "stride": 2, "bias": False},
}


def both(outputs, geometry, dtype=torch.float64):
    with keyed_rng(1):
        ours = ConvTranspose2d(5, outputs, **GEOMETRIES[geometry]).to(dtype)
        theirs = nn.ConvTranspose2d(5, outputs, **GEOMETRIES[geometry]).to(dtype)
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("outputs", [1, 3, 16, 20])
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_values_and_gradients_are_those_of_torch(geometry, outputs, layout):
    ours, theirs = both(outputs, geometry)
    x = torch.randn(3, 5, 7, 6, dtype=torch.float64, generator=generator(2)).to(memory_format=layout).requires_grad_()
    expected, found = theirs(x), ours(x)
    weights = torch.randn(expected.shape, dtype=torch.float64, generator=generator(3))
    torch.testing.assert_close(found, expected)
    gradients = torch.autograd.grad(found, (x, *ours.parameters()), weights)
    torch.testing.assert_close(gradients, torch.autograd.grad(expected, (x, *theirs.parameters()), weights))


@pytest.mark.parametrize("outputs", [3, 20])
def test_one_of_several_gradients_can_be_asked_for(outputs):
    ours, theirs = both(outputs, "doubling")
    x = torch.randn(2, 5, 4, 4, dtype=torch.float64, generator=generator(2))
    for net in (ours, theirs):
        net.requires_grad_(False)
        net.weight.requires_grad_()
        net(x).square().sum().backward()
    torch.testing.assert_close(ours.weight.grad, theirs.weight.grad)


@pytest.mark.parametrize("outputs", [3, 20])
def test_autocast_narrows_the_work_and_not_the_weights(outputs):
    ours, theirs = both(outputs, "doubling", torch.float32)
    x = torch.randn(2, 5, 8, 8, generator=generator(2))
    expected = theirs(x)
    with torch.autocast("cpu", torch.bfloat16):
        found = ours(x)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), expected, rtol=0, atol=0.02)
    found.float().sum().backward()
    expected.sum().backward()
    assert ours.weight.grad.dtype == torch.float32
    torch.testing.assert_close(ours.weight.grad, theirs.weight.grad, rtol=0.02, atol=0.2)


def test_outside_autocast_gradients_are_wide_though_asked_for_inside():
    ours, theirs = both(20, "doubling", torch.float32)
    x = torch.randn(2, 5, 4, 4, generator=generator(2))
    for net in (ours, theirs):
        loss = net(x).square().sum()
        with torch.autocast("cpu", torch.bfloat16):
            loss.backward()
    torch.testing.assert_close(ours.weight.grad, theirs.weight.grad)


def test_float64_stays_wide_in_autocast():
    ours, theirs = both(20, "doubling")
    x = torch.randn(2, 5, 4, 4, dtype=torch.float64, generator=generator(2))
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(ours(x), theirs(x))


@pytest.mark.parametrize("outputs", [3, 20])
def test_it_has_jacobians_and_second_derivatives(outputs):
    ours, theirs = both(outputs, "doubling")
    x = torch.randn(1, 5, 2, 2, dtype=torch.float64, generator=generator(2))
    torch.testing.assert_close(torch.func.jacrev(ours)(x), torch.func.jacrev(theirs)(x))
    assert torch.autograd.gradgradcheck(ours, x.requires_grad_())


@pytest.mark.parametrize("outputs", [3, 20])
def test_it_maps_over_batches_of_batches(outputs):
    ours, theirs = both(outputs, "doubling")
    x = torch.randn(2, 3, 5, 4, 4, dtype=torch.float64, generator=generator(2))
    torch.testing.assert_close(torch.func.vmap(ours)(x), torch.func.vmap(theirs)(x))


@pytest.mark.parametrize("unusual", [{"dilation": 2}, {"groups": 5}], ids=["dilation", "groups"])
def test_what_is_unusual_is_torchs_matter(unusual):
    with keyed_rng(1):
        ours, theirs = (kind(5, 20, 4, **unusual) for kind in (ConvTranspose2d, nn.ConvTranspose2d))
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 5, 4, 4, generator=generator(2))
    assert torch.equal(ours(x), theirs(x))
    assert torch.equal(both(20, "doubling", torch.float32)[0](x[0]), both(20, "doubling", torch.float32)[1](x[0]))


def test_a_wanted_size_is_torchs_matter():
    ours, theirs = both(20, "doubling")
    x = torch.randn(2, 5, 4, 4, dtype=torch.float64, generator=generator(2))
    assert torch.equal(ours(x, output_size=[9, 8]), theirs(x, output_size=[9, 8]))
