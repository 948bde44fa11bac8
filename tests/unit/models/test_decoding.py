"""Decoding against hand-computed laws and brute force."""

import math

import pytest
import torch

from collapse.models.decoding import Decoding, nucleus, temperature, top_k
from collapse.seeding import generator


def law(*values):
    return torch.tensor(values, dtype=torch.float64)


def random_laws(shape, seed=0, zeros=False):
    p = torch.rand(*shape, dtype=torch.float64, generator=generator(seed))
    if zeros:
        p = p * (torch.rand(*shape, generator=generator(seed, 1)) < 0.6)
        p[..., 0] += 0.01
    return p / p.sum(-1, keepdim=True)


def applied(function, p, argument, times):
    for _ in range(times):
        p = function(p, argument)
    return p


def test_temperature_row():  # D3
    p = applied(temperature, law(0.5, 0.3, 0.2), 0.8, 4)
    assert p.tolist() == pytest.approx([0.7173077665, 0.2061021913, 0.0765900422], rel=1e-9)
    assert float(-(p * p.log()).sum()) == pytest.approx(0.7606219346, rel=1e-9)
    torch.testing.assert_close(p, temperature(law(0.5, 0.3, 0.2), 0.8**4), rtol=1e-12, atol=0)


def test_nucleus_row():  # D3
    p = law(0.35, 0.25, 0.2, 0.12, 0.08)
    supports = [int((applied(nucleus, p, 0.7, times) > 0).sum()) for times in range(1, 5)]
    assert supports == [3, 2, 2, 2]
    assert float(applied(nucleus, p, 0.7, 4).max()) == pytest.approx(0.35 / 0.6, rel=1e-12)


@pytest.mark.parametrize("tau", [0.05, 0.5, 2.0, 100.0])
def test_temperature_is_a_power(tau):
    p = random_laws((4, 7))
    powers = p ** (1 / tau)
    torch.testing.assert_close(temperature(p, tau), powers / powers.sum(-1, keepdim=True), rtol=1e-12, atol=0)


@pytest.mark.parametrize("tau", [1e-300, 1e-3, 3.0, 1e300])
def test_temperature_revives_no_category_and_never_overflows(tau):
    q = temperature(law(0.0, 0.6, 0.0, 0.4), tau)
    assert q[[0, 2]].tolist() == [0, 0]
    assert float(q.sum()) == pytest.approx(1)
    assert float(q[1]) == pytest.approx(1 if tau < 1 else 0.6 ** (1 / tau) / (0.6 ** (1 / tau) + 0.4 ** (1 / tau)))


@pytest.mark.parametrize("k", [1, 2, 3, 6])
def test_top_k_keeps_the_likeliest(k):
    p = random_laws((50, 6))
    q = top_k(p, k)
    for before, after in zip(p.tolist(), q.tolist(), strict=True):
        kept = sorted(range(6), key=lambda i: -before[i])[:k]
        mass = sum(before[i] for i in kept)
        assert after == pytest.approx([before[i] / mass if i in kept else 0 for i in range(6)], rel=1e-12)
    torch.testing.assert_close(top_k(q, k), q, rtol=1e-15, atol=0)  # idempotent


@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize("mass", [1e-20, 0.3, 0.7, 0.95])
def test_nucleus_is_the_shortest_prefix(mass, zeros):
    p = random_laws((200, 8), zeros=zeros)
    for before, after in zip(p.tolist(), nucleus(p, mass).tolist(), strict=True):
        order, total, kept = sorted(range(8), key=lambda i: -before[i]), 0.0, []
        while total < mass:
            kept.append(order[len(kept)])
            total += before[kept[-1]]
        assert after == pytest.approx([before[i] / total if i in kept else 0 for i in range(8)], rel=1e-9)


@pytest.mark.parametrize(
    ("function", "argument", "kept"),
    [
        (top_k, 2, [1, 2]),
        (top_k, 3, [1, 2, 3]),
        (nucleus, 0.5, [1, 2]),
        (nucleus, 0.51, [1, 2, 3]),
    ],
)
def test_of_equal_ones_the_lower_index_stays(function, argument, kept):
    q = function(law(0.0, 0.25, 0.25, 0.25, 0.25), argument)
    assert q.nonzero().flatten().tolist() == kept


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("tenths", range(1, 10))
def test_a_sum_of_frequencies_reaches_the_mass_that_it_is(tenths, dtype):
    q = nucleus(torch.full((10,), 0.1, dtype=dtype), tenths / 10)
    assert int((q > 0).sum()) == tenths
    assert q.dtype == dtype


def test_neutral_decoding_is_the_law_itself():
    p = random_laws((3, 5), zeros=True)
    assert Decoding().apply(p) is p
    assert Decoding(top_k=5).apply(p) is p
    assert Decoding().settings == {}


def test_settings_name_what_is_not_neutral():
    assert Decoding(0.8, 3, 0.9).settings == {"temperature": 0.8, "top_k": 3, "top_p": 0.9}
    assert Decoding(top_p=0.9).settings == {"top_p": 0.9}
    assert Decoding(0.8, 3, 0.9) == Decoding(0.8, 3, 0.9)


def test_the_order_is_temperature_then_top_k_then_nucleus():
    p = law(0.4, 0.3, 0.2, 0.1)
    wanted = nucleus(top_k(temperature(p, 0.5), 3), 0.85)
    assert Decoding(0.5, 3, 0.85).apply(p).tolist() == wanted.tolist()
    assert wanted.tolist() == pytest.approx([0.64, 0.36, 0, 0])  # squares 16 : 9 : 4, of which 25 / 29 reach 0.85
    others = [temperature(nucleus(top_k(p, 3), 0.85), 0.5), nucleus(temperature(p, 0.5), 0.85)]
    assert int((others[0] > 0).sum()) == 3  # before the temperature two have 0.78 of the mass of three
    assert int((others[1] > 0).sum()) == 3  # of four they have 25 / 30


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"temperature": 0.0}, "temperature=0.0 must be above 0"),
        ({"temperature": math.inf}, "temperature=inf must be above 0 and finite"),
        ({"temperature": math.nan}, "temperature=nan"),
        ({"top_k": 0}, "top_k=0 must be at least 1"),
        ({"top_p": 0.0}, r"top_p=0.0 must lie in \(0, 1\]"),
        ({"top_p": 1.1}, "top_p=1.1"),
    ],
)
def test_a_wrong_setting_is_a_sentence(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        Decoding(**arguments)
