"""A mixture draws what it says: counts exactly, chances in the long run."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.stats import binom, chisquare, kstest

from collapse.data import Mixture, Origin
from collapse.data.mixture import NEVER
from collapse.seeding import generator

SIGMAS = 4.5


def mixture(weights, size=None, real=0, **settings):
    """The first ``real`` rows are real; generations arrive ten rows at a time."""
    weights = torch.as_tensor(weights, dtype=torch.float64)
    origin = torch.full((len(weights),), int(Origin.SYNTHETIC), dtype=torch.uint8)
    origin[:real] = Origin.REAL
    arrival = torch.arange(len(weights)) // 10
    return Mixture(weights, len(weights) if size is None else size, origin, arrival, **settings)


def counts(rows, total):
    return torch.bincount(rows.flatten(), minlength=total)


weights = st.lists(st.one_of(st.just(0.0), st.floats(1e-3, 1e3), st.just(1.0)), min_size=1, max_size=60)


# --- exact counts -----------------------------------------------------------------------------------------------------


@settings(max_examples=300, deadline=None)
@given(weights, st.integers(1, 200), st.integers(0, 9))
def test_each_row_comes_as_often_as_expected_to_the_rounding_of_one(weights, size, seed):
    assume(sum(weights) > 0)
    rows = mixture(weights, size).draw(generator(seed))
    assert rows.shape == (size,)
    assert rows.dtype == torch.int64
    share = torch.tensor(weights, dtype=torch.float64)
    expected = size * share / share.sum()
    found = counts(rows, len(weights)).double()
    assert (found >= (expected - 1e-6).floor()).all()
    assert (found <= (expected + 1e-6).ceil()).all()


@settings(max_examples=300, deadline=None)
@given(
    st.integers(1, 30),
    st.integers(1, 40),
    st.integers(1, 120),
    st.floats(0, 1),
    st.booleans(),
    st.integers(0, 9),
)
def test_a_real_fraction_is_a_quota(real, synthetic, size, alpha, replacement, seed):
    base = mixture(torch.rand(real + synthetic, generator=generator(seed)) + 0.1, real=real)
    drawn = base.with_real_fraction(alpha).resized(size, replacement=replacement)
    rows, quota = drawn.draw(generator(seed, 1)), round(alpha * size)
    assert drawn.real_fraction == alpha
    assert len(rows) == size
    found = counts(rows, real + synthetic).double()
    assert int(found[:real].sum()) == quota
    for part, number in ((slice(None, real), quota), (slice(real, None), size - quota)):
        expected = number * base.weights[part] / base.weights[part].sum()
        assert replacement or ((found[part] - expected).abs() < 1 + 1e-6).all()


@pytest.mark.parametrize("replicates", [None, 7])
def test_the_quota_holds_in_every_replicate(replicates):
    drawn = mixture(torch.ones(30), real=10).with_real_fraction(0.37).resized(20)
    rows = drawn.draw(generator(0), replicates)
    columns = rows[:, None] if replicates is None else rows
    assert ((columns < 10).sum(0) == round(0.37 * 20)).all()


# --- chances ----------------------------------------------------------------------------------------------------------


def test_a_uniform_draw_of_everything_is_every_row_once():
    for size in (1, 2, 17, 100):
        rows = mixture(torch.full((size,), 0.3), size).draw(generator(size))
        assert sorted(rows.tolist()) == list(range(size))


@pytest.mark.parametrize("replicates", [False, True])
def test_a_uniform_draw_of_some_is_a_simple_random_sample(replicates):
    """Rows are in with the same chance, and so are *pairs*: along a fixed order they would not be."""
    total, size, draws = 8, 3, 20_000 if replicates else 4000
    drawn = mixture(torch.ones(total), size)
    if replicates:
        rows = drawn.draw(generator(1), replicates=draws)
    else:
        rows = torch.stack([drawn.draw(generator(1, turn)) for turn in range(draws)], 1)
    assert all(len(set(column)) == size for column in rows.T[:500].tolist())
    inside = torch.zeros(draws, total, dtype=torch.bool).scatter_(1, rows.T, True)
    single = size / total
    deviation = (inside.double().mean(0) - single).abs()
    assert deviation.max() < SIGMAS * math.sqrt(single * (1 - single) / draws)
    pair = size * (size - 1) / (total * (total - 1))
    joint = inside.double().T @ inside.double() / draws
    off_diagonal = joint[~torch.eye(total, dtype=torch.bool)]
    assert (off_diagonal - pair).abs().max() < SIGMAS * math.sqrt(pair * (1 - pair) / draws)


@pytest.mark.parametrize("replicates", [False, True])
def test_unequal_weights_are_inclusion_probabilities(replicates):
    shares, size, draws = torch.tensor([0.1, 0.4, 1.0, 1.6, 0.9, 3.5, 0.0]), 6, 4000
    drawn = mixture(shares, size)
    if replicates:
        columns = drawn.draw(generator(5), replicates=draws).T
    else:
        columns = torch.stack([drawn.draw(generator(5, turn)) for turn in range(draws)])
    mean = torch.stack([counts(column, 7) for column in columns]).double().mean(0)
    expected = size * shares.double() / shares.sum()
    chance = expected - expected.floor()
    bound = SIGMAS * (chance * (1 - chance) / draws).sqrt() + 1e-12
    assert ((mean - expected).abs() <= bound).all()


def test_with_replacement_rows_are_independent_draws_from_the_weights():
    shares, draws = torch.tensor([0.0, 1.0, 2.0, 3.0, 0.0, 4.0, 0.0]), 40_000
    rows = mixture(shares, draws, replacement=True).draw(generator(2))
    expected = draws * shares.double() / 10
    found = counts(rows, 7).double()
    assert (found[expected == 0] == 0).all()
    kept = expected > 0
    chi_square = ((found - expected)[kept].square() / expected[kept]).sum()
    assert chi_square < 3 + SIGMAS * math.sqrt(2 * 3)
    repeats = (rows[1:] == rows[:-1]).double().mean()
    chance = 0.1**2 + 0.2**2 + 0.3**2 + 0.4**2
    assert abs(repeats - chance) < SIGMAS * math.sqrt(chance * (1 - chance) / draws)


@pytest.mark.parametrize(("total", "size"), [(8, 2), (16, 4), (9, 2), (4, 1), (15, 4), (7, 5)])
def test_all_subsets_of_a_replicated_draw_are_equally_likely(total, size):
    """On both sides of a quarter of the rows, where the way to draw them changes."""
    draws = 40_000
    rows = mixture(torch.ones(total), size).draw(generator(total), replicates=draws)
    assert rows.shape == (size, draws)
    inside = torch.zeros(draws, total, dtype=torch.int64).scatter_(1, rows.T, 1)
    assert (inside.sum(1) == size).all(), "no row comes twice"
    found = torch.bincount(inside @ (2 ** torch.arange(total)), minlength=2**total)
    subsets = [sum(2**place for place in subset) for subset in itertools.combinations(range(total), size)]
    assert int(found[subsets].sum()) == draws
    assert chisquare(found[subsets]).pvalue > 1e-4


def test_a_small_part_of_a_large_pool_is_drawn_without_ordering_it():
    rows = mixture(torch.ones(200_000), 5).draw(generator(0), replicates=20_000)  # an order would be 32 GB
    assert rows.shape == (5, 20_000)
    assert kstest(rows.flatten() / 200_000, "uniform").pvalue > 1e-4


# --- coins ------------------------------------------------------------------------------------------------------------


def coins(size=20, alpha=0.3, real=10, total=40):
    return mixture(torch.ones(total), size, real=real).with_real_fraction(alpha, coins=True)


@pytest.mark.parametrize("replicates", [False, True])
def test_the_number_of_heads_is_binomial(replicates):
    size, alpha, draws = 20, 0.3, 20_000 if replicates else 1000
    if replicates:
        rows = coins(size, alpha).draw(generator(1), draws)
    else:
        rows = torch.stack([coins(size, alpha).draw(generator(1, turn)) for turn in range(draws)], 1)
    assert rows.shape == (size, draws)
    found = torch.bincount((rows < 10).sum(0), minlength=size + 1).numpy()
    wanted = draws * binom(size, alpha).pmf(np.arange(size + 1))
    often = wanted > 5
    assert chisquare([*found[often], found[~often].sum()], [*wanted[often], wanted[~often].sum()]).pvalue > 1e-4


def test_coins_are_independent_of_one_another_and_of_the_replicate():
    real = (coins(90, 0.5, real=90, total=180).draw(generator(2), 90) < 90).double()
    for throws in (real, real.T):
        deviation = torch.corrcoef(throws) - torch.eye(90)
        assert deviation.abs().max() < 6 / math.sqrt(90)
        assert abs(float(deviation.sum())) < SIGMAS * math.sqrt(2 * 90)  # 90^2 / 2 pairs, each counted twice


def test_a_coin_chooses_between_two_rows_and_no_row_comes_twice():
    drawn = coins(10, 0.5, real=10, total=20).draw(generator(3), 50)
    assert {tuple(sorted(set(row))) for row in drawn.tolist()} == {(place, place + 10) for place in range(10)}
    assert all(len(set(column)) == 10 for column in drawn.T.tolist())


@pytest.mark.parametrize("alpha", [0.0, 1.0])
@pytest.mark.parametrize("replicates", [None, 3])
def test_a_coin_with_one_side(alpha, replicates):
    drawn = coins(10, alpha).draw(generator(4), replicates)
    assert ((drawn < 10) == bool(alpha)).all()


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_a_coin_with_one_side_needs_no_rows_of_the_other(alpha):
    only = mixture(torch.ones(6), real=6 if alpha else 0).with_real_fraction(alpha, coins=True)
    assert sorted(only.draw(generator(0)).tolist()) == list(range(6))


def test_coins_report_the_share_they_have_in_expectation():
    assert coins(alpha=0.3).real_fraction == 0.3
    assert coins(alpha=0.25, real=10, total=40).effective_size == pytest.approx(40)


# --- draws and generators ---------------------------------------------------------------------------------------------


def test_a_draw_depends_on_the_generator_alone():
    drawn = mixture(torch.rand(40, generator=generator(0)), 13)
    assert torch.equal(drawn.draw(generator(1)), drawn.draw(generator(1)))
    assert not torch.equal(drawn.draw(generator(1)), drawn.draw(generator(2)))


# --- replicates -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("replacement", [False, True])
def test_replicates_are_independent(replacement):
    total, size, replicates = 6, 3, 30_000
    rows = mixture(torch.ones(total), replacement=replacement).resized(size, replacement=replacement)
    drawn = rows.draw(generator(3), replicates)
    assert drawn.shape == (size, replicates)
    inside = torch.stack([counts(column, total) for column in drawn.T[:6000]]).clamp(max=1).double()
    # Whether row 0 is in replicate 2i says nothing about replicate 2i + 1.
    even, odd = inside[::2, 0], inside[1::2, 0]
    correlation = torch.corrcoef(torch.stack([even, odd]))[0, 1]
    assert abs(correlation) < SIGMAS / math.sqrt(len(even))
    assert len({tuple(sorted(column)) for column in drawn.T[:400].tolist()}) > 15


def test_a_draw_that_leaves_nothing_to_chance_is_shared_by_the_replicates():
    assert mixture(torch.ones(5)).draw(generator(0), replicates=9).tolist() == [0, 1, 2, 3, 4]
    assert mixture(torch.ones(5)).resized(10).draw(generator(0), replicates=9).shape == (10,)


def test_whole_copies_come_to_every_replicate_and_chance_decides_the_rest():
    drawn = mixture([2.0, 2.0, 1.0, 1.0], 7).draw(generator(0), replicates=200)
    found = torch.stack([counts(column, 4) for column in drawn.T])
    assert set(found[:, :2].flatten().tolist()) <= {2, 3}
    assert set(found[:, 2:].flatten().tolist()) <= {1, 2}
    assert len({tuple(row) for row in found.tolist()}) > 1


# --- how mixtures are made from one another ---------------------------------------------------------------------------


def test_each_method_changes_what_it_says_and_leaves_the_receiver_alone():
    base = mixture(torch.arange(1.0, 31.0), 12, real=10)
    before = (base.weights.clone(), base.size, base.real_share, base.arrival.clone())
    keep = torch.arange(30) % 2 == 0
    over = base.over(keep)
    assert (over.size, over.weights.tolist()) == (15, keep.double().tolist())
    kept = base.where(keep)
    assert (kept.size, kept.weights.tolist()) == (12, (base.weights * keep).tolist())
    assert base.where(torch.arange(30) < 5).size == 5
    assert torch.equal(base.reweighted(keep.double() * 2).weights, base.weights * keep * 2)
    real = base.with_real(torch.full((30,), 7.0)).weights
    assert real[:10].tolist() == [7.0] * 10
    assert torch.equal(real[10:], base.weights[10:])
    assert (base.resized(99).size, base.resized(99, replacement=True).replacement) == (99, True)
    assert torch.equal(base.arriving(base.arrival + 1).arrival, base.arrival + 1)
    assert torch.equal(base.weights, before[0])
    assert (base.size, base.real_share) == before[1:3]
    assert torch.equal(base.arrival, before[3])


def test_real_fraction_and_effective_size_are_those_of_the_measure():
    base = mixture([1.0, 1.0, 2.0, 4.0], real=2)
    assert base.real_fraction == 0.25
    assert base.effective_size == pytest.approx(64 / 22)
    assert mixture(torch.ones(9)).effective_size == pytest.approx(9)
    # Half of the mass on two equal rows, half on two in proportion 1 : 2.
    shares = torch.tensor([0.25, 0.25, 1 / 6, 1 / 3])
    assert base.with_real_fraction(0.5).effective_size == pytest.approx(float(1 / shares.square().sum()))
    assert base.with_real_fraction(0.0).effective_size == pytest.approx(36 / 20)


# --- errors -----------------------------------------------------------------------------------------------------------


def test_an_empty_mixture_cannot_be_drawn():
    for empty in (mixture(torch.zeros(4)), mixture(torch.ones(4), 0), mixture(torch.ones(4)).over(torch.zeros(4) > 0)):
        with pytest.raises(ValueError, match="the mixture is empty"):
            empty.draw(generator(0))


def test_a_part_without_mass_is_named():
    quota = mixture(torch.ones(20), real=10).with_real_fraction(0.5)
    with pytest.raises(ValueError, match="real"):
        quota.where(~quota.is_real).draw(generator(0))
    with pytest.raises(ValueError, match="synthetic"):
        quota.where(quota.is_real).draw(generator(0))


@pytest.mark.parametrize("real", [0, 4])
def test_a_fraction_of_rows_there_are_none_of_is_named(real):
    missing = "synthetic" if real else "real"
    with pytest.raises(ValueError, match=f"real fraction of 0.5 needs {missing} rows"):
        mixture(torch.ones(4), real=real).with_real_fraction(0.5)
    assert mixture(torch.ones(4), real=real).with_real_fraction(real / 4).draw(generator(0)).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("alpha", [-0.01, 1.01, math.nan])
def test_a_fraction_outside_of_its_range_is_refused(alpha):
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\]"):
        mixture(torch.ones(4), real=2).with_real_fraction(alpha)


@pytest.mark.parametrize("bad", [-1.0, math.inf, math.nan])
def test_a_factor_must_be_finite_and_not_negative(bad):
    factor = torch.ones(4)
    factor[2] = bad
    with pytest.raises(ValueError, match="finite and non-negative"):
        mixture(torch.ones(4)).reweighted(factor)


def test_a_size_below_one_is_refused():
    with pytest.raises(ValueError, match="size=0"):
        mixture(torch.ones(4)).resized(0)


def test_never_is_after_every_generation():
    assert NEVER > 10**12
    held = mixture(torch.ones(4)).arriving(torch.tensor([0, 1, NEVER, NEVER]))
    assert (held.arrival <= 10**12).tolist() == [True, True, False, False]
