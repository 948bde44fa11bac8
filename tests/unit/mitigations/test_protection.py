"""Nothing takes the places or the weight of protected rows, and the record says so."""

import dataclasses
import itertools
import json
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from collapse.data import DataPool, Digits, GaussianData, Origin, RingOfGaussians
from collapse.data.generation import Generation, GenerationCallback
from collapse.data.mixture import NEVER
from collapse.data.rows import provenance
from collapse.mitigations import (
    AnchorReplay,
    DataAccumulation,
    Mitigation,
    MitigationStack,
    ProtectedStrata,
    RealOnly,
    Replace,
    SlidingWindow,
    Stage,
    WeightedLikelihood,
)
from collapse.models import VAE, Gaussian
from collapse.recursion import run_chain
from collapse.recursion.composition import compose

GOLD, SAMPLES, TOTAL = 40, 30, 4


def at_generation(index, *, total=TOTAL, samples=SAMPLES, seed=3, gold=GOLD):
    """Generation ``index``; row i of gold lies at i squared, so that the last rows have the most distant neighbors."""
    x = (np.arange(gold, dtype=np.float32) ** 2)[:, None]
    records = [provenance(gold, origin=Origin.REAL, generation=0, y=np.arange(gold) % 7)]
    records += [provenance(samples, origin=Origin.SYNTHETIC, generation=made) for made in range(1, index + 1)]
    return Generation(
        index, total, seed, samples, DataPool([x, *[np.zeros((samples, 1), np.float32)] * index], records)
    )


def sevens(gold):
    """Rows: those of class 6."""
    return gold.y == 6


def nobody(gold):
    return np.zeros(len(gold), bool)


# --- places -----------------------------------------------------------------------------------------------------------


class Fading(Mitigation):
    """Discounts old rows."""

    def compose_training_set(self, mixture, generation):
        age = (generation.index - mixture.arrival).clamp(min=0)
        return mixture.reweighted(torch.exp(-age.double()))


class Dropping(Mitigation):
    """Drops most of gold, and tells the weights so."""

    def compose_training_set(self, mixture, generation):
        keep = ~mixture.is_real | (torch.arange(len(mixture.weights)) < 3)
        return mixture.reweighted(keep.double()).where(keep)


class HoldingBack(Mitigation):
    """Lets no row of gold arrive but the first ones."""

    stage = Stage.ARRIVE

    def compose_training_set(self, mixture, generation):
        arrival = mixture.arrival.clone()
        arrival[3:GOLD] = NEVER
        return mixture.arriving(arrival)


class Anew(Mitigation):
    """Makes a mixture of its own, and forgets what was guaranteed in this one."""

    def compose_training_set(self, mixture, generation):
        return dataclasses.replace(mixture, weights=mixture.weights.clone(), guaranteed=None)


class Budget(Mitigation):
    """So many rows."""

    stage = Stage.BUDGET

    def __init__(self, rows: int, replacement: bool = False) -> None:
        self.rows, self.replacement = rows, replacement

    def compose_training_set(self, mixture, generation):
        return mixture.resized(self.rows, replacement=self.replacement)


RETENTIONS = [
    *([], [Replace()], [DataAccumulation()], [DataAccumulation(25)], [DataAccumulation(25, replacement=True)]),
    *([DataAccumulation(fixed_size=True)], [SlidingWindow(1)], [SlidingWindow(2)], [RealOnly()]),
]
ANCHORS = [
    [],
    *([AnchorReplay(fraction, rows)] for fraction in (0.1, 0.5, 1.0) for rows in ("fixed", "redrawn")),
    *([AnchorReplay(0.2, "fresh")], [AnchorReplay(0.2, "coin")], [AnchorReplay(0.9, "coin")]),
]
OTHERS = [Fading(), Dropping(), HoldingBack(), Anew()]
BUDGETS = [[], [], [Budget(8)], [Budget(70)], [Budget(12, replacement=True)]]


@st.composite
def stacks(draw):
    retention, budget = draw(st.sampled_from(RETENTIONS)), draw(st.sampled_from(BUDGETS))
    anchors = draw(st.sampled_from(ANCHORS if not isinstance((retention or [None])[0], RealOnly) else [[]]))
    others = draw(st.lists(st.sampled_from(OTHERS), unique_by=type, max_size=4))
    return [*retention, *anchors, *others, *budget]


def training_set(mitigations, generation, replicates=None):
    """The composed generation, or the sentence that says why there is none."""
    try:
        return compose(generation, MitigationStack(mitigations), replicates), ""
    except ValueError as error:
        return None, str(error)


@settings(max_examples=150, deadline=None)
@given(stacks(), st.integers(0, 3), st.integers(1, 8), st.integers(1, 3), st.sampled_from([None, 3]), st.randoms())
def test_no_mitigation_takes_a_place(others, index, rows, quota, replicates, shuffle):
    """In any order, in any generation: every protected row is there, in a training set of the size it would have."""
    gold = 120 if "coin" in repr(others) else GOLD  # as many as it deals out
    generation, strata = at_generation(index, gold=gold), ProtectedStrata(rows / gold, k=1, quota=quota)
    protected = strata.protected(generation.pool)
    assert len(protected) == rows
    alone, _ = training_set(others, generation, replicates)
    order = [*others, strata]
    shuffle.shuffle(order)
    found, message = training_set(order, generation, replicates)
    if found is None:
        room = re.search(r"(\d+) places are guaranteed.* the training set has ([\d.]+)", message)
        if room is not None:
            assert int(room[1]) == rows * quota > float(room[2]), "refused for want of room"
        elif "no row may take the others" not in message:  # or because the others cannot be composed on their own
            later = [at_generation(turn, gold=gold) for turn in {index, 1, TOTAL - 1}]
            assert any(training_set(others, other)[0] is None for other in later)
        return
    columns = found.rows.reshape(len(found.rows), -1)
    for row in protected.tolist():
        assert int((columns == row).sum(0).min()) >= quota
    assert (found.facts["protected"]["rows"], found.facts["protected"]["quota"] >= quota) == (rows, True)
    again, _ = training_set(order[::-1], generation, replicates)
    assert torch.equal(again.rows, found.rows), "the order of the list does not matter"
    if alone is None:
        return
    if not any(isinstance(other, Dropping | HoldingBack) or "coin" in repr(other) for other in others):
        assert len(found.rows) == len(alone.rows), "within the training set, not on top of it"
    exact = [m for m in others if isinstance(m, AnchorReplay) and m.rows in ("fixed", "redrawn")]
    if exact and index:
        real = generation.pool.is_real[columns].sum(0)
        assert (real == round(exact[0].fraction * len(columns))).all()


def test_protected_rows_take_the_places_of_others_in_proportion():
    """The replace regime, 30 rows: 4 protected twice, and 22 of the 30 synthetic rows."""
    found = compose(at_generation(2), MitigationStack([ProtectedStrata(0.1, k=1, quota=2)]))
    count = torch.bincount(found.rows, minlength=100)
    assert count[:70].tolist() == [0] * 36 + [2] * 4 + [0] * 30
    assert (int(count[70:].sum()), int(count[70:].max())) == (22, 1)
    assert found.facts["protected"] == {"rows": 4, "quota": 2, "trained": 8, "share": 8 / 30}
    assert (found.facts["real"], found.facts["real_fraction"]) == (8, 8 / 30)


@pytest.mark.parametrize(("rows", "alpha"), [("fixed", 0.4), ("redrawn", 0.4)])
def test_protected_rows_count_towards_the_real_fraction(rows, alpha):
    found = compose(at_generation(2), MitigationStack([ProtectedStrata(0.1, k=1), AnchorReplay(alpha, rows)]))
    count = torch.bincount(found.rows, minlength=100)
    assert (count[36:40] == 1).all()
    assert (int(count[:40].sum()), int(count.max()), found.facts["real_fraction"]) == (12, 1, 0.4)


def test_what_is_there_already_is_not_touched():
    """In generation 0, and where everything accumulates: the same rows in the same order."""
    for others, index in (([], 0), ([DataAccumulation()], 2), ([AnchorReplay(0.5, "redrawn")], 0)):
        plain = compose(at_generation(index), MitigationStack(others))
        found = compose(at_generation(index), MitigationStack([*others, ProtectedStrata(0.3)]))
        assert torch.equal(found.rows, plain.rows)
        facts = dict(found.facts)
        assert facts.pop("protected")["quota"] == 1
        assert facts == plain.facts


@pytest.mark.parametrize("scheme", ["fresh", "coin"])
def test_a_row_that_is_dealt_out_is_protected_all_the_same(scheme):
    """Before its turn and after it; the other rows of gold are still used in one generation each."""
    strata, anchors = ProtectedStrata(4 / 160, k=1), AnchorReplay(0.2, scheme)
    used = [compose(at_generation(index, gold=160), MitigationStack([strata, anchors])).rows for index in range(TOTAL)]
    for rows in used:
        assert len(rows) == len(set(rows.tolist()))
        assert set(range(156, 160)) <= set(rows.tolist())
    assert all(len(rows) == SAMPLES for rows in used[1:])
    others = [row for rows in used for row in rows.tolist() if row < 156]
    assert len(others) == len(set(others))


def test_several_strata_protect_their_union():
    stack = MitigationStack([ProtectedStrata(0.05, k=1, quota=2), ProtectedStrata(None, sevens)])
    found = compose(at_generation(1), stack)
    count = torch.bincount(found.rows, minlength=70)
    assert {row: int(count[row]) for row in count[:40].nonzero().squeeze(1).tolist()} == {
        **dict.fromkeys((6, 13, 20, 27, 34), 1),
        **dict.fromkeys((38, 39), 2),
    }
    assert found.facts["protected"] == {"rows": 7, "quota": 1, "trained": 9, "share": 9 / 30}


def test_every_replicate_has_the_protected_rows():
    found = compose(at_generation(1), MitigationStack([ProtectedStrata(0.1, k=1), AnchorReplay(0.3, "redrawn")]), 50)
    assert found.rows.shape == (30, 50)
    for row in range(36, 40):
        assert ((found.rows == row).sum(0) == 1).all()
    assert (found.pool.is_real[found.rows].sum(0) == 9).all()
    assert len({tuple(sorted(column)) for column in found.rows.T.tolist()}) == 50


# --- before any compute -----------------------------------------------------------------------------------------------


def ring(**settings):
    return RingOfGaussians(4, **{"rows": 100, "reference_rows": 8, "batch_size": 16, **settings})


def chain_of(*mitigations, data=None, **settings):
    model = VAE((2,), 2, hidden=16, likelihood="gaussian", scale=0.3)
    defaults = {"generations": 3, "samples_per_generation": 48, "evaluate": False}
    return run_chain(model, data or ring(), mitigations=mitigations, **{**defaults, **settings})


@pytest.mark.parametrize(
    ("others", "where"),
    [
        ([], "generation 1: 60 places are guaranteed and the training set has 48"),
        ([AnchorReplay(0.5)], "generation 1: 60 places are guaranteed to real rows and the training set has 24 for"),
        ([SlidingWindow(2)], None),
        ([SlidingWindow(3), Budget(50)], "generation 1: 60 places are guaranteed and the training set has 50"),
    ],
)
def test_what_has_no_place_is_refused_before_a_step(others, where, tmp_path):
    mitigations = [ProtectedStrata(0.6), *others]
    if where is None:  # two generations of 48 rows have room for 60
        chain = chain_of(*mitigations, generations=4)
        assert [record.metrics["protected_quota"] for record in chain.records] == [1] * 4
        return
    with pytest.raises(ValueError, match=where) as caught:
        chain_of(*mitigations, store=tmp_path)
    assert str(caught.value).startswith(f"{mitigations!r} cannot act together in generation 1")
    assert not list(tmp_path.rglob("*.ckpt"))
    assert not list((tmp_path / "generations").glob("gen_001*"))


def test_what_has_no_place_at_the_end_is_refused_at_the_start():
    """Gold makes room in a window of two as long as it is in it."""
    with pytest.raises(ValueError, match="in generation 3: 50 places are guaranteed and the training set has 20"):
        chain_of(ProtectedStrata(0.5), SlidingWindow(2), generations=4, samples_per_generation=10)
    chain_of(ProtectedStrata(0.5), SlidingWindow(2), generations=2, samples_per_generation=10)


def test_a_chain_of_one_generation_has_no_later_ones():
    assert chain_of(ProtectedStrata(1.0), generations=1).records[0].metrics["protected_rows"] == 100


# --- weight -----------------------------------------------------------------------------------------------------------


class Factor(Mitigation):
    """One factor for every row."""

    def __init__(self, value: float) -> None:
        self.value = value

    def weigh(self, batch, module):
        return torch.full(batch.row.shape, self.value)


def batch_of(generation, rows):
    return generation.pool.gather(torch.as_tensor(rows))


def composed_stack(*mitigations, index=1):
    generation, stack = at_generation(index), MitigationStack([ProtectedStrata(0.1, k=1), *mitigations])
    return compose(generation, stack), stack


def test_nobody_weighs_a_protected_row_down():
    generation, stack = composed_stack(AnchorReplay(0.5), WeightedLikelihood(0.2))
    module = SimpleNamespace(training_facts=generation.training_facts)
    weights = stack.weigh(batch_of(generation, [0, 36, 39, 40, 69]), module)
    assert weights.tolist() == pytest.approx([0.4, 1.0, 1.0, 1.6, 1.6])
    bare = MitigationStack([AnchorReplay(0.5), WeightedLikelihood(0.2)])
    assert bare.weigh(batch_of(generation, [0, 36, 40]), module).tolist() == pytest.approx([0.4, 0.4, 1.6])


@pytest.mark.parametrize(
    ("factors", "protected", "others"), [((0.5,), 1, 0.5), ((0.5, 4.0), 2, 2), ((0.25, 2.0), 1, 0.5), ((3.0,), 3, 3)]
)
def test_the_product_is_what_must_not_fall_below_one(factors, protected, others):
    generation, stack = composed_stack(*map(Factor, factors))
    assert stack.weigh(batch_of(generation, [38, 5, 45]), None).tolist() == [protected, others, others]
    columns = torch.tensor([[38, 5], [45, 39]])
    batch = batch_of(generation, [0, 1])._replace(row=columns)
    assert stack.weigh(batch, None).tolist() == [[protected, others], [others, protected]]


def test_the_objective_has_the_full_loss_of_protected_rows():
    generation, stack = composed_stack(Factor(0.25))
    batch, loss = batch_of(generation, [36, 0, 39, 50]), torch.tensor([1.0, 10.0, 100.0, 1000.0])
    assert float(stack.objective({"loss": loss}, batch, None)) == (1 + 2.5 + 100 + 250) / 4


def test_without_a_factor_there_are_no_weights():
    generation, stack = composed_stack()
    assert stack.weigh(batch_of(generation, [36, 0]), None) is None


def test_the_list_follows_the_generation():
    """A stack that composed a generation without a guarantee remembers none."""

    class Once(Mitigation):
        def compose_training_set(self, mixture, generation):
            third = torch.arange(len(mixture.weights)) == 2
            return mixture.guaranteeing(third.long()) if generation.index == 1 else mixture

    stack = MitigationStack([Once(), Factor(0.5)])
    for index, expected in ((1, [0.5, 1.0]), (2, [0.5, 0.5])):
        generation = compose(at_generation(index), stack)
        assert stack.weigh(batch_of(generation, [1, 2]), None).tolist() == expected


@pytest.mark.parametrize("batch_size", [None, 7])
def test_a_fit_in_closed_form_has_them_at_full_weight(batch_size):
    chain = run_chain(
        Gaussian(1),
        GaussianData(rows=40, batch_size=batch_size),
        generations=3,
        samples_per_generation=30,
        mitigations=[DataAccumulation(), WeightedLikelihood(0.1), ProtectedStrata(0.1, k=1)],
        evaluate=False,
    )
    pool = chain.pool()
    x = pool.gather(torch.arange(100)).x[:, 0].double().numpy()
    weights = np.repeat([0.1 * 100 / 40, 0.9 * 100 / 60], [40, 60])
    distance = np.sort(cdist(x[:40, None], x[:40, None]), axis=1)[:, 1]
    protected = np.argsort(-distance, kind="stable")[:4]
    assert float(chain.state(2)["mean"]) != pytest.approx(np.average(x, weights=weights), rel=1e-6)
    weights[protected] = 1
    assert float(chain.state(2)["mean"]) == pytest.approx(np.average(x, weights=weights), rel=1e-10)


# --- a chain ----------------------------------------------------------------------------------------------------------


class RareSevens(Digits):
    """The digits with twelve sevens left."""

    def gold(self):
        gold = super().gold()
        rare = np.cumsum(gold.y == 7) > 12
        return gold[~(rare & (gold.y == 7))]


class Kept(GenerationCallback):
    """Keeps the training set of every generation."""

    def __init__(self):
        super().__init__()
        self.seen = {}

    def on_generation_end(self, trainer, module, generation):
        labels = generation.pool.labels[generation.rows]
        self.seen[generation.index] = (generation.rows, int((labels == 7).sum()))


def digits_chain(*mitigations, **settings):
    kept = Kept()
    model = VAE((1, 8, 8), 4, hidden=32)
    chain = run_chain(
        model,
        RareSevens(),
        generations=3,
        samples_per_generation=200,
        mitigations=mitigations,
        evaluate=False,
        callbacks=[kept],
        **settings,
    )
    return chain, kept.seen


def test_a_rare_class_lives_through_the_replace_regime(tmp_path):
    gold = RareSevens().gold()
    sevens = np.flatnonzero(gold.y == 7)
    assert len(sevens) == 12
    quota, strata = 3, ProtectedStrata(12 / len(gold), "class", quota=3)
    chain, seen = digits_chain(strata, store=tmp_path)
    plain, without = digits_chain()
    assert [count for _, count in without.values()] == [12, 0, 0], "the labels are gold's: nobody else has any"
    assert [count for _, count in seen.values()] == [36, 36, 36]
    for index, record in enumerate(chain.records):
        rows, _ = seen[index]
        count = torch.bincount(rows, minlength=len(gold))
        assert (count[sevens] == quota).all(), "all of them, as often as the quota says"
        trained = len(gold) if index == 0 else 200
        assert record.counts["trained"] == trained
        reported = {name: record.metrics[f"protected_{name}"] for name in ("rows", "quota", "trained", "share")}
        assert reported == {"rows": 12, "quota": 3, "trained": 36, "share": 36 / trained}
        assert record.counts["real"] == (trained if index == 0 else 36)
        manifest = json.loads((tmp_path / "generations" / f"gen_{index + 1:03d}" / "manifest.json").read_text())
        assert manifest["facts"]["model"]["protected"] == reported
    assert not any("protected" in name for record in plain.records for name in record.metrics)
    assert repr(strata) in (tmp_path / "run.json").read_text()
    again, _ = digits_chain(strata.twin(), store=tmp_path)
    assert [record.digests for record in again.records] == [record.digests for record in chain.records]


@pytest.mark.filterwarnings("ignore::collapse.mitigations.NoEffectWarning")
def test_without_protected_rows_every_manifest_is_what_it_was():
    plain, *nothing = (
        run_chain(Gaussian(1), GaussianData(rows=30), generations=3, samples_per_generation=20, mitigations=mitigations)
        for mitigations in ([], [ProtectedStrata(None, nobody)], [ProtectedStrata(0.0)])
    )
    for chain, index in itertools.product(nothing, range(1, 4)):
        one, other = (run.store.manifest(index).to_dict() for run in (plain, chain))
        named = {"config", "parent", "digest"}  # which mitigations there are is part of a chain's identity
        assert {name for name in one if one[name] != other[name]} <= named
        assert "protected" not in json.dumps(other)
