"""Guaranteed rows have their places in every draw, and everybody else's shares change by one factor."""

import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.stats import binom, chisquare

from collapse.data import Mixture, Origin
from collapse.data.guarantee import GuaranteedRows, raised, realized_guarantee
from collapse.data.mixture import NEVER
from collapse.seeding import generator

SIGMAS = 4.5


def mixture(weights, size, *, copies, real=0, **settings):
    """The first ``real`` rows are real."""
    weights = torch.as_tensor(weights, dtype=torch.float64)
    origin = torch.where(torch.arange(len(weights)) < real, int(Origin.REAL), int(Origin.SYNTHETIC)).to(torch.uint8)
    made = Mixture(weights, size, origin, torch.zeros(len(weights), dtype=torch.int64), **settings)
    return made.guaranteeing(torch.as_tensor(copies))


def columns_of(rows):
    return rows[:, None] if rows.ndim == 1 else rows


def counts(rows, total):
    """(N, R) how often each row came."""
    return torch.stack([torch.bincount(column, minlength=total) for column in columns_of(rows).T], 1)


rows_with_floors = st.lists(
    st.tuples(st.one_of(st.just(0.0), st.just(1.0), st.floats(1e-3, 1e3)), st.sampled_from([0, 0, 0, 1, 1, 2, 5])),
    min_size=1,
    max_size=30,
)


# --- the measure ------------------------------------------------------------------------------------------------------


@settings(max_examples=500, deadline=None)
@given(rows_with_floors, st.integers(0, 60))
def test_counts_are_the_floor_or_one_multiple_of_the_weight(table, spare):
    """Which is what says that no other measure with these floors is closer to the weights."""
    weights, floor = torch.tensor([w for w, _ in table], dtype=torch.float64), torch.tensor([f for _, f in table])
    assume(float(weights.sum()) > 0)
    total = int(floor.sum()) + spare
    assume(total > 0)
    found = raised(weights, floor, total)
    floor, found = floor.double(), found * (total / found.sum())  # found: the weights themselves, where they are enough
    assert float(found.sum()) == pytest.approx(total, rel=1e-12)
    assert (found >= floor - 1e-8).all()
    above = (found > floor * (1 + 1e-9)) & (weights > 0)
    scales = found[above] / weights[above]
    if above.any():
        np.testing.assert_allclose(scales, float(scales[0]), rtol=1e-7)
        assert (float(scales[0]) * weights[~above] <= floor[~above] * (1 + 1e-7) + 1e-9).all()
    np.testing.assert_allclose(found[weights == 0], floor[weights == 0], rtol=1e-12)  # no weight, and no more


def test_counts_by_hand():
    # 10 places, 2 each for two rows: of the 6 left, lambda = 6/4 gives the others 1.5, 1.5, 3.
    found = raised(torch.tensor([0.0, 1.0, 1.0, 1.0, 2.0]).double(), torch.tensor([2, 2, 0, 0, 0]), 10)
    assert found.tolist() == [2, 2, 1.5, 1.5, 3]
    # A third one with floor 1 gets 1.5 like its equals, not 1.
    found = raised(torch.tensor([0.0, 1.0, 1.0, 1.0, 2.0]).double(), torch.tensor([2, 2, 1, 0, 0]), 10)
    assert found.tolist() == [2, 2, 1.5, 1.5, 3]


@pytest.mark.parametrize("weights", [[1.0, 1.0, 1.0, 1.0], [0.3, 0.7, 0.9, 0.1]])
def test_floors_that_are_no_help_change_no_bit(weights):
    weights = torch.tensor(weights, dtype=torch.float64)
    copies = (8 * weights / weights.sum()).floor().long()
    assert raised(weights, copies, 8) is weights
    plain, promised = (mixture(weights, 8, copies=given) for given in (torch.zeros(4, dtype=torch.int64), copies))
    assert plain.guaranteed is None
    assert torch.equal(promised.draw(generator(1)), plain.draw(generator(1)))
    assert (promised.real_fraction, promised.effective_size) == (plain.real_fraction, plain.effective_size)


def test_the_fraction_and_the_effective_size_are_those_of_the_counts():
    replaced = mixture([0, 0, 1, 1, 1, 1], 4, real=2, copies=[1, 1, 0, 0, 0, 0])  # counts 1, 1, and 4 times 1/2
    assert replaced.real_fraction == 0.5
    assert replaced.effective_size == pytest.approx(16 / 3)
    anchored = replaced.with_real(torch.ones(6)).with_real_fraction(0.75)  # 1.5, 1.5, and 4 times 1/4
    assert anchored.effective_size == pytest.approx(16 / (2 * 1.5**2 + 4 * 0.25**2))


# --- draws ------------------------------------------------------------------------------------------------------------


@settings(max_examples=400, deadline=None)
@given(
    rows_with_floors,
    st.integers(0, 30),
    st.integers(0, 30),
    st.one_of(st.none(), st.floats(0, 1)),
    st.booleans(),
    st.booleans(),
    st.sampled_from([None, 1, 3]),
)
def test_every_draw_keeps_the_guarantee(table, real, spare, alpha, coins, replacement, replicates):
    weights, floor = torch.tensor([w for w, _ in table], dtype=torch.float64), torch.tensor([f for _, f in table])
    real = min(real, len(table))
    assume(float(weights.sum()) > 0)
    size = int(floor.sum()) + spare
    assume(size > 0)
    drawn = mixture(weights, size, real=real, copies=floor, replacement=replacement)
    if alpha is not None:
        sides = [float(part.sum()) > 0 for part in (weights[:real], weights[real:])]
        assume(all(sides))
        drawn = drawn.with_real_fraction(alpha, coins=coins)
    places = [size] if alpha is None else [alpha * size if coins else round(alpha * size)]
    needs = [int(floor.sum())] if alpha is None else [int(floor[:real].sum()), int(floor[real:].sum())]
    places = places if alpha is None else [places[0], size - places[0]]
    if any(need > place + 1e-9 for need, place in zip(needs, places, strict=True)):
        with pytest.raises(ValueError, match=r"places are guaranteed .*; guarantee fewer rows, or let it have more"):
            drawn.draw(generator(0), replicates)
        return
    rows = drawn.draw(generator(0), replicates)
    assert len(rows) == size
    found = counts(rows, len(table))
    assert (found >= floor[:, None]).all()
    if alpha is not None and not coins:
        assert (found[:real].sum(0) == places[0]).all()
    if not replacement and not (alpha is not None and coins):
        expected = drawn.raised().weights
        for part, place in zip(([...], [slice(real), slice(real, None)])[alpha is not None], places, strict=True):
            if place:
                count = expected[part] * (place / expected[part].sum())
                assert ((found[part] - count[:, None]).abs() < 1 + 1e-6).all()


@pytest.mark.parametrize("replicates", [None, 4])
@pytest.mark.parametrize("replacement", [False, True])
def test_others_make_room_in_the_replace_regime(replicates, replacement):
    """Two rows of gold are protected, three times each: of 20 places 14 are left for 20 synthetic rows."""
    weights, copies = torch.arange(30) >= 10, 3 * (torch.arange(30) % 10 == 4) * (torch.arange(30) < 20)
    copies[14] = 0
    copies[7] = 3
    rows = mixture(weights.double(), 20, real=10, copies=copies, replacement=replacement).draw(generator(2), replicates)
    found = counts(rows, 30)
    assert found.shape == (30, replicates or 1)
    assert (found[[4, 7]] == 3).all()
    assert found[:10].sum(0).tolist() == [6] * (replicates or 1)
    assert replacement or int(found[10:].max()) == 1


def mean_counts(drawn, total, draws=6000):
    return counts(drawn.draw(generator(11), draws), total).double()


@pytest.mark.parametrize(
    "settings", [{}, {"replacement": True}, {"real_share": 0.5}, {"real_share": 0.5, "replacement": True}]
)
def test_a_row_comes_as_often_as_the_measure_says_on_average(settings):
    weights, copies, size = [0, 2, 1, 1, 3, 1, 2, 4], [2, 1, 0, 0, 0, 1, 0, 1], 12
    drawn = mixture(weights, size, real=4, copies=copies, **settings)
    found, expected = mean_counts(drawn, 8), drawn.raised().weights
    if "real_share" in settings:
        expected = torch.cat([part * (6 / part.sum()) for part in (expected[:4], expected[4:])])
    else:
        expected = expected * (size / expected.sum())
    deviation = (found.mean(1) - expected).abs()
    assert (deviation <= SIGMAS * found.std(1) / math.sqrt(found.shape[1]) + 1e-9).all()


def test_beside_coins_the_guaranteed_rows_are_heads_that_were_thrown_before():
    """3 of 20 places are taken by real rows; 17 coins show real with p = (0.4 * 20 - 3) / 17."""
    copies = torch.zeros(40, dtype=torch.int64)
    copies[:3] = 1
    drawn = mixture(torch.ones(40), 20, real=20, copies=copies).with_real_fraction(0.4, coins=True)
    found = mean_counts(drawn, 40, 20_000)
    assert (found[:3] >= 1).all()
    heads = found[:20].sum(0).long() - 3
    assert int(heads.min()) >= 0
    wanted = 20_000 * binom(17, 5 / 17).pmf(np.arange(18))
    often = wanted > 5
    seen = torch.bincount(heads, minlength=18).numpy()
    assert chisquare([*seen[often], seen[~often].sum()], [*wanted[often], wanted[~often].sum()]).pvalue > 1e-4
    assert (found[:3] == 1).all(), "their share of 8 / 20 each is below the one they have"


@pytest.mark.parametrize("replicates", [None, 3])
def test_a_training_set_of_guaranteed_rows_alone(replicates):
    copies = torch.tensor([1, 0, 2, 0])
    for replacement in (False, True):
        rows = mixture(torch.ones(4), 3, copies=copies, replacement=replacement).draw(generator(0), replicates)
        assert (counts(rows, 4) == copies[:, None]).all()
    for weights in (torch.zeros(4), torch.tensor([0.0, 1.0, 0.0, 0.0])):
        assert sorted(mixture(weights, 3, copies=copies).draw(generator(0)).tolist()) == [0, 2, 2]


# --- what keeps it, and what cannot be --------------------------------------------------------------------------------


def test_every_method_keeps_the_guarantee():
    copies = torch.tensor([1, 0, 2, 0, 0, 1])
    base = mixture(torch.ones(6), 6, real=3, copies=copies)
    none = torch.zeros(6)
    made = {
        "over": base.over(none > 0),
        "where": base.where(none > 0),
        "reweighted": base.reweighted(none),
        "with_real": base.with_real(none),
        "with_real_fraction": base.with_real_fraction(0.5),
        "resized": base.resized(4),
        "arriving": base.arriving(torch.full((6,), NEVER)),
        "guaranteeing": base.guaranteeing(torch.zeros(6, dtype=torch.int64)),
    }
    methods = {name for name, value in vars(Mixture).items() if callable(value) and name[0] != "_"}
    assert methods - set(made) == {"draw", "raised"}
    for name, other in made.items():
        assert torch.equal(other.guaranteed, copies), name
    assert made["where"].size == 4, "the rows left are those guaranteed a place"
    assert sorted(made["where"].draw(generator(0)).tolist()) == [0, 2, 2, 5]


def test_of_two_guarantees_the_larger_holds():
    both = mixture(torch.ones(3), 9, copies=[1, 0, 2]).guaranteeing(torch.tensor([0, 3, 1], dtype=torch.int32))
    assert both.guaranteed.tolist() == [1, 3, 2]
    assert both.guaranteed.dtype == torch.int64


@pytest.mark.parametrize("bad", [[1, 0], [-1, 0, 0], [0.5, 0.0, 0.0]])
def test_a_guarantee_is_a_number_of_copies_for_every_row(bad):
    with pytest.raises(ValueError, match="copies must be an integer of at least 0 for every row of the pool"):
        mixture(torch.ones(3), 3, copies=[0, 0, 0]).guaranteeing(torch.tensor(bad))


def test_what_cannot_be_is_a_sentence():
    copies = torch.tensor([3, 0, 0, 1])
    with pytest.raises(ValueError, match=r"^4 places are guaranteed and the training set has 3; guarantee fewer rows"):
        mixture(torch.ones(4), 3, copies=copies).draw(generator(0))
    quota = mixture(torch.ones(4), 10, real=2, copies=copies).with_real_fraction(0.2)
    with pytest.raises(ValueError, match=r"^3 places are guaranteed to real rows and the training set has 2 for them"):
        quota.draw(generator(0))
    with pytest.raises(ValueError, match=r"^1 places are guaranteed to synthetic rows and .* has 0 for them"):
        quota.with_real_fraction(1.0).draw(generator(0))
    coins = mixture(torch.ones(4), 10, real=2, copies=copies).with_real_fraction(0.25, coins=True)
    with pytest.raises(ValueError, match=r"^3 places are guaranteed to real rows and .* has 2\.5 for them"):
        coins.draw(generator(0))
    with pytest.raises(ValueError, match=r"^4 of 5 places are guaranteed and no row may take the others; check the"):
        mixture(torch.zeros(4), 5, copies=copies).draw(generator(0))
    with pytest.raises(ValueError, match=r"^1 of 2 places are guaranteed and no synthetic row may take the others"):
        mixture([1.0, 1, 0, 0], 4, real=2, copies=[0, 0, 0, 1]).with_real_fraction(0.5).draw(generator(0))


# --- looking them up --------------------------------------------------------------------------------------------------


def test_rows_beyond_the_last_guaranteed_one_are_not_among_them():
    guaranteed = GuaranteedRows(torch.tensor([0, 2, 0, 1, 0, 0]))
    assert guaranteed.among(torch.tensor([0, 1, 2, 3, 4, 5, 999])).tolist() == [False, True, False, True] + 3 * [False]
    assert guaranteed.among(torch.tensor([[3, 0], [1, 1]])).tolist() == [[True, False], [True, True]]


def test_a_step_does_not_wait_for_a_device():
    """Reading a value of a meta tensor on the host, or mixing it with one, is an error."""
    guaranteed, rows = GuaranteedRows(torch.tensor([0, 2, 0, 1])), torch.tensor([3, 9], device="meta")
    assert guaranteed.among(rows).device.type == "meta"
    assert guaranteed.at_least_one(torch.ones(2, device="meta"), rows).device.type == "meta"
    assert guaranteed.among(torch.tensor([3, 9])).tolist() == [True, False], "one list for every device"


def test_factors_of_guaranteed_rows_are_one_at_least():
    guaranteed, rows = GuaranteedRows(torch.tensor([0, 2, 0, 1])), torch.tensor([0, 1, 2, 3, 8])
    factors = torch.tensor([0.5, 0.5, 2.0, 2.0, 0.0])
    assert guaranteed.at_least_one(factors, rows).tolist() == [0.5, 1.0, 2.0, 2.0, 0.0]
    own = torch.tensor([[1, 0], [0, 3]])
    assert guaranteed.at_least_one(torch.tensor([0.5, 0.25]), own).tolist() == [[1.0, 0.5], [0.25, 1.0]]
    each = torch.tensor([[0.5, 0.25], [3.0, 0.0]])
    assert guaranteed.at_least_one(each, torch.tensor([3, 0])).tolist() == [[1.0, 1.0], [3.0, 0.0]]
    assert guaranteed.at_least_one(each, own).tolist() == [[1.0, 0.25], [3.0, 1.0]]
    assert guaranteed.at_least_one(factors.bfloat16(), rows).dtype == torch.bfloat16


def test_what_became_of_the_guarantee():
    copies = torch.tensor([0, 2, 0, 1])
    rows = torch.tensor([1, 1, 1, 3, 0, 2, 0, 0])
    assert realized_guarantee(rows, copies) == {"rows": 2, "quota": 1, "trained": 4, "share": 0.5}
    columns = torch.tensor([[1, 1], [1, 3], [3, 3], [0, 1], [3, 1]])
    assert realized_guarantee(columns, copies) == {"rows": 2, "quota": 2, "trained": 4.5, "share": 0.9}
    assert realized_guarantee(rows[:3], copies)["quota"] == 0


def test_a_mixture_without_a_guarantee_is_what_it_was():
    bare = mixture(torch.ones(3), 3, copies=[0, 0, 0])
    assert bare.guaranteed is None
    assert bare.raised() is bare
