"""The affine layer is torch's, value for value and gradient for gradient, whatever computes it."""

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from collapse.nn.linear import LARGE, Linear, linear
from collapse.seeding import generator, keyed_rng

ONEDNN = torch.backends.mkldnn.is_available()


class Kernels(TorchDispatchMode):
    """Notes the names of what is computed."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.add(function.overloadpacket.__name__)
        return function(*args, **(kwargs or {}))


def operands(lead=(4096,), dtype=torch.float32, inputs=96, outputs=100):
    shapes = ((*lead, inputs), (outputs, inputs), (outputs,))
    return [torch.randn(s, generator=generator(i), dtype=dtype).requires_grad_() for i, s in enumerate(shapes)]


def convolves(*args):
    with Kernels() as kernels:
        linear(*args)
    return "convolution" in kernels.names


@pytest.fixture(params=[1, 2], ids=["one_thread", "two_threads"])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.parametrize("biased", [True, False], ids=["bias", "no_bias"])
@pytest.mark.parametrize("lead", [(4096,), (8, 512), (4, 2, 512), (1003,), ()], ids=str)
def test_values_and_gradients_are_those_of_torch(lead, biased, threads):
    inputs = operands(lead, outputs=100 if lead else 100_000)[: 2 + biased]
    assert inputs[0].numel() * len(inputs[1]) >= LARGE
    assert convolves(*inputs) == (ONEDNN and (threads > 1 or (bool(lead) and lead != (1003,))))
    found, expected = linear(*inputs), F.linear(*(t.double() for t in inputs))
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-4)
    weights = torch.randn(found.shape, generator=generator(5))
    exact = torch.autograd.grad(expected, inputs, weights.double())
    for gradient, wanted in zip(torch.autograd.grad(found, inputs, weights), exact, strict=True):
        torch.testing.assert_close(gradient, wanted, rtol=1e-5, atol=2e-3)


def test_operands_need_not_lie_together(threads):
    x, weight, bias = operands((4096,), inputs=192)
    for rows in (x[:, ::2], x[:1, :96].expand(4096, 96)):
        args = rows, weight[:, 96:], bias
        torch.testing.assert_close(linear(*args), F.linear(*args), rtol=0, atol=1e-4)
        assert convolves(*args) == ONEDNN


def test_it_has_second_derivatives():
    x, weight, _ = operands()

    def curvature(function):
        (slope,) = torch.autograd.grad(function(x, weight).square().sum(), x, create_graph=True)
        return torch.autograd.grad(slope.square().mean(), weight)[0]

    torch.testing.assert_close(curvature(linear), curvature(F.linear), rtol=1e-3, atol=1e-2)


OTHERS = {
    "small": operands((64,)),
    "float64": operands(dtype=torch.float64),
    "bfloat16": operands(dtype=torch.bfloat16),
    "one_output": operands((2**17,), outputs=1),
    "meta": [t.to("meta") for t in operands()],
}


@pytest.mark.parametrize("args", OTHERS.values(), ids=OTHERS)
def test_other_products_are_torchs_matter(args):
    assert not convolves(*args)
    expected = F.linear(*args)
    assert linear(*args).shape == expected.shape
    assert expected.is_meta or torch.equal(linear(*args), expected)


def test_without_gradients_or_onednn_it_is_torchs_matter(monkeypatch, threads):
    args = operands()
    with torch.no_grad():
        assert not convolves(*args)
        assert torch.equal(linear(*args), F.linear(*args))
    assert convolves(*args) == ONEDNN
    monkeypatch.setattr(torch.backends.mkldnn, "enabled", False)
    assert not convolves(*args)


def test_widths_that_do_not_fit_are_torchs_matter():
    x, weight, _ = operands()
    with pytest.raises(RuntimeError, match="mat1 and mat2 shapes cannot be multiplied"):
        linear(x, weight[:, :48])


def test_autocast_narrows_it():
    args = operands()
    with torch.autocast("cpu", torch.bfloat16):
        assert linear(*args).dtype == torch.bfloat16
        assert not convolves(*args)


def test_the_layer_is_the_function_and_compiles():
    with keyed_rng(1):
        layer = Linear(96, 100)
    x = operands()[0]
    assert torch.equal(layer(x), linear(x, layer.weight, layer.bias))
    compiled = torch.compile(layer, backend="eager", fullgraph=True)
    assert torch.equal(compiled(x), F.linear(x, layer.weight, layer.bias))
