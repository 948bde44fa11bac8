"""How the terms of several mitigations are combined, and what is refused."""

import itertools
import math
import warnings

import numpy as np
import pytest
import pytorch_lightning as pl
import torch

from collapse.data import Batch, Mixture, Origin, RingOfGaussians, Samples
from collapse.data.generation import Generation
from collapse.data.pool import DataPool
from collapse.data.rows import provenance
from collapse.mitigations import (
    EMA,
    AnchorReplay,
    Claim,
    ConflictError,
    DataAccumulation,
    Mitigation,
    MitigationStack,
    NoEffectWarning,
    RealOnly,
    SIGReg,
    SlidingWindow,
    Stage,
)
from collapse.mitigations.mitigation import HOOKS
from collapse.models import VAE, GenerativeModule
from collapse.recursion import run_chain
from collapse.recursion.composition import compose
from collapse.seeding import generator

GOLD, SAMPLES = 40, 30


def at_generation(index, total=4, seed=3):
    """Generation ``index`` over a pool of gold and everything sampled before it."""
    records = [provenance(GOLD, origin=Origin.REAL, generation=0)]
    records += [provenance(SAMPLES, origin=Origin.SYNTHETIC, generation=made) for made in range(1, index + 1)]
    shards = [np.zeros((len(part), 2), np.float32) for part in records]
    return Generation(index, total, seed, SAMPLES, DataPool(shards, records))


def gold_of(generation):
    pool = generation.pool
    return Mixture(pool.is_real.double(), int(pool.is_real.sum()), pool.origin, pool.generation)


def chain_of(*mitigations, **settings):
    data = RingOfGaussians(4, rows=64, reference_rows=8, batch_size=16)
    model = VAE((2,), 2, hidden=16, likelihood="gaussian", scale=0.3)
    defaults = {"generations": 3, "samples_per_generation": 48, "evaluate": False}
    return run_chain(model, data, mitigations=mitigations, **{**defaults, **settings})


def digests(chain):
    return [record.digests for record in chain.records]


class AgeDecay(Mitigation):
    """Old rows count less."""

    def __init__(self, rate: float) -> None:
        self.rate = rate

    def compose_training_set(self, mixture, generation):
        age = (generation.index - mixture.arrival).clamp(min=0)  # rows held back have not arrived yet
        return mixture.reweighted(torch.exp(-self.rate * age.double()))


class Uneven(Mitigation):
    """Some weights that are no round numbers."""

    def __init__(self, phase: float) -> None:
        self.phase = phase

    def factor(self, rows):
        return 1.5 + torch.sin(self.phase * (rows.double() + 1))

    def compose_training_set(self, mixture, generation):
        return mixture.reweighted(self.factor(torch.arange(len(mixture.weights))))

    def weigh(self, batch, module):
        return self.factor(batch.row).float()


class Budget(Mitigation):
    """So many rows."""

    stage = Stage.BUDGET
    claims = frozenset({Claim.BUDGET})

    def __init__(self, rows: int) -> None:
        self.rows = rows

    def compose_training_set(self, mixture, generation):
        return mixture.resized(self.rows)


class Penalty(Mitigation):
    """A multiple of the outputs' mean square."""

    def __init__(self, weight: float) -> None:
        self.weight = weight

    def regularize(self, outputs, batch, module):
        return self.weight * outputs["latent"].square().mean()


class Shift(Mitigation):
    """Scales and shifts the samples; two of them do not commute."""

    def __init__(self, scale: float, shift: float) -> None:
        self.scale, self.shift = scale, shift

    def wrap_sampler(self, sample, module):
        return lambda n, generator: self.scale * sample(n, generator) + self.shift


class Keep(Mitigation):
    """Keeps the first rows, scaled."""

    def __init__(self, rows: int, scale: float) -> None:
        self.rows, self.scale = rows, scale

    def curate(self, samples, generation):
        return Samples(samples.x[: self.rows] * self.scale)


class Restart(Mitigation):
    """Starts from given weights."""

    claims = frozenset({Claim.INITIALIZATION})

    def __init__(self, value: float) -> None:
        self.value = value

    def initialize(self, module, generation):
        with torch.no_grad():
            for weight in module.parameters():
                weight.fill_(self.value)


# --- the order of the list --------------------------------------------------------------------------------------------

DATA_STACKS = {
    "accumulate": [DataAccumulation(), AnchorReplay(0.3, "redrawn"), AgeDecay(0.3), Uneven(0.7), Budget(37)],
    "subsample": [DataAccumulation(subsample=25), AnchorReplay(0.4), Uneven(1.1), Uneven(0.3), AgeDecay(0.01)],
    "window": [SlidingWindow(2), AnchorReplay(0.2, "fresh"), AgeDecay(0.5), Uneven(0.2), Budget(21)],
    "replace": [AnchorReplay(0.5), AgeDecay(0.1), Uneven(2.0), Uneven(0.9), Budget(80)],
    "control": [RealOnly(), Uneven(0.3), AgeDecay(0.2), Uneven(0.1), Budget(33)],
}


@pytest.mark.parametrize("name", DATA_STACKS)
def test_the_training_set_is_the_same_in_every_order(name):
    generation = at_generation(3)
    orders = list(itertools.permutations(DATA_STACKS[name]))
    composed = [compose(generation, MitigationStack(order)) for order in orders]
    assert len(composed) == math.factorial(5)
    first = composed[0]
    assert all(torch.equal(other.rows, first.rows) and other.facts == first.facts for other in composed[1:])
    measures = [MitigationStack(order).compose(gold_of(generation), generation) for order in orders]
    assert all(torch.equal(measure.weights, measures[0].weights) for measure in measures)
    everything = compose(generation, MitigationStack([DataAccumulation()]))
    assert not torch.equal(first.rows, everything.rows)


def test_the_objective_is_the_same_in_every_order():
    """Bit for bit: products and sums of floating-point numbers know an order."""
    module = VAE((2,), 2, hidden=8, likelihood="gaussian")
    rows = torch.arange(50)
    batch = Batch(torch.zeros(50, 2), None, rows, rows, rows)
    rng = generator(0)
    outputs = {"loss": torch.rand(50, generator=rng), "latent": torch.randn(50, 2, generator=rng)}
    terms = [Uneven(0.3), Uneven(0.8), Uneven(1.9), Penalty(0.1), Penalty(0.37)]
    values = [MitigationStack(order).objective(outputs, batch, module) for order in itertools.permutations(terms)]
    assert len({float(value) for value in values}) == 1
    weight = Uneven(0.3).weigh(batch, module) * Uneven(0.8).weigh(batch, module) * Uneven(1.9).weigh(batch, module)
    expected = (outputs["loss"] * weight).mean() + 0.47 * outputs["latent"].square().mean()
    torch.testing.assert_close(values[0], expected)


def test_a_chain_is_the_same_in_every_order():
    mitigations = [DataAccumulation(), AnchorReplay(0.25), SIGReg(0.1), EMA(0.9)]
    runs = [digests(chain_of(*order, generations=2)) for order in itertools.permutations(mitigations)]
    assert len(runs) == 24
    assert all(run == runs[0] for run in runs)


def test_wrappers_compose_with_the_first_one_innermost():
    class Fixed(GenerativeModule):
        def loss(self, batch):
            raise NotImplementedError

        def sample(self, n, generator, y=None):
            return torch.full((n, 1), 10.0)

    first, second = Shift(2.0, 1.0), Shift(3.0, 5.0)
    sample = MitigationStack([first, EMA(), second]).sampler(Fixed())
    assert sample(2, generator(0)).tolist() == [[(10 * 2 + 1) * 3 + 5.0]] * 2
    assert MitigationStack([second, first]).sampler(Fixed())(1, generator(0)).item() == (10 * 3 + 5) * 2 + 1.0
    bare = Fixed()
    assert MitigationStack([EMA()]).sampler(bare) == bare.sample


def test_curators_follow_the_list():
    samples = Samples(torch.arange(6.0)[:, None])
    first, second = Keep(4, 2.0), Keep(3, 0.5)
    stack = MitigationStack([first, AnchorReplay(0.1), second])
    assert stack.curates
    assert stack.curate(samples, at_generation(1)).x.tolist() == [[0.0], [1.0], [2.0]]
    assert not MitigationStack([AnchorReplay(0.1), EMA()]).curates


def test_curation_is_what_the_next_generation_trains_on():
    chain = chain_of(Keep(30, 0.5))
    assert [record.counts["kept"] for record in chain.records] == [30, 30, 30]
    assert [record.counts["candidates"] for record in chain.records] == [48, 48, 48]
    assert [record.counts["trained"] for record in chain.records] == [64, 30, 30]
    whole = chain_of(generations=1)
    kept, candidates = (np.load(one.root / "generations" / "gen_001" / "chunk_00000.npy") for one in (chain, whole))
    np.testing.assert_array_equal(kept, candidates[:30] * np.float32(0.5))


def test_the_owner_of_the_initial_weights_sets_them():
    chain = chain_of(Restart(0.01))
    plain = chain_of()
    assert chain.records[0].digests["weights"] != plain.records[0].digests["weights"], "generation 0's, too"
    # Every weight starts equal, so the hidden units stay copies of one another.
    hidden = chain.state(1)["encoder.1.0.weight"]
    assert torch.equal(hidden, hidden[:1].expand_as(hidden))
    assert not torch.equal(plain.state(1)["encoder.1.0.weight"], hidden)


class Crash(pl.Callback):
    """Stops the run in the middle of generation 1."""

    def on_train_batch_end(self, trainer, pl_module, *unused):
        if pl_module.clock.generation == 1 and pl_module.clock.epoch == 1:
            raise InterruptedError


def test_a_generation_resumed_after_its_initialization_is_the_same(tmp_path):
    """And nobody warns of an initialization that happened before the crash: warnings are errors here."""
    whole = chain_of(Restart(0.1), epochs_per_generation=2)
    with pytest.raises(InterruptedError):
        chain_of(Restart(0.1), epochs_per_generation=2, store=tmp_path, callbacks=[Crash()])
    assert digests(chain_of(Restart(0.1), epochs_per_generation=2, store=tmp_path)) == digests(whole)


def test_without_a_retention_generations_replace_each_other():
    generation = at_generation(2)
    rows = compose(generation, MitigationStack()).rows
    assert sorted(rows.tolist()) == list(range(GOLD + SAMPLES, GOLD + 2 * SAMPLES))
    gold = gold_of(at_generation(0))
    assert MitigationStack().compose(gold, at_generation(0)).real_fraction == 1


# --- conflicts --------------------------------------------------------------------------------------------------------

CONFLICTS = [
    (DataAccumulation(), SlidingWindow(2), "which generations are kept"),
    (RealOnly(), DataAccumulation(), "which generations are kept"),
    (AnchorReplay(0.1), RealOnly(), "the real fraction"),
    (AnchorReplay(0.1), AnchorReplay(0.2, "redrawn"), "the real fraction"),
    (Budget(3), DataAccumulation(subsample=20), "the size of the training set"),
    (EMA(0.5), EMA(0.9), "the final weights"),
    (Restart(0.0), Restart(1.0), "the initial weights"),
]


@pytest.mark.parametrize(("one", "other", "decision"), CONFLICTS)
def test_two_claims_on_one_decision_name_both(one, other, decision):
    for pair in itertools.permutations([one, other]):
        with pytest.raises(ConflictError) as caught:
            MitigationStack([SIGReg(0.1), *pair])
        assert str(caught.value) == f"{pair[0]!r} and {pair[1]!r} both decide {decision}; keep one of them"


def test_every_claim_is_in_the_table_of_conflicts():
    assert {decision for _, _, decision in CONFLICTS} == {claim.value for claim in Claim}


def test_a_conflict_is_raised_before_anything_is_written(tmp_path):
    with pytest.raises(ConflictError, match=r"DataAccumulation.*SlidingWindow"):
        chain_of(DataAccumulation(), SlidingWindow(3), store=tmp_path)
    assert not list(tmp_path.rglob("*"))


# --- misspelled hooks -------------------------------------------------------------------------------------------------

MISSPELLED = {
    "initialise": "initialize",
    "compose_trainingset": "compose_training_set",
    "compose_train_set": "compose_training_set",
    "weight": "weigh",
    "regularise": "regularize",
    "wrap_sample": "wrap_sampler",
    "curates": "curate",
    "finalise": "finalize",
    "on_generation_starts": "on_generation_start",
    "on_generation_ended": "on_generation_end",
}


@pytest.mark.parametrize("name", MISSPELLED)
def test_a_misspelled_hook_is_an_error_when_the_class_is_made(name):
    with pytest.raises(TypeError, match=f"Bad.{name} is no hook .* did you mean {MISSPELLED[name]}\\?"):
        type("Bad", (Mitigation,), {name: lambda self, *terms: None})


def test_every_hook_can_be_misspelled():
    assert set(MISSPELLED.values()) == set(HOOKS)


@pytest.mark.parametrize("name", [*HOOKS, "on_train_batch_end", "on_fit_start", "setup", "state_dict", "_weight"])
def test_hooks_and_private_helpers_are_no_misspellings(name):
    type("Good", (Mitigation,), {name: lambda self, *terms: None, "weight": 1.0, "weights": property(abs)})


# --- effects ----------------------------------------------------------------------------------------------------------


class Ones(Mitigation):
    """Weighs every row one."""

    def weigh(self, batch, module):
        return torch.ones(len(batch.x))


class Looks(Mitigation):
    """Has hooks that hand back what they got."""

    def curate(self, samples, generation):
        return samples

    def wrap_sampler(self, sample, module):
        return sample


def warned_in(*mitigations):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        chain = chain_of(*mitigations)
    return [str(warning.message) for warning in caught if issubclass(warning.category, NoEffectWarning)], chain


INEFFECTIVE = [SlidingWindow(1), SIGReg(0.0), AnchorReplay(0.0), EMA(0.0), Ones(), Looks(), AgeDecay(0.0)]


@pytest.mark.parametrize("mitigation", INEFFECTIVE, ids=repr)
def test_what_changed_nothing_warns_once_a_generation_and_changes_no_byte(mitigation):
    messages, chain = warned_in(mitigation)
    assert messages == [f"{mitigation!r} changed nothing in generation {generation}" for generation in (1, 2)]
    assert digests(chain) == digests(chain_of())


EFFECTIVE = [
    SlidingWindow(2),
    SIGReg(0.1),
    AnchorReplay(0.1),
    AnchorReplay(0.1, "fresh"),
    EMA(0.5),
    DataAccumulation(),
    Uneven(0.4),
    Penalty(0.1),
    Shift(0.9, 0.0),
    Keep(20, 1.0),
    Restart(0.1),
    Budget(20),
]


@pytest.mark.parametrize("mitigation", EFFECTIVE, ids=repr)
def test_what_changed_something_does_not_warn(mitigation):
    messages, chain = warned_in(mitigation)
    assert messages == []
    assert digests(chain) != digests(chain_of())


def test_only_the_ineffective_one_of_a_stack_warns():
    messages, chain = warned_in(DataAccumulation(), SIGReg(0.0), EMA(0.5))
    assert messages == [f"SIGReg(weight=0.0) changed nothing in generation {generation}" for generation in (1, 2)]
    assert digests(chain) == digests(chain_of(DataAccumulation(), EMA(0.5)))


def test_controls_owe_no_effect():
    messages, _ = warned_in(RealOnly())
    assert messages == []


def test_an_effect_in_one_generation_does_not_excuse_the_next():
    class Once(Mitigation):
        def compose_training_set(self, mixture, generation):
            return mixture.resized(20) if generation.index == 1 else mixture

    messages, _ = warned_in(Once())
    assert messages == ["Once() changed nothing in generation 2"]


# --- outside of a chain -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mitigation", [DataAccumulation(), SIGReg(0.1), EMA(), AnchorReplay(0.2)], ids=repr)
def test_a_mitigation_without_a_recursive_trainer_is_refused(mitigation, tmp_path):
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = pl.Trainer(
        max_epochs=1, callbacks=[mitigation], default_root_dir=tmp_path, enable_checkpointing=False, **quiet
    )
    module = VAE((2,), 2, hidden=8, likelihood="gaussian")
    with pytest.raises(ValueError, match="needs a RecursiveTrainer in the same callbacks list"):
        trainer.fit(module, datamodule=RingOfGaussians(4, rows=64, batch_size=16))
    assert trainer.global_step == 0
