"""The U-Net against its equations written out, and the promises a network owes to training and sampling."""

import math
import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from collapse.data import Digits
from collapse.nn import UNet
from collapse.nn.time import time_features
from collapse.nn.unet import Attention, Block
from collapse.seeding import generator, keyed_rng

SIDES = {"digits": (1, 8, 8), "mnist": (1, 28, 28), "cifar": (3, 32, 32), "oblong": (2, 8, 12)}
SMALL = {"width": 16, "multipliers": (1, 2, 3), "blocks": (1, 1, 2), "attention": 8}


def made(shape, *, loud=True, **settings):
    """Return a network in double precision whose branches, if loud, are of the size that training gives them."""
    with keyed_rng(3):
        net = UNet(shape, **{**SMALL, **settings}).double()
        if loud:
            for parameter in net.parameters():
                nn.init.normal_(parameter, std=0.1)
    return net


def inputs(shape, rows=3, classes=None):
    rng = generator(1)
    x = torch.randn(rows, *shape, generator=rng, dtype=torch.float64)
    t = torch.rand(rows, generator=rng, dtype=torch.float64)
    return (x, t) if classes is None else (x, t, torch.randint(classes, (rows,), generator=rng))


def normalized(h, groups):
    """Subtract the mean of every group of channels of a row and divide by its standard deviation."""
    grouped = h.reshape(len(h), groups, -1)
    centered = grouped - grouped.mean(-1, keepdim=True)
    return (centered / (centered.square().mean(-1, keepdim=True) + 1e-5).sqrt()).reshape(h.shape)


# equations


def test_time_features_are_the_published_ones():
    t = torch.tensor([0.0, 0.001, 0.5, 1.0], dtype=torch.float64)
    expected = [
        [math.cos(1000 * s * 10000 ** (-k / 4)) for k in range(4)]
        + [math.sin(1000 * s * 10000 ** (-k / 4)) for k in range(4)]
        for s in t.tolist()
    ]
    torch.testing.assert_close(time_features(t, 8), torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-10)
    assert time_features(t.bfloat16(), 8).dtype == torch.float32


def test_block_is_equation_2():
    with keyed_rng(0):
        block = Block(32, attends=False, dropout=0.0).double()
        for parameter in block.parameters():
            nn.init.normal_(parameter, std=0.3)
        h, modulation = torch.randn(2, 32, 5, 4).double(), torch.randn(2, 64).double()
    scale, shift = modulation[:, :32, None, None], modulation[:, 32:, None, None]
    affine = normalized(h, 2) * block.norm.weight[:, None, None] + block.norm.bias[:, None, None]
    inner = F.conv2d(affine * affine.sigmoid(), block.convolution.weight, padding=1)
    inner = normalized(inner, 2) * (1 + scale) + shift
    expected = h + F.conv2d(inner * inner.sigmoid(), block.branch.weight, block.branch.bias, padding=1)
    torch.testing.assert_close(block(h, modulation), expected, rtol=1e-12, atol=1e-12)


def test_attention_is_a_softmax_over_all_positions():
    with keyed_rng(0):
        attention = Attention(64).double()
        for parameter in attention.parameters():
            nn.init.normal_(parameter, std=0.3)
        h = torch.randn(2, 64, 3, 2).double()
    assert attention.heads == 2
    tokens = normalized(h, 4).flatten(2).transpose(1, 2) * attention.norm.weight + attention.norm.bias
    heads = []
    for head in range(2):
        query, key, value = (tokens @ attention.inputs.weight[start + 32 * head :][:32].T for start in (0, 64, 128))
        heads.append(torch.softmax(query @ key.transpose(1, 2) / 32**0.5, dim=-1) @ value)
    added = torch.cat(heads, dim=-1) @ attention.branch.weight.T + attention.branch.bias
    torch.testing.assert_close(attention(h), h + added.transpose(1, 2).reshape(h.shape), rtol=1e-12, atol=1e-12)


def test_the_whole_is_equation_3():
    net = made((1, 8, 12))
    for block in net.modules():
        if isinstance(block, Block | Attention):
            nn.init.zeros_(block.branch.weight)
            nn.init.zeros_(block.branch.bias)
    x, t = inputs((1, 8, 12))
    high = net.first(x)
    middle = net.down[0](high)
    middle = middle + net.up[0](net.down[1](middle))
    torch.testing.assert_close(net(x, t), net.last(high + net.up[1](middle)), rtol=1e-12, atol=1e-12)


# shapes and sizes


@pytest.mark.parametrize("shape", SIDES.values(), ids=SIDES)
def test_rows_do_not_see_each_other(shape):
    net, (x, t, y) = made(shape, classes=4), inputs(shape, classes=4)
    whole = net(x, t, y)
    assert whole.shape == x.shape
    for row in range(len(x)):
        alone = slice(row, row + 1)
        torch.testing.assert_close(net(x[alone], t[alone], y[alone]), whole[alone], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("shape", "settings", "parameters"),
    [
        ((1, 8, 8), {"width": 28, "multipliers": (1, 2), "blocks": (1, 1)}, 158_593),
        ((1, 28, 28), {"width": 32}, 2_095_873),
        ((3, 32, 32), {"width": 96, "blocks": (2, 3, 6), "classes": 10}, 28_016_835),
    ],
    ids=["digits", "mnist", "cifar"],
)
def test_parameters_are_counted(shape, settings, parameters):
    with torch.device("meta"):
        assert sum(value.numel() for value in UNet(shape, **settings).parameters()) == parameters


def test_every_position_reaches_every_other():
    net, (x, t) = made((1, 28, 28)), inputs((1, 28, 28), rows=1)
    x.requires_grad_()
    net(x, t)[0, 0, 0, 0].backward()
    assert (x.grad != 0).all()


@pytest.mark.parametrize("attention", [0, 4, 8, 16], ids="side {}".format)
def test_attention_is_where_sides_are_short(attention):
    net = UNet((1, 16, 16), width=16, multipliers=(1, 1, 1), blocks=(1, 2, 3), attention=attention)
    having = {name for name, module in net.named_modules() if isinstance(module, Attention)}
    sides = {"encoder.0": 16, "encoder.1": 8, "middle": 4, "decoder.0": 8, "decoder.1": 16}
    blocks = {"encoder.0": 1, "encoder.1": 2, "middle": 3, "decoder.0": 2, "decoder.1": 1}
    assert having == {
        f"{level}.{index}.attention"
        for level, side in sides.items()
        if side <= attention
        for index in range(blocks[level])
    }


# conditions


def test_no_label_is_minus_one():
    net, (x, t, y) = made((1, 8, 8), classes=4), inputs((1, 8, 8), classes=4)
    without = net(x, t)
    assert torch.equal(net(x, t, torch.full_like(y, -1)), without)
    mixed = net(x, t, torch.tensor([y[0], -1, -1]))
    torch.testing.assert_close(mixed[1:], without[1:], rtol=1e-12, atol=1e-12)
    assert (mixed[0] - without[0]).abs().max() > 1e-3


def test_only_classes_of_the_batch_learn():
    net, (x, t) = made((1, 8, 8), classes=4), inputs((1, 8, 8))
    net(x, t, torch.tensor([2, -1, 0])).square().sum().backward()
    assert net.label.weight.grad.abs().sum(1).gt(0).tolist() == [True, False, True, False]


def test_neighboring_times_differ_in_16_bits():
    net = made((1, 8, 8)).bfloat16()
    x = torch.ones(2, 1, 8, 8, dtype=torch.bfloat16)
    with torch.no_grad():
        first, second = net(x, torch.tensor([0.998, 0.999]))
    assert first.dtype == torch.bfloat16
    assert not torch.equal(first, second)


# training


@pytest.mark.parametrize("shape", SIDES.values(), ids=SIDES)
def test_gradients_reach_every_parameter_at_once(shape):
    net = made(shape, loud=False, classes=3)
    x, t = inputs(shape)
    F.mse_loss(net(x, t, torch.tensor([0, 1, 2])), x).backward()
    assert [name for name, value in net.named_parameters() if not value.grad.abs().sum() > 0] == []
    assert net(x, t).abs().max() < 0.05  # and it starts out with next to nothing


def stepped(checkpointing, dropout):
    """Return a loss, its gradients, and how many numbers were kept between them."""
    net = made((1, 8, 8), classes=3, dropout=dropout, checkpointing=checkpointing).float()
    x, t, y = inputs((1, 8, 8), classes=3)
    x, t, kept = x.float(), t.float(), []

    def keep(value):
        kept.append(value.numel())
        return value

    with keyed_rng(5), torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
        loss = F.mse_loss(net(x, t, y), x)
    loss.backward()
    return [loss.detach(), *(value.grad for value in net.parameters())], sum(kept)


@pytest.mark.parametrize("dropout", [0.0, 0.3], ids="dropout {}".format)
def test_checkpointing_changes_no_bit(dropout):
    (plain, much), (again, little) = stepped(False, dropout), stepped(True, dropout)
    assert all(torch.equal(one, other) for one, other in zip(plain, again, strict=True))
    assert little < 0.5 * much


def test_dropout_acts_in_training_alone():
    net, (x, t) = made((1, 8, 8), dropout=0.5), inputs((1, 8, 8))
    with keyed_rng(0):
        assert not torch.equal(net(x, t), net(x, t))
        assert torch.equal(net.eval()(x, t), net(x, t))


@pytest.mark.parametrize("shape", SIDES.values(), ids=SIDES)
def test_16_bits_are_close_to_32(shape):
    net, (x, t) = made(shape).float(), inputs(shape)
    x, t = x.float(), t.float()
    with torch.no_grad():
        exact = net(x, t)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rounded = net(x, t)
    assert (rounded - exact).square().mean() < 1e-3 * exact.square().mean()


def test_memory_layout_is_its_own():
    net, (x, t) = made(SIDES["cifar"]), inputs(SIDES["cifar"])
    other = net(x.contiguous(memory_format=torch.channels_last), t)
    torch.testing.assert_close(other, net(x, t), rtol=1e-12, atol=1e-12)
    assert all(value.is_contiguous() for value in net.state_dict().values())  # sharding takes no other


def test_it_beats_the_best_linear_denoiser():
    """At one noise level, x_t = a x_0 + s e, the best linear guess of e leaves the mean of a^2 v / (a^2 v + s^2)."""
    gold = Digits().gold().tensors()[0] * 2 - 1
    train, held = gold[:1200], gold[1200:]
    a = s = 0.5**0.5
    variances = torch.linalg.eigvalsh(torch.cov(gold.flatten(1).T.double())).clamp(min=0)
    linear = float((a**2 * variances / (a**2 * variances + s**2)).mean())
    with keyed_rng(0):
        net = UNet((1, 8, 8), width=32, multipliers=(1, 2), blocks=(1, 1))
        optimizer = torch.optim.Adam(net.parameters(), lr=2e-3)
        for _ in range(200):
            x = train[torch.randint(len(train), (64,))]
            noise = torch.randn_like(x)
            optimizer.zero_grad()
            F.mse_loss(net(a * x + s * noise, torch.full((64,), 0.5)), noise).backward()
            optimizer.step()
        noise = torch.randn_like(held)
        with torch.no_grad():
            loss = F.mse_loss(net(a * held + s * noise, torch.full((len(held),), 0.5)), noise)
    assert loss < 0.95 * linear


# bad input


@pytest.mark.parametrize(
    ("shape", "settings", "words"),
    [
        (
            (1, 28, 28),
            {"multipliers": (1, 2, 2, 2), "blocks": (1, 1, 1, 1)},
            "cannot be halved 3 times; give fewer multipliers, one per level, or pad the images to 32 x 32",
        ),
        ((1, 10, 8), {}, "shape = (1, 10, 8) cannot be halved 2 times"),
        ((2,), {}, "shape = (2,) is not that of an image (C, H, W)"),
        ((1, 8, 8), {"blocks": (1, 1)}, "as many blocks as multipliers"),
        ((1, 8, 8), {"multipliers": (), "blocks": ()}, "one number per level"),
        ((1, 8, 8), {"width": 0}, "width = 0"),
        ((1, 8, 8), {"width": 15}, "width = 15 must be even"),
        ((1, 8, 8), {"attention": -1}, "attention = -1"),
        ((1, 8, 8), {"dropout": 1.0}, "dropout = 1.0"),
        ((1, 8, 8), {"classes": 0}, "classes = 0"),
    ],
    ids=["halvings", "oblong", "vector", "blocks", "empty", "width", "odd", "attention", "dropout", "classes"],
)
def test_bad_arguments_are_named(shape, settings, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        UNet(shape, **{**SMALL, **settings})


def test_labels_need_classes():
    with pytest.raises(ValueError, match="classes = None; build it with classes"):
        made((1, 8, 8))(*inputs((1, 8, 8), classes=3))
