"""Discrete data and the draws behind it against the laws they are drawn from."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from collapse.data.discrete import CategoricalData, MarkovData, ZipfData, cumulated, draw_each, draw_given
from collapse.seeding import generator

SIGMAS = 4.5
TRANSITION = [[0.9, 0.1, 0.0], [0.2, 0.5, 0.3], [0.0, 0.4, 0.6]]
STATIONARY = [8 / 15, 4 / 15, 3 / 15]  # detailed balance: 8 x 0.1 = 4 x 0.2 and 4 x 0.3 = 3 x 0.4


def pvalue(x, probabilities):
    """Probability of a fit as bad as that of the counts of x, categories without probability being absent."""
    p = np.asarray(probabilities)
    counts = np.bincount(np.asarray(x).ravel(), minlength=len(p))
    assert len(counts) == len(p)
    assert (counts[p == 0] == 0).all()
    return stats.chisquare(counts[p > 0], counts.sum() * p[p > 0]).pvalue if (p > 0).sum() > 1 else 1.0


def random_laws(rows, categories, seed=0):
    p = torch.rand(rows, categories, dtype=torch.float64, generator=generator(seed))
    p *= torch.rand(rows, categories, generator=generator(seed, 1)) < 0.7
    p[:, 0] += 0.1
    return p / p.sum(1, keepdim=True)


@pytest.mark.parametrize("categories", [1, 2, 3, 4, 5, 16, 17, 33])
def test_draws_have_their_row_of_the_table(categories):
    p = random_laws(4, categories)
    each = draw_each(cumulated(p), 20_000, generator(1))
    assert (each.shape, each.dtype) == ((20_000, 4), torch.int32)
    given = torch.randint(4, (100, 800), generator=generator(2))
    drawn = draw_given(cumulated(p), given, generator(3))
    assert drawn.shape == given.shape
    for row in range(4):
        assert pvalue(each[:, row], p[row]) > 1e-5
        assert pvalue(drawn[given == row], p[row]) > 1e-5


@pytest.mark.parametrize("categories", [1, 2, 7, 8, 9, 64, 100])
def test_bisection_equals_searching(categories):
    table = cumulated(random_laws(5, categories))
    given = torch.randint(5, (3000,), generator=generator(0))
    uniform = torch.rand(3000, dtype=torch.float64, generator=generator(1))
    wanted = [int(torch.searchsorted(table[row], value, right=True)) for row, value in zip(given, uniform, strict=True)]
    assert draw_given(table, given, generator(1)).tolist() == wanted


def test_the_table_ends_with_the_last_living_category():
    assert cumulated(torch.tensor([[0.25, 0.75, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])).tolist() == [
        [0.25, math.inf, math.inf],
        [0, 0, math.inf],
        [math.inf] * 3,
    ]
    below = cumulated(0.5 * torch.tensor([[0.5, 0.5, 0.0]]).double())
    assert draw_each(below, 1000, generator(0)).unique().tolist() == [0, 1]
    assert draw_given(below, torch.zeros(1000).long(), generator(0)).unique().tolist() == [0, 1]
    assert draw_given(below, torch.zeros(0, 3).long(), generator(0)).shape == (0, 3)


def test_categories_have_their_frequencies():
    data = CategoricalData(50_000, [0.5, 0.0, 0.3, 0.2])
    x = data.gold().x
    assert (x.shape, x.dtype) == ((50_000,), torch.int32)
    assert pvalue(x, [0.5, 0.0, 0.3, 0.2]) > 1e-5
    assert data.gold().y is None
    assert data.batch_size is None


def test_zipf_ranks_have_their_frequencies():
    data = ZipfData(50_000, 30, exponent=1.2)
    p = np.arange(1, 31) ** -1.2 / (np.arange(1, 31) ** -1.2).sum()
    np.testing.assert_allclose(data.probabilities, p, rtol=1e-12)
    assert pvalue(data.gold().x, p) > 1e-5


def test_replicates_are_independent_experiments():
    x = CategoricalData(20, [0.7, 0.3], replicates=5000).gold().x
    assert x.shape == (20, 5000)
    ones = x.double().sum(0)  # binomial
    assert abs(float(ones.mean()) - 6) < SIGMAS * (20 * 0.21 / 5000) ** 0.5
    assert abs(float(ones.var()) / (20 * 0.21) - 1) < SIGMAS * (2 / 5000) ** 0.5
    assert abs(float(torch.corrcoef(torch.stack([ones[:-1], ones[1:]]))[0, 1])) < SIGMAS / 5000**0.5


@pytest.mark.parametrize("replicates", [None, 1, 3])
@pytest.mark.parametrize("initial", [None, [0.2, 0.3, 0.5]])
def test_markov_rows_have_the_laws_of_the_chain(replicates, initial):
    data = MarkovData(40_000, TRANSITION, initial=initial, length=4, replicates=replicates)
    x = data.gold().x
    assert x.shape == ((40_000, 4) if replicates is None else (40_000, replicates, 4))
    assert x.dtype == torch.int32
    start, step = np.array(STATIONARY if initial is None else initial), np.array(TRANSITION)
    np.testing.assert_allclose(data.initial, start, rtol=1e-12)
    for place in range(4):
        assert pvalue(x[..., place], start @ np.linalg.matrix_power(step, place)) > 1e-5
    pairs = (start @ step @ step)[:, None] * step
    assert pvalue(3 * x[..., 2] + x[..., 3], pairs.ravel()) > 1e-5
    triples = start[:, None, None] * step[:, :, None] * step
    assert pvalue(9 * x[..., 0] + 3 * x[..., 1] + x[..., 2], triples.ravel()) > 1e-5


@pytest.mark.parametrize("transition", [[[1.0]], [[0.0, 1.0], [1.0, 0.0]], [[1.0, 0.0], [0.5, 0.5]], TRANSITION])
def test_the_stationary_law_is_left_as_it_is(transition):
    law = MarkovData(1, transition).initial
    torch.testing.assert_close(law @ torch.tensor(transition, dtype=torch.float64), law, rtol=1e-12, atol=1e-15)
    assert float(law.sum()) == pytest.approx(1, rel=1e-12)


@pytest.mark.parametrize("data", [CategoricalData, ZipfData, MarkovData])
def test_rows_are_keyed_by_seed_and_drawn_once(data):
    one = data(rows=50, reference_rows=60)
    state = torch.get_rng_state()
    gold, reference = one.gold(), one.reference()
    assert torch.equal(torch.get_rng_state(), state)
    assert (len(gold), len(reference)) == (50, 60)
    assert one.gold() is gold
    assert torch.equal(one.twin().gold().x, gold.x)
    assert not torch.equal(data(rows=50, seed=1).gold().x, gold.x)
    assert not torch.equal(reference.x[:50], gold.x)


def test_the_draws_are_pinned():
    assert CategoricalData().gold().x[:12].tolist() == [1, 0, 1, 1, 0, 0, 0, 0, 0, 2, 2, 0]
    assert MarkovData().gold().x[:8].sum(1).tolist() == [0, 5, 7, 1, 4, 9, 0, 0]


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: CategoricalData(0), "rows = 0"),
        (lambda: CategoricalData(replicates=0), "replicates = 0"),
        (lambda: CategoricalData(5, [0.5, 0.6]), "probabilities must have a sum of 1, got 1.1"),
        (lambda: CategoricalData(5, [1.5, -0.5]), "probabilities must be non-negative, got -0.5"),
        (lambda: CategoricalData(5, [0.5, math.nan]), "probabilities must be non-negative, got nan"),
        (lambda: CategoricalData(5, [0.5, math.inf]), "probabilities must have a sum of 1, got inf"),
        (lambda: CategoricalData(5, []), r"probabilities must be probabilities with 1 axes, got the shape \(0,\)"),
        (lambda: CategoricalData(5, [[1.0]]), r"with 1 axes, got the shape \(1, 1\)"),
        (lambda: ZipfData(5, 0), "categories must be at least 1, got 0"),
        (lambda: ZipfData(5, exponent=0.0), "exponent must be positive and finite, got 0.0"),
        (lambda: MarkovData(length=0), "length = 0"),
        (lambda: MarkovData(replicates=0), "replicates = 0"),
        (lambda: MarkovData(5, [[0.5, 0.5]]), r"transition must be a square matrix, got \(1, 2\)"),
        (lambda: MarkovData(5, [[0.5, 0.5], [0.5, 0.4]]), "transition must have a sum of 1, got 0.9"),
        (lambda: MarkovData(5, initial=[1.0]), "initial has 1 probabilities for 2 tokens"),
        (lambda: MarkovData(5, [[1.0, 0.0], [0.0, 1.0]]), "transition has more than one stationary law; give initial"),
    ],
)
def test_a_wrong_argument_is_a_sentence(make, sentence):
    with pytest.raises(ValueError, match=sentence):
        make()
