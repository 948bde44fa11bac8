"""Rows that came with the data undeclared: nobody trains on them, until Admit names them."""

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from collapse.data import DataPool, Origin
from collapse.data.generation import Generation
from collapse.data.rows import HELD, provenance
from collapse.mitigations import (
    EMA,
    Admit,
    AnchorReplay,
    ConflictError,
    DataAccumulation,
    MitigationStack,
    NoEffectWarning,
    ProtectedStrata,
    RealOnly,
    Replace,
    SIGReg,
    SlidingWindow,
    WeightedLikelihood,
)
from collapse.recursion.composition import compose

GOLD, SIZE, TOTAL = 60, 20, 4


def at_generation(index, *, unknown=7, synthetic=5, seed=3, size=SIZE):
    """A generation over gold, what came with it undeclared, and ``size`` rows sampled before each generation."""
    records = [provenance(GOLD, origin=Origin.REAL, generation=0, y=np.arange(GOLD) % 3)]
    held = [(Origin.UNKNOWN, unknown), (Origin.SYNTHETIC, synthetic)]
    records += [provenance(rows, origin=origin, generation=HELD) for origin, rows in held if rows]
    records += [provenance(size, origin=Origin.SYNTHETIC, generation=1 + i) for i in range(index)]
    shards, first = [], 0
    for part in records:
        shards.append(np.arange(first, first + len(part), dtype=np.float32)[:, None])
        first += len(part)
    return Generation(index, TOTAL, seed, size, DataPool(shards, records))


def rows_of(mitigations, index, replicates=None, **settings):
    generation = at_generation(index, **settings)
    return compose(generation, MitigationStack(mitigations), replicates).rows


def held_of(rows, *, unknown=7, synthetic=5):
    """The held rows among ``rows``, by origin, counted from the first of theirs."""
    inside = rows[(rows >= GOLD) & (rows < GOLD + unknown + synthetic)] - GOLD
    return sorted(inside[inside < unknown].tolist()), sorted((inside[inside >= unknown] - unknown).tolist())


ONE_OF_EACH = st.tuples(
    st.sampled_from(
        [
            None,
            Replace(),
            DataAccumulation(),
            DataAccumulation(subsample=30),
            DataAccumulation(40, replacement=True),
            DataAccumulation(fixed_size=True),
            SlidingWindow(2),
            SlidingWindow(9),
            RealOnly(),
        ]
    ),
    st.one_of(
        st.none(),
        st.builds(AnchorReplay, st.floats(0, 0.5), st.sampled_from(["fixed", "redrawn", "fresh"])),
        st.builds(AnchorReplay, st.floats(0, 1), st.just("coin")),
    ),
    st.one_of(
        st.none(),
        st.builds(ProtectedStrata, st.floats(0, 0.1), st.sampled_from(["class", "density"])),
    ),
    st.sampled_from([None, WeightedLikelihood(0.6), EMA(0.5), SIGReg(0.1)]),
)


@settings(max_examples=400, deadline=None)
@given(
    ONE_OF_EACH,
    st.randoms(use_true_random=False),
    st.integers(0, TOTAL - 1),
    st.sampled_from([None, 6]),
    st.integers(0, 99),
)
def test_no_stack_of_mitigations_draws_a_held_row(chosen, order, index, replicates, seed):
    stack = [mitigation for mitigation in chosen if mitigation is not None]
    order.shuffle(stack)
    size = 10 if any(repr(one).endswith("rows='coin')") for one in stack) else SIZE  # coins ask for much of gold
    try:
        rows = rows_of(stack, index, replicates, seed=seed, size=size)
    except (ConflictError, ValueError):  # a stack that cannot act together draws nothing
        return
    assert held_of(rows) == ([], [])


def test_most_of_those_stacks_can_act():
    """The test above would pass over stacks that all raise."""
    for retention in (Replace(), DataAccumulation(), SlidingWindow(2), RealOnly()):
        for others in ([], [ProtectedStrata(0.05)], [AnchorReplay(0.3, "fresh")], [AnchorReplay(0.3)]):
            if not (isinstance(retention, RealOnly) and others and isinstance(others[0], AnchorReplay)):
                assert len(rows_of([retention, *others], 2))


@pytest.mark.parametrize("scheme", ["fixed", "redrawn", "fresh", "coin"])
@pytest.mark.parametrize("retention", [Replace(), DataAccumulation()])
@pytest.mark.parametrize("index", range(TOTAL))
def test_held_rows_change_nothing_for_anchors(scheme, retention, index):
    """The same rows as if they had not come, whatever their place in the pool."""
    if scheme == "coin" and isinstance(retention, DataAccumulation):
        return
    stack = [AnchorReplay(0.25, scheme), retention]
    size = 10 if scheme == "coin" else SIZE
    without = rows_of(stack, index, unknown=0, synthetic=0, size=size)
    found = rows_of(stack, index, size=size)
    assert torch.equal(torch.where(found >= GOLD, found - 12, found), without)


def test_admitted_rows_arrive_once_and_the_retention_keeps_them():
    unknown = list(range(7))
    assert [held_of(rows_of([Admit()], index)) for index in range(TOTAL)] == [
        ([], []),
        (unknown, []),
        ([], []),
        ([], []),
    ]
    assert [len(rows_of([Admit()], index)) for index in range(TOTAL)] == [GOLD, SIZE + 7, SIZE, SIZE]
    kept = [held_of(rows_of([Admit(from_generation=2), DataAccumulation()], index)) for index in range(TOTAL)]
    assert kept == [([], []), ([], []), (unknown, []), (unknown, [])]
    windowed = [held_of(rows_of([Admit(), SlidingWindow(2)], index)) for index in range(TOTAL)]
    assert windowed == [([], []), (unknown, []), (unknown, []), ([], [])]


def test_exactly_the_named_origin_is_let_in():
    assert held_of(rows_of([Admit("synthetic"), DataAccumulation()], 2)) == ([], list(range(5)))
    both = [Admit("synthetic", 2), Admit("unknown"), DataAccumulation()]
    assert [held_of(rows_of(both, index)) for index in (1, 2)] == [
        (list(range(7)), []),
        (list(range(7)), list(range(5))),
    ]


def test_generation_0_lets_them_in_only_when_told_to():
    assert held_of(rows_of([Admit(from_generation=0)], 0)) == (list(range(7)), [])
    assert len(rows_of([Admit(from_generation=0)], 0)) == GOLD + 7
    assert held_of(rows_of([Admit(from_generation=0)], 1)) == ([], [])


def test_the_earlier_of_two_admissions_counts_in_either_order():
    for stack in ([Admit(from_generation=1), Admit(from_generation=3)], [Admit(from_generation=3), Admit()]):
        assert held_of(rows_of([*stack, DataAccumulation()], 1)) == (list(range(7)), [])


def test_admitted_rows_are_no_real_ones():
    """An exact real share counts them among the others; fresh anchors leave them their places."""
    generation = at_generation(1)
    composed = compose(generation, MitigationStack([Admit(), AnchorReplay(0.5)]))
    assert composed.facts["real_fraction"] == round(0.5 * (SIZE + 7)) / (SIZE + 7)
    fresh = rows_of([Admit(), AnchorReplay(0.25, "fresh")], 1)
    assert held_of(fresh) == (list(range(7)), [])
    assert len(fresh) == SIZE + 7
    assert held_of(rows_of([Admit(), RealOnly()], 1)) == ([], [])


def closed(mitigation, **settings):
    """What a generation says of a mitigation when it closes."""
    stack = MitigationStack([mitigation])
    generation = at_generation(1, **settings)
    compose(generation, stack)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        stack.close_generation(generation)
    return [warning.category for warning in caught]


def test_admitting_nobody_warns():
    assert closed(Admit("unknown")) == []
    assert closed(Admit("unknown"), unknown=0) == closed(Admit("synthetic"), synthetic=0) == [NoEffectWarning]


def test_a_generation_that_never_comes_is_refused():
    with pytest.raises(
        ValueError, match=r"from_generation=4.* admits rows in a generation that never comes: the last one is 3"
    ):
        rows_of([Admit(from_generation=4)], 0)
    assert held_of(rows_of([Admit(from_generation=3)], 3)) == (list(range(7)), [])
