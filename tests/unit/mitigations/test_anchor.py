"""Which real rows a generation gets: how many, when, and how often."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collapse.data import DataPool, Mixture, Origin
from collapse.data.generation import Generation
from collapse.data.mixture import NEVER
from collapse.data.rows import provenance
from collapse.mitigations import AnchorReplay, DataAccumulation, MitigationStack, SlidingWindow
from collapse.mitigations.anchor import gold_order
from collapse.recursion.composition import compose

GOLD, SIZE, TOTAL = 100, 20, 4


def at_generation(index, *, total=TOTAL, gold=GOLD, size=SIZE, made=None, seed=3):
    """Generation ``index`` over a pool of gold and ``made`` rows sampled before each generation."""
    made = [size] * index if made is None else made[:index]
    records = [provenance(gold, origin=Origin.REAL, generation=0)]
    records += [provenance(rows, origin=Origin.SYNTHETIC, generation=1 + i) for i, rows in enumerate(made)]
    return Generation(
        index, total, seed, size, DataPool([np.zeros((len(part), 1), np.float32) for part in records], records)
    )


def gold_of(generation):
    pool = generation.pool
    return Mixture(pool.is_real.double(), int(pool.is_real.sum()), pool.origin, pool.generation)


def rows_of(mitigations, index, replicates=None, **settings):
    """Return the real and the synthetic rows of a generation's training set."""
    generation = at_generation(index, **settings)
    rows = compose(generation, MitigationStack(mitigations), replicates).rows
    real = generation.pool.is_real[rows]
    return rows, real


def real_rows(*arguments, **settings):
    rows, real = rows_of(*arguments, **settings)
    return rows[real].tolist()


# --- fixed and redrawn ------------------------------------------------------------------------------------------------


def test_fixed_anchors_are_the_same_rows_in_every_generation():
    first, *later = (real_rows([AnchorReplay(0.3)], index) for index in range(1, TOTAL))
    assert len(set(first)) == len(first) == 6
    assert all(sorted(rows) == sorted(first) for rows in later)
    assert sorted(real_rows([AnchorReplay(0.3)], 1, seed=4)) != sorted(first), "another chain has other anchors"


def test_more_anchors_are_more_of_the_same():
    few, many = (set(real_rows([AnchorReplay(fraction)], 2)) for fraction in (0.2, 0.7))
    assert few < many


def test_redrawn_anchors_are_other_rows_in_every_generation():
    drawn = [tuple(sorted(real_rows([AnchorReplay(0.3, "redrawn")], index))) for index in range(1, TOTAL)]
    assert len(set(drawn)) == 3
    assert all(len(set(rows)) == 6 and max(rows) < GOLD for rows in drawn)


def test_redrawn_anchors_are_drawn_for_every_replicate():
    rows, real = rows_of([AnchorReplay(0.3, "redrawn")], 1, replicates=50)
    assert rows.shape == (SIZE, 50)
    assert (real.sum(0) == 6).all()
    anchors = [tuple(sorted(column[inside].tolist())) for column, inside in zip(rows.T, real.T, strict=True)]
    assert len(set(anchors)) == 50
    assert all(len(set(rows)) == 6 for rows in anchors)


@pytest.mark.parametrize("rows", ["fixed", "redrawn"])
def test_generation_0_trains_on_all_of_gold_where_none_is_dealt_out(rows):
    assert sorted(real_rows([AnchorReplay(0.3, rows)], 0)) == list(range(GOLD))


# --- fresh ------------------------------------------------------------------------------------------------------------


def test_fresh_anchors_are_each_used_in_one_generation():
    used = [real_rows([AnchorReplay(0.3, "fresh")], index) for index in range(TOTAL)]
    assert [len(rows) for rows in used] == [GOLD - 3 * 6, 6, 6, 6]
    assert sorted(itertools.chain(*used)) == list(range(GOLD))


def test_synthetic_rows_make_room_for_fresh_ones():
    rows, real = rows_of([AnchorReplay(0.3, "fresh")], 2)
    assert len(rows) == SIZE
    assert rows[~real].tolist() == list(range(GOLD + SIZE, GOLD + SIZE + 14))


def test_accumulated_fresh_rows_are_those_of_every_generation_so_far():
    for index in range(TOTAL):
        rows, real = rows_of([AnchorReplay(0.3, "fresh"), DataAccumulation()], index)
        assert len(rows) == len(set(rows.tolist())) == 82 + 20 * index
        assert int(real.sum()) == 82 + 6 * index
    windowed, real = rows_of([AnchorReplay(0.3, "fresh"), SlidingWindow(2)], 3)
    assert (len(windowed), int(real.sum())) == (2 * SIZE, 2 * 6)


def dealt(generation, fraction):
    """Walk through the generations one by one: arrivals of gold that is dealt out, and what is held back."""
    quota = round(fraction * generation.samples_per_generation)
    order = gold_order(gold_of(generation), generation).tolist()
    arrival = generation.pool.generation.tolist()
    for index in range(generation.total - 1, 0, -1):
        for _ in range(quota):
            arrival[order.pop()] = index
    for index in range(1, generation.index + 1):
        own = [row for row, made in enumerate(generation.pool.generation.tolist()) if made == index]
        for row in own[generation.samples_per_generation - quota :]:
            arrival[row] = NEVER
    return arrival


@settings(max_examples=150, deadline=None)
@given(
    st.integers(0, 3),
    st.integers(0, 2),
    st.integers(1, 12),
    st.floats(0.001, 1),
    st.integers(1, 15),
    st.lists(st.integers(1, 12), min_size=3, max_size=3),
)
def test_dealing_is_what_a_walk_through_the_generations_does(index, later, size, fraction, rest, made):
    """However many rows curation left of each generation's."""
    total, quota = index + later + 1, round(fraction * size)
    generation = at_generation(index, total=total, gold=quota * (total - 1) + rest, size=size, made=made)
    found = AnchorReplay(fraction, "fresh").compose_training_set(gold_of(generation), generation).arrival
    assert found.tolist() == dealt(generation, fraction)


@pytest.mark.parametrize(("rows", "need"), [("fresh", 18), ("coin", 60)])
def test_gold_that_does_not_go_round_is_refused(rows, need):
    real_rows([AnchorReplay(0.3, rows)], 1, gold=need + 1)
    with pytest.raises(ValueError, match=f"leaves none for generation 0: gold has {need} rows"):
        real_rows([AnchorReplay(0.3, rows)], 1, gold=need)


# --- coins ------------------------------------------------------------------------------------------------------------


def test_coins_choose_between_a_row_never_used_and_a_synthetic_one():
    used = []
    for index in range(1, TOTAL):
        rows, real = rows_of([AnchorReplay(0.4, "coin")], index, replicates=300)
        assert rows.shape == (SIZE, 300)
        assert len({tuple(sorted(set(row))) for row in rows.tolist()}) == SIZE
        assert all(len(set(row)) == 2 for row in rows.tolist()), "each row is one of two"
        assert set(rows[~real].tolist()) == set(range(GOLD + SIZE * (index - 1), GOLD + SIZE * index))
        assert abs(float(real.double().mean()) - 0.4) < 4.5 * (0.24 / (SIZE * 300)) ** 0.5
        used += sorted(set(rows[real].tolist()))
    first = real_rows([AnchorReplay(0.4, "coin")], 0)
    assert (len(first), len(used)) == (GOLD - 3 * SIZE, 3 * SIZE)
    assert sorted([*first, *used]) == list(range(GOLD))


def test_the_number_of_heads_is_left_to_chance():
    _, real = rows_of([AnchorReplay(0.4, "coin")], 1, replicates=2000)
    heads = real.sum(0).double()
    assert abs(float(heads.var()) - 4.8) < 4.5 * 4.8 * (2 / 2000) ** 0.5  # binomial, 20 * 0.4 * 0.6


def test_no_real_row_comes_twice_by_coin_whatever_is_kept():
    """Coins for more rows than gold deals would use a row again that stands for a new one: refused, or not done."""
    for mitigations in ([DataAccumulation()], [SlidingWindow(2)]):
        try:
            rows = real_rows([AnchorReplay(0.4, "coin"), *mitigations], 2)
        except ValueError as error:
            assert "coin" in str(error)  # noqa: PT017
        else:
            assert len(rows) == len(set(rows))


def test_a_subsample_keeps_its_size_beside_coins():
    for index in range(TOTAL):
        assert len(rows_of([AnchorReplay(0.4, "coin"), DataAccumulation(10)], index)[0]) == 10
        assert len(rows_of([AnchorReplay(0.4, "fresh"), DataAccumulation(10)], index)[0]) == 10
