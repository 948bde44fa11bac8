"""The sampler's step is the network's, and the network takes over where somebody changed or watches it."""

import pytest
import torch
from torch import nn

from collapse.models import GPT
from collapse.nn.cache import KeyValueCache
from collapse.nn.product import Product
from collapse.nn.stepping import Stepper
from collapse.seeding import generator, keyed_rng

CLOSE = {torch.float64: 1e-6, torch.float32: 1e-4, torch.bfloat16: 0.15}  # rotations are those of float32


def made(**options):
    with keyed_rng(3):
        gpt = GPT(11, 40, layers=2, heads=2, width=16, **options).eval()
        for parameter in gpt.parameters():  # larger than at the start, or every position would look alike
            parameter.data.mul_(5 if parameter.ndim > 1 else 1).add_(0.1 * torch.randn_like(parameter))
    return gpt


@pytest.mark.parametrize("dtype", CLOSE, ids=str)
@pytest.mark.parametrize("positions", ["rotary", "learned"])
@torch.no_grad()
def test_a_step_gives_the_logits_of_the_network(positions, dtype):
    gpt = made(positions=positions).to(dtype)
    text = torch.randint(11, (3, 70 if positions == "rotary" else 40), generator=generator(1))
    whole, cache = gpt.network(text)[0], KeyValueCache(40)
    step = Stepper(gpt.network, dtype, text.shape[1])
    gpt.network(text[:, :5], cache)
    for place in range(5, text.shape[1]):
        logits = step(text[:, place : place + 1], cache)
        assert logits.dtype == dtype
        torch.testing.assert_close(logits, whole[:, place], rtol=0, atol=CLOSE[dtype] * whole.abs().max().item())
    assert cache.length == text.shape[1]


@torch.no_grad()
def test_a_step_keeps_its_type_in_autocast():
    gpt, cache = made(), KeyValueCache(40)
    begin = torch.full((2, 1), 11)
    gpt.network(begin, cache)
    with torch.autocast("cpu", torch.bfloat16):
        assert Stepper(gpt.network, torch.float32, 2)(begin, cache).dtype == torch.float32


def hooked(network):
    network.blocks[1].mlp[0].register_forward_hook(lambda module, inputs, output: output * 0)


def replaced(network):
    class Linear(nn.Linear):
        def forward(self, x):
            return super().forward(x) * 2

    network.blocks[0].mlp[2].__class__ = Linear


def parametrized(network):
    class Twice(nn.Module):
        def forward(self, x):
            return 2 * x

    nn.utils.parametrize.register_parametrization(network.blocks[0].attention.qkv, "weight", Twice())


def biased(network):
    network.blocks[0].attention.qkv.bias = nn.Parameter(torch.ones(48))


def coarse(network):
    network.blocks[1].mlp_norm.eps = 1.0


def linear(network):
    network.blocks[0].mlp[1] = nn.Identity()


def longer(network):
    network.blocks[0].mlp.append(nn.Linear(16, 16))


def overridden(network):
    forward = network.norm.forward
    network.norm.forward = lambda x: 2 * forward(x)


CHANGES = [hooked, replaced, parametrized, biased, coarse, linear, longer, overridden]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_changed_network_samples_itself(change):
    gpt, plain = made(), made()
    change(gpt.network)
    assert isinstance(plain._step(41), Stepper)
    assert gpt._step(41) == gpt._continued
    assert not torch.equal(gpt.sample(50, generator(4)), plain.sample(50, generator(4)))


@pytest.mark.parametrize(
    ("weights", "autocast", "computes"),
    [
        (torch.float32, None, torch.float32),
        (torch.float32, torch.bfloat16, torch.bfloat16),
        (torch.float32, torch.float16, None),  # whose range is too short for what layers add up
        (torch.bfloat16, None, torch.bfloat16),
        (torch.float64, None, torch.float64),
        (torch.float64, torch.bfloat16, torch.float64),
    ],
    ids=str,
)
def test_a_sample_is_computed_in_the_type_of_its_context(weights, autocast, computes):
    gpt = made().to(weights)
    with torch.autocast("cpu", autocast, enabled=autocast is not None):
        step = gpt._step(41)
        assert gpt.sample(3, generator(0)).shape == (3, 40)
    assert step == gpt._continued if computes is None else step.norm.dtype == computes


def test_a_wrapped_network_samples_itself():
    class Wrapped(nn.Module):
        def __init__(self, network):
            super().__init__()
            self.inner = network

        def forward(self, *args):
            return self.inner(*args)

    gpt, rows = made(), made().sample(20, generator(4))
    gpt.network = Wrapped(gpt.network)
    assert torch.equal(gpt.sample(20, generator(4)), rows)


def test_masks_begin_where_kernels_want_them():
    cache = KeyValueCache(40)
    cache.fill(*torch.randn(2, 1, 1, 1, 8))
    for cache.length in range(1, 40):
        mask = cache.mask()
        assert (mask is None) == (cache.length + 1 in (32, 40))
        if mask is not None:
            assert mask.data_ptr() % 16 == 0
            assert mask.isfinite().sum() == cache.length + 1


def test_hooks_see_every_token_of_a_sample():
    gpt, seen = made(), []
    gpt.network.norm.register_forward_hook(lambda module, inputs, output: seen.append(len(output)))
    gpt.sample(2, generator(4))
    assert seen == [2] * 40


def test_a_network_in_training_drops_out_while_it_samples():
    assert made(dropout=0.5).network.is_as_made()
    assert not made(dropout=0.5).train().network.is_as_made()
    assert made(dropout=0.0).train().network.is_as_made()


def test_no_rows_are_sampled_if_none_are_asked_for():
    assert made().sample(0, generator(0)).shape == (0, 40)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("sizes", [(5, 16, 48), (1, 33, 7), (256, 64, 257)], ids=str)
def test_products_are_those_of_a_linear_layer(sizes, dtype):
    rows, inputs, outputs = sizes
    x, w, r = (
        torch.randn(shape, generator=generator(i), dtype=torch.float64)
        for i, shape in enumerate(((rows, inputs), (outputs, inputs), (rows, outputs)))
    )
    x, w, r = x.to(dtype), w.to(dtype), r.to(dtype)
    product, exact = Product(w), x.double() @ w.double().T
    close = {"rtol": 2 * torch.finfo(dtype).eps, "atol": 0.02 if dtype == torch.bfloat16 else 1e-4}
    torch.testing.assert_close(product(x).double(), exact, **close)
    torch.testing.assert_close(product.gelu(x).double(), nn.functional.gelu(exact), **close)
    torch.testing.assert_close(product.plus(x, r).double(), r.double() + exact, **close)
