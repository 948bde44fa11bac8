"""What every mitigation promises, swept over the namespace: a class without a row in ``TABLE`` fails."""

import copy
import inspect
import pickle
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import pytest
import pytorch_lightning as pl

import collapse.mitigations
from collapse.data import Origin, RingOfGaussians, Samples
from collapse.mitigations import (
    EMA,
    Admit,
    AnchorReplay,
    DataAccumulation,
    Mitigation,
    NoEffectWarning,
    OutlierFilter,
    PoolGate,
    ProtectedStrata,
    RealOnly,
    Replace,
    SIGReg,
    SlidingWindow,
    WeightedLikelihood,
)
from collapse.mitigations.mitigation import HOOKS
from collapse.models import VAE
from collapse.recursion import run_chain
from collapse.seeding import generator


class Row(NamedTuple):
    """What is tried of a mitigation.

    Attributes:
        effective: Settings that change a chain.
        neutral: Settings that change no byte of it.
        misuse: Arguments that are refused, and a word of the sentence that says why.
        beside: What the effective settings need beside them to have anything to act on.
    """

    effective: Sequence[Mitigation]
    neutral: Sequence[Mitigation] = ()
    misuse: Sequence[tuple[dict[str, Any], str]] = ()
    beside: Sequence[Mitigation] = ()


TABLE = {
    Replace: Row([], neutral=[Replace()]),
    DataAccumulation: Row(
        [
            *(DataAccumulation(), DataAccumulation(50), DataAccumulation(subsample=50, replacement=True)),
            DataAccumulation(fixed_size=True),
        ],
        misuse=[
            ({"subsample": 0}, "subsample must be at least 1"),
            ({"replacement": True}, "replacement=True needs a subsample"),
            ({"subsample": 5, "fixed_size": True}, "are two sizes"),
        ],
    ),
    SlidingWindow: Row(
        [SlidingWindow(2), SlidingWindow(k=3)],
        neutral=[SlidingWindow(1)],
        misuse=[({"k": 0}, "k must be at least 1"), ({}, "k")],
    ),
    RealOnly: Row([RealOnly()]),
    AnchorReplay: Row(
        [
            *(AnchorReplay(0.1), AnchorReplay(1.0), AnchorReplay(0.25, "redrawn"), AnchorReplay(0.25, rows="fresh")),
            AnchorReplay(0.25, "coin"),
        ],
        neutral=[AnchorReplay(0.0), AnchorReplay(0, "fresh")],
        misuse=[
            ({"fraction": 1.1}, r"fraction must lie in \[0, 1\], got 1.1"),
            ({"fraction": -0.1}, "fraction must lie in"),
            ({"fraction": 0.1, "rows": "fixd"}, "did you mean 'fixed'"),
        ],
    ),
    Admit: Row(
        [Admit(), Admit("unknown", from_generation=0)],
        neutral=[Admit("synthetic")],
        misuse=[
            ({"origin": "real"}, "origin='real' needs no admission"),
            ({"origin": "unknwon"}, "did you mean 'unknown'"),
            ({"from_generation": -1}, "from_generation must be at least 0, got -1"),
        ],
    ),
    ProtectedStrata: Row(
        [ProtectedStrata(0.1), ProtectedStrata(0.05, "class", quota=3), ProtectedStrata(share=0.2, k=9)],
        neutral=[ProtectedStrata(0.0), ProtectedStrata(0, by="token")],
        misuse=[
            ({"share": 1.1}, r"share must lie in \[0, 1\] or be None, got 1.1"),
            ({"share": 0.1, "by": "densty"}, "did you mean 'density'"),
            ({"share": 0.1, "quota": 0}, "quota must be at least 1"),
            ({"share": 0.1, "by": "class", "k": 3}, "goes with by='density' alone"),
            ({"share": None, "by": "class"}, "give the share of gold to protect"),
            ({"share": None, "by": lambda gold: gold.y == 1}, "does not say which function it is"),
            ({"share": 0.1, "by": 3}, "by must be one of"),
        ],
    ),
    WeightedLikelihood: Row(
        [WeightedLikelihood(0.8), WeightedLikelihood(share=0.0)],
        beside=[DataAccumulation()],
        neutral=[WeightedLikelihood(None)],
        misuse=[
            ({"share": 1.5}, r"share must lie in \[0, 1\] or be None, got 1.5"),
            ({"share": -0.1}, "share must lie in"),
        ],
    ),
    SIGReg: Row(
        [SIGReg(0.1), SIGReg(2.0, slices=8, unbiased=False), SIGReg(weight=0.1, t_max=2.0, knots=9)],
        neutral=[SIGReg(0.0)],
        misuse=[
            ({"weight": -1.0}, "weight must be at least 0"),
            ({"weight": 1.0, "slices": 0}, "slices must be at least 1"),
            ({"weight": 1.0, "knots": 1}, "knots must be at least 2"),
        ],
    ),
    EMA: Row(
        [EMA(0.5), EMA()],
        neutral=[EMA(0.0)],
        misuse=[({"decay": 1.0}, r"decay must lie in \[0, 1\), got 1.0"), ({"decay": -0.5}, "decay must lie in")],
    ),
    OutlierFilter: Row(  # so short a chain samples the middle of the ring: nearer than the other modes, if nothing else
        [OutlierFilter(0.05, neighbors=60), OutlierFilter(rate=0.02, neighbors=55, max_gold=80)],
        neutral=[OutlierFilter(0.0), OutlierFilter(0, neighbors=1)],
        misuse=[
            ({"rate": 1.0}, r"rate must lie in \[0, 1\), got 1.0"),
            ({"neighbors": 0}, "neighbors must be at least 1"),
            ({"neighbors": 9, "max_gold": 9}, "max_gold must be more than neighbors, got 9 and 9"),
        ],
    ),
    PoolGate: Row(
        [],
        neutral=[PoolGate(0.0), PoolGate(0, max_rows=50)],
        misuse=[
            ({"false_alarm": 0.6}, r"false_alarm must lie in \[0, 0.5\], got 0.6"),
            ({"max_rows": 2}, "max_rows must be at least 3"),
        ],
    ),
}

EXPORTED = [getattr(collapse.mitigations, name) for name in collapse.mitigations.__all__]
CLASSES = [kind for kind in EXPORTED if issubclass(kind, Mitigation) and kind is not Mitigation]
EFFECTIVE = [mitigation for row in TABLE.values() for mitigation in row.effective]
NEUTRAL = [mitigation for row in TABLE.values() for mitigation in row.neutral]
MISUSE = [(kind, arguments, message) for kind, row in TABLE.items() for arguments, message in row.misuse]


def again(mitigation):
    """Make a mitigation from its repr, with the names of the namespace at hand and no others."""
    return eval(repr(mitigation), {**vars(collapse.mitigations)})


class ScrapedRing(RingOfGaussians):
    """A ring that came with rows that nobody declared."""

    def held(self):
        return {Origin.UNKNOWN: Samples(3 * self.draw(20, generator(7)).x)}


def chain_of(*mitigations, **settings):
    defaults = {"generations": 3, "samples_per_generation": 48, "epochs_per_generation": 2, "evaluate": False}
    model = VAE((2,), 2, hidden=16, likelihood="gaussian", scale=0.3)
    data = ScrapedRing(4, rows=100, reference_rows=8, batch_size=16)
    return run_chain(model, data, mitigations=mitigations, **{**defaults, **settings})


def digests(chain):
    return [record.digests for record in chain.records]


def watched(*mitigations):
    """Run a chain; return its digests and what NoEffectWarning said."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = digests(chain_of(*mitigations))
    return found, [str(one.message) for one in caught if issubclass(one.category, NoEffectWarning)]


@pytest.fixture(scope="module")
def plain():
    return digests(chain_of())


def test_every_mitigation_is_in_the_table():
    assert set(CLASSES) == set(TABLE)
    assert all(row.effective or kind.control for kind, row in TABLE.items())


@pytest.mark.parametrize("kind", CLASSES)
def test_it_says_what_it_is_and_where_it_comes_from(kind):
    assert kind.citation
    assert kind.citation == "control" or any(year in kind.citation for year in map(str, range(1980, 2030)))
    assert inspect.getdoc(kind) != inspect.getdoc(Mitigation)
    assert any(hook in vars(kind) for hook in HOOKS), "it changes something"
    arguments = list(inspect.signature(kind).parameters)
    assert all(f"{name}:" in kind.__doc__ for name in arguments), "every argument is explained"


@pytest.mark.parametrize("mitigation", [*EFFECTIVE, *NEUTRAL], ids=repr)
def test_its_repr_makes_it_again(mitigation):
    twin = again(mitigation)
    assert twin == mitigation
    assert hash(twin) == hash(mitigation)
    assert twin.state_key == mitigation.state_key
    for duplicate in (mitigation.twin(), copy.deepcopy(mitigation), pickle.loads(pickle.dumps(mitigation))):
        assert duplicate == mitigation
        assert repr(duplicate) == repr(mitigation)
    others = [other for other in (*EFFECTIVE, *NEUTRAL) if other is not mitigation]
    assert mitigation not in others
    assert repr(mitigation) not in map(repr, others)


@pytest.mark.parametrize("mitigation", NEUTRAL, ids=repr)
def test_its_neutral_setting_changes_no_byte_and_says_so(mitigation, plain):
    found, messages = watched(mitigation)
    assert found == plain
    expected = [f"{mitigation!r} changed nothing in generation {generation}" for generation in (1, 2)]
    assert messages == ([] if mitigation.control else expected)


@pytest.mark.parametrize("mitigation", EFFECTIVE, ids=repr)
def test_its_other_settings_change_the_chain_and_do_not_warn(mitigation, plain):
    beside = TABLE[type(mitigation)].beside
    found, messages = watched(mitigation, *beside)
    without = digests(chain_of(*beside)) if beside else plain
    assert messages == []
    assert [one["weights"] for one in found[1:]] != [one["weights"] for one in without[1:]]
    assert watched(again(mitigation), *beside) == (found, []), "the same settings are the same chain"


@pytest.mark.parametrize(("kind", "arguments", "message"), MISUSE)
def test_misuse_is_a_sentence(kind, arguments, message):
    with pytest.raises((ValueError, TypeError), match=message):
        kind(**arguments)


class Crash(pl.Callback):
    """Stops the run in the middle of generation 1 and of its epoch."""

    def on_train_batch_end(self, trainer, pl_module, *unused):
        if pl_module.clock.generation == 1 and pl_module.clock.epoch == 1:
            raise InterruptedError


@pytest.mark.parametrize("mitigation", EFFECTIVE, ids=repr)
def test_a_crash_changes_nothing(mitigation, tmp_path):
    beside = TABLE[type(mitigation)].beside
    whole = chain_of(mitigation, *beside)
    with pytest.raises(InterruptedError):
        chain_of(mitigation, *beside, store=tmp_path, callbacks=[Crash()])
    resumed = chain_of(again(mitigation), *beside, store=tmp_path)
    assert digests(resumed) == digests(whole)
    assert [record.metrics for record in resumed.records] == [record.metrics for record in whole.records]


@pytest.mark.parametrize("mitigation", [*EFFECTIVE, *NEUTRAL], ids=repr)
def test_it_is_refused_where_nobody_asks_for_its_terms(mitigation, tmp_path):
    mitigation = again(mitigation)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = pl.Trainer(
        max_epochs=1, callbacks=[mitigation], default_root_dir=tmp_path, enable_checkpointing=False, **quiet
    )
    with pytest.raises(ValueError, match="needs a RecursiveTrainer in the same callbacks list"):
        trainer.fit(VAE((2,), 2, hidden=8, likelihood="gaussian"), datamodule=RingOfGaussians(4, rows=64))
    assert trainer.global_step == 0
