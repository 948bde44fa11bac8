"""GPT's sampler: token for token what the model says without a cache, and in the proportions it says."""

import itertools
import math

import pytest
import torch

from collapse.data import GaussianData, MarkovData
from collapse.models import GPT
from collapse.models.decoding import Decoding
from collapse.nn.attention import rotations
from collapse.nn.cache import KeyValueCache
from collapse.seeding import generator, keyed_rng

SIGMAS = 4.5
TINY = {"layers": 2, "heads": 2, "width": 16}


def made(*args, **kwargs):
    with keyed_rng(3):
        gpt = GPT(*args, **TINY | kwargs)
        with torch.no_grad():
            for parameter in gpt.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.3)
    return gpt.eval()


def uncached(gpt, uniform, decoding=None, prompts=None):
    """Sample by equation 3 of the class, every token from a pass over the whole text so far."""
    decoding = decoding or Decoding()
    begun = torch.full((uniform.shape[1], 1), gpt.vocabulary)
    text = begun if prompts is None else torch.cat([begun, prompts], 1)
    before = text.shape[1]
    with torch.no_grad():
        for u in uniform:
            law = decoding.apply(gpt.network(text)[0][:, -1].softmax(-1)).double()
            token = (law.cumsum(-1) <= u[:, None]).sum(-1)
            text = torch.cat([text, token[:, None].clamp(max=gpt.vocabulary - 1)], 1)
    return text[:, before:]


DECODINGS = {
    "neutral": {},
    "greedy": {"top_k": 1},
    "temperature": {"temperature": 0.5},
    "top_k": {"top_k": 3},
    "nucleus": {"top_p": 0.7},
    "all": {"temperature": 1.5, "top_k": 5, "top_p": 0.9},
}


@pytest.mark.parametrize("prompt", [0, 1, 5, 12, 13, 30], ids=lambda p: f"prompt_{p}")
@pytest.mark.parametrize("name", DECODINGS)
def test_cached_and_uncached_tokens_are_the_same(name, prompt):
    """A row has 12 tokens, so that longer texts fill the window and go beyond it."""
    gpt = made(11, 12, **DECODINGS[name])
    prompts = torch.randint(11, (40, prompt), generator=generator(5)) if prompt else None
    uniform = torch.rand(12, 40, dtype=torch.float64, generator=generator(9))
    expected = uncached(gpt, uniform, Decoding(**DECODINGS[name]), prompts)
    assert torch.equal(gpt.sample(40, generator(9), prompts).long(), expected)
    if name == "greedy":
        assert torch.equal(gpt.sample(40, generator(10), prompts).long(), expected)
    else:
        assert not torch.equal(gpt.sample(40, generator(10), prompts).long(), expected)


def test_cached_and_uncached_tokens_are_the_same_with_learned_positions():
    gpt, uniform = made(11, 12, positions="learned"), torch.rand(12, 40, dtype=torch.float64, generator=generator(9))
    assert torch.equal(gpt.sample(40, generator(9)).long(), uncached(gpt, uniform))


@pytest.mark.parametrize("prompt", [0, 45, 90])
def test_cached_and_uncached_tokens_are_the_same_while_the_memory_grows(prompt):
    """A window of 70 is two blocks of memory and a part of a third."""
    gpt, uniform = made(11, 70), torch.rand(70, 8, dtype=torch.float64, generator=generator(9))
    prompts = torch.randint(11, (8, prompt), generator=generator(5)) if prompt else None
    assert torch.equal(gpt.sample(8, generator(9), prompts).long(), uncached(gpt, uniform, prompts=prompts))


def test_in_bf16_autocast_the_same_law_is_sampled_rounded_and_the_weights_stay():
    gpt, before = made(11, 12), made(11, 12).state_dict()
    with torch.autocast("cpu", torch.bfloat16):
        rows = gpt.sample(200, generator(4))
        assert torch.is_autocast_enabled("cpu")
    wide = gpt.sample(200, generator(4))
    assert 0.8 < (rows == wide).float().mean() < 1
    assert all(torch.equal(value, before[name]) for name, value in gpt.state_dict().items())


def test_a_token_reaches_one_window_back_in_every_layer():
    gpt = made(11, 6, layers=1)
    text = torch.randint(11, (1, 20), generator=generator(1))
    other = text.clone()
    other[0, 7] = (text[0, 7] + 1) % 11
    with torch.no_grad():
        changed = (gpt.network(text)[0] != gpt.network(other)[0]).any(-1)[0]
    assert changed.nonzero()[:, 0].tolist() == list(range(7, 13))


@pytest.mark.parametrize("first", [1, 4, 9], ids=lambda first: f"first_{first}")
def test_cached_logits_are_those_of_the_whole_text(first):
    gpt = made(11, 6).double()
    text, cache = torch.randint(11, (3, 20), generator=generator(1)), KeyValueCache(6)
    with torch.no_grad():
        whole = gpt.network(text)[0]
        steps = [gpt.network(text[:, :first], cache)[0]]
        steps += [gpt.network(text[:, place : place + 1], cache)[0] for place in range(first, 20)]
    assert cache.length == 20
    torch.testing.assert_close(torch.cat(steps, 1), whole[:, first - 1 :], rtol=1e-6, atol=1e-6)


def test_rows_do_not_depend_on_the_rows_sampled_beside_them(monkeypatch):
    gpt = made(11, 12)
    whole = gpt.sample(64, generator(4))
    uniform = torch.rand(12, 64, dtype=torch.float64, generator=generator(4))
    rand = torch.rand
    for rows in ([0], [63], list(range(5, 30))):
        monkeypatch.setattr(torch, "rand", lambda *shape, rows=rows, **options: uniform[:, rows])
        assert torch.equal(gpt.sample(len(rows), generator(0)), whole[rows])
    monkeypatch.setattr(torch, "rand", rand)
    assert len(whole.unique(dim=0)) == 64


def test_one_draw_of_the_generator_makes_a_chunk():
    gpt, rng, other = made(11, 12), generator(4), generator(4)
    gpt.sample(8, rng)
    torch.rand(12, 8, dtype=torch.float64, generator=other)
    assert torch.equal(rng.get_state(), other.get_state())


@pytest.mark.parametrize("decoding", [{}, {"temperature": 0.6, "top_p": 0.9}], ids=["neutral", "sharpened"])
def test_samples_have_the_frequencies_of_log_prob(decoding):
    gpt, draws = made(3, 3, **decoding), 40_000
    rows = torch.tensor(list(itertools.product(range(3), repeat=3)))
    with torch.no_grad():
        logits = gpt.network(torch.cat([torch.full((27, 1), 3), rows[:, :-1]], 1))[0]
    laws = Decoding(**decoding).apply(logits.softmax(-1))
    expected = draws * laws.gather(2, rows[..., None]).double().prod(1)[:, 0]
    if not decoding:
        torch.testing.assert_close(expected, draws * gpt.log_prob(rows).detach().double().exp(), rtol=1e-5, atol=0)
    places = gpt.sample(draws, generator(6)).long() @ torch.tensor([9, 3, 1])
    counts = torch.bincount(places, minlength=27).double()
    possible = expected > 0
    assert counts[~possible].sum() == 0
    statistic = float(((counts - expected)[possible].square() / expected[possible]).sum())
    degrees = int(possible.sum()) - 1
    assert abs(statistic - degrees) < SIGMAS * math.sqrt(2 * degrees)


def test_autocast_samples_from_nearly_the_same_law():
    gpt = made(11, 12)
    exact = gpt.sample(200, generator(4))
    with torch.autocast("cpu", torch.bfloat16):
        narrow = gpt.sample(200, generator(4))
    same = float((exact[:, :4] == narrow[:, :4]).float().mean())
    assert 0.8 < same < 1  # tokens differ where a uniform number lies within the rounding of the law


def test_positions_turn_alike_whatever_the_default_type():
    expected = rotations(torch.arange(300), 8)
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.bfloat16)  # as under precision=bf16-true
        found = rotations(torch.arange(300), 8)
    finally:
        torch.set_default_dtype(before)
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)


def test_settings_name_what_is_not_the_models_own_law():
    assert made(11, 12).sampler_settings == {}
    assert made(11, 12, temperature=0.3, prompt=8).sampler_settings == {"temperature": 0.3, "prompt": 8}
    assert made(11, 12, top_k=4, document_start=True).sampler_settings == {"top_k": 4, "prompt": "document"}


class Text(MarkovData):
    """Rows with a document token and held-out text."""

    vocabulary, document = 2, 1

    def prompts(self, length):
        return torch.arange(3 * length).reshape(3, length) % 2


def test_beginnings_come_from_the_data():
    data = Text(length=16)
    assert made(2, 16).conditions(data) is None
    drawn = made(2, 16, prompt=5).conditions(data).draw(50, generator(0))
    assert {tuple(row) for row in drawn.tolist()} == {(0, 1, 0, 1, 0), (1, 0, 1, 0, 1)}
    assert made(2, 16, document_start=True).conditions(data).draw(3, generator(0)).tolist() == [[1]] * 3


@pytest.mark.parametrize(
    ("arguments", "data", "sentence"),
    [
        ({"prompt": 5}, GaussianData(), "prompt = 5, but GaussianData has no text"),
        ({"document_start": True}, GaussianData(), "GaussianData has no documents"),
        ({"vocabulary": 1}, Text(), "vocabulary = 1, but the rows of Text have 2 tokens"),
    ],
    ids=["prompt", "document", "vocabulary"],
)
def test_data_without_beginnings_are_refused(arguments, data, sentence):
    with pytest.raises(ValueError, match=sentence):
        made(**{"vocabulary": 2, "length": 16} | arguments).conditions(data)


@pytest.mark.parametrize(
    ("arguments", "y", "sentence"),
    [
        ({}, torch.zeros(4, dtype=torch.int64), r"shape \(4,\) holds no prompts for n = 4"),
        ({}, torch.zeros(3, 2, dtype=torch.int64), r"shape \(3, 2\) holds no prompts for n = 4"),
        ({"positions": "learned"}, torch.zeros(4, 2, dtype=torch.int64), "positions='learned' has no places"),
    ],
    ids=["labels", "rows", "learned"],
)
def test_other_conditions_are_refused(arguments, y, sentence):
    with pytest.raises(ValueError, match=sentence):
        made(11, 12, **arguments).sample(4, generator(0), y)


def test_a_broken_model_is_not_sampled():
    gpt = made(11, 12)
    with torch.no_grad():
        gpt.network.norm.weight[0] = math.nan
    with pytest.raises(FloatingPointError, match="NaN; lower the learning rate"):
        gpt.sample(4, generator(0))


@pytest.mark.slow
def test_a_compiled_network_trains_alike_and_samples_as_written():
    plain, compiled = made(11, 12), made(11, 12, compile=True)
    x = torch.randint(11, (4, 12), generator=generator(1))
    torch.testing.assert_close(compiled.log_prob(x), plain.log_prob(x), rtol=1e-4, atol=1e-4)
    assert list(compiled.state_dict()) == list(plain.state_dict())
    assert torch.equal(compiled.sample(20, generator(4)), plain.sample(20, generator(4)))
