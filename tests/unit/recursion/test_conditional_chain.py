"""Class-conditional chains: which labels rows are sampled under, and that they are written with them."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from collapse import (
    VAE,
    AnchorReplay,
    DataAccumulation,
    GaussianMixtureData,
    GenerativeModule,
    run_chain,
)
from collapse.data import GaussianData, GenerationStore, Samples
from collapse.data.generation import Generation, GenerationCallback
from collapse.mitigations import Mitigation
from collapse.mitigations.mitigation import Stage
from collapse.models.conditions import LabelLaw, Prompts
from collapse.recursion.harvest import write_samples
from collapse.recursion.lineage import lineage
from collapse.recursion.sampling import ConditionedSampler
from collapse.recursion.verification import faults
from collapse.seeding import Stream, generator, keyed_rng

SEED, MADE, CHUNK, K = 5, 300, 128, 3
DATA = GaussianMixtureData([0.6, 0.3, 0.1], [[-4.0, 0.0], [4.0, 0.0], [0.0, 6.0]], rows=200, batch_size=50)


def vae(classes=K, **settings):
    return VAE((2,), 2, hidden=16, likelihood="gaussian", scale=0.5, classes=classes, **settings)


def chain(*mitigations, module=None, data=DATA, generations=3, **settings):
    options = {"samples_per_generation": MADE, "chunk_size": CHUNK, "seed": SEED, "evaluate": False, **settings}
    return run_chain(module or vae(), data, generations=generations, mitigations=mitigations, **options)


def records_of(run, generation):
    """The provenance of what was sampled for a generation."""
    chunks = range(len(run.store.manifest(generation).chunks))
    return np.concatenate([run.store.read_chunk(generation, index)[1] for index in chunks])


def law_of(run, generation):
    """The label law that the manifest of a generation speaks of, that of the model that sampled it."""
    return run.store.manifest(generation).facts["model"]["label_law"]


def labels_again(law, generation, rows=MADE):
    """The labels of a harvest, from their law and their addresses alone."""
    return torch.cat(
        [
            LabelLaw(law).draw(
                min(CHUNK, rows - first), generator(SEED, Stream.CONDITION, Stream.SAMPLE, generation, c)
            )
            for c, first in enumerate(range(0, rows, CHUNK))
        ]
    ).tolist()


def frequencies(labels, classes=K):
    return (np.bincount(labels, minlength=classes) / len(labels)).tolist()


class Heavier(Mitigation):
    """Weighs the rows of one class five times as much."""

    stage = Stage.REWEIGH

    def __init__(self, label=2):
        self.label = label

    def compose_training_set(self, mixture, generation):
        return mixture.reweighted(torch.where(generation.pool.labels == self.label, 5.0, 1.0))


class Odd(Mitigation):
    """Keeps every other candidate, scored by its first value."""

    def curate(self, samples, generation):
        return samples.select(np.arange(len(samples)) % 2, score=samples.x[:, 0])


# --- the law and the labels -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def replaced():
    return chain()


def test_the_first_law_is_golds_and_every_later_one_that_of_the_rows_before(replaced):
    assert law_of(replaced, 1) == pytest.approx(frequencies(DATA.gold().y), rel=1e-12)
    for generation in (2, 3):
        before = frequencies(records_of(replaced, generation - 1)["label"])
        assert law_of(replaced, generation) == pytest.approx(before, rel=1e-12)


@pytest.mark.parametrize("generation", [1, 2, 3])
def test_rows_carry_the_labels_that_their_addresses_draw(replaced, generation):
    records = records_of(replaced, generation)
    assert records["label"].tolist() == labels_again(law_of(replaced, generation), generation)
    assert chisquare(np.bincount(records["label"]), MADE * np.array(law_of(replaced, generation))).pvalue > 1e-4


def test_every_row_was_sampled_under_its_own_label(replaced):
    model, labels = vae(), torch.from_numpy(records_of(replaced, 3)["label"][:CHUNK].copy())
    model.load_state_dict(replaced.state(2))
    x = model.eval().sample(CHUNK, generator(SEED, Stream.SAMPLE, 3, 0), labels)
    np.testing.assert_array_equal(replaced.store.read_chunk(3, 0)[0][:], x.numpy().astype(DATA.gold().x.numpy().dtype))


def test_the_rows_lie_where_their_labels_say():
    run = chain(module=vae(learning_rate=0.02), generations=1, epochs_per_generation=25)
    x, labels = run.pool().stored(np.arange(200, 200 + MADE)), records_of(run, 1)["label"]
    nearest = np.linalg.norm(x[:, None] - DATA.modes().numpy(), axis=2).argmin(1)
    assert (nearest == labels).mean() > 0.9  # 0.46 if labels and rows had nothing to do with each other


@pytest.mark.parametrize(
    ("mitigations", "expected"),
    [
        ([Heavier()], lambda gold, made: made * [1, 1, 5]),
        ([DataAccumulation()], lambda gold, made: 200 * gold + MADE * made),
        ([AnchorReplay(0.3, "redrawn")], lambda gold, made: 0.3 * gold + 0.7 * made),
    ],
    ids=lambda value: type(value[0]).__name__ if isinstance(value, list) else "",
)
def test_the_law_is_that_of_the_mixture(mitigations, expected):
    run = chain(*mitigations, generations=2)
    gold, made = (np.array(frequencies(labels)) for labels in (DATA.gold().y, records_of(run, 1)["label"]))
    law = expected(gold, made)
    assert law_of(run, 2) == pytest.approx((law / law.sum()).tolist(), rel=1e-12)
    assert records_of(run, 2)["label"].tolist() == labels_again(law_of(run, 2), 2)


def test_the_bias_of_a_mixture_builds_up():
    shares = [law[2] for law in (law_of(chain(Heavier(), generations=3), generation) for generation in (1, 2, 3))]
    assert shares[0] < 0.4 < 0.55 < shares[1] < 0.8 < shares[2]


# --- who else draws ---------------------------------------------------------------------------------------------------


class Rank(SimpleNamespace):
    """One of W processes, as far as ``write_samples`` can tell."""

    def __init__(self, rank, world):
        agreeing = SimpleNamespace(reduce_boolean_decision=lambda decision, all=True: decision)
        super().__init__(global_rank=rank, world_size=world, strategy=agreeing)


def test_one_process_and_many_write_the_same_labels(tmp_path):
    with keyed_rng(0):
        module = vae()
    sampler, manifests = ConditionedSampler(module.sample, LabelLaw([0.2, 0.5, 0.3])), []
    for world in (1, 2, 3, 5):
        store = GenerationStore(tmp_path / str(world), durable=False)
        store.write_gold(DATA.gold(), facts={})
        generation = Generation(0, 1, SEED, 50, store.pool([store.manifest(0)]))
        for rank in reversed(range(world)):
            chunks = write_samples(Rank(rank, world), module, sampler, store, generation=generation, chunk_size=12)
        manifests.append(store.seal(1, chunks, parent="", facts={}).digest)
    assert len(set(manifests)) == 1
    assert store.pool([store.manifest(1)]).labels.bincount().min() > 0


class Observer(GenerationCallback):
    """Samples what an observer samples."""

    def __init__(self):
        self.seen = []

    def on_generation_end(self, trainer, module, generation):
        self.seen.append(generation.sample(200, Stream.EVALUATE))


def test_an_observer_samples_under_the_same_law_and_other_labels():
    observer = Observer()
    run = chain(generations=2, callbacks=[observer])
    for index, seen in enumerate(observer.seen):
        model, law = vae(), LabelLaw(law_of(run, index + 1))
        model.load_state_dict(run.state(index))
        addresses = [(Stream.EVALUATE, index, chunk) for chunk in range(2)]
        y = [law.draw(n, generator(SEED, Stream.CONDITION, *a)) for n, a in zip((128, 72), addresses, strict=True)]
        drawn = [
            model.eval().sample(len(labels), generator(SEED, *address), labels)
            for labels, address in zip(y, addresses, strict=True)
        ]
        assert torch.equal(seen, torch.cat(drawn))
        assert torch.cat(y).tolist() != records_of(run, index + 1)["label"][:200].tolist()


class Shifted(Mitigation):
    """Wraps the sampler and keeps the labels that came by."""

    def __init__(self):
        self.labels = []

    def wrap_sampler(self, sample, module):
        def shifted(n, generator, y=None):
            self.labels += y.tolist()
            return sample(n, generator, y) + 1

        return shifted


def test_a_wrapper_is_handed_the_labels():
    shifted = Shifted()
    run = chain(shifted, generations=1)
    assert shifted.labels == records_of(run, 1)["label"].tolist()
    plain = chain(generations=1)
    np.testing.assert_allclose(run.store.read_chunk(1, 0)[0], plain.store.read_chunk(1, 0)[0] + 1, atol=1e-6)


def test_curation_keeps_the_labels_of_what_it_keeps():
    drawn, kept = records_of(chain(generations=1), 1), records_of(run := chain(Odd(), generations=2), 1)
    assert kept["candidate"].tolist() == list(range(1, MADE, 2))
    assert kept["label"].tolist() == drawn["label"][1::2].tolist()
    rejected = run.store.rejected(1)
    assert rejected["candidate"].tolist() == list(range(0, MADE, 2))
    assert rejected["digest"].tolist() == drawn["digest"][::2].tolist()
    assert law_of(run, 2) == pytest.approx(frequencies(kept["label"]), rel=1e-12)


def test_lineage_says_the_label_and_verification_finds_no_fault(tmp_path):
    run = chain(Odd(), generations=2, store=tmp_path)
    label = records_of(run, 1)["label"][7]
    assert f"row 207: synthetic, for generation 1 on, label {label}, " in next(lineage(run.store, 207).lines())
    assert list(faults(GenerationStore(tmp_path))) == []
    facts = json.loads((tmp_path / "generations" / "gen_002" / "manifest.json").read_text())["facts"]
    assert facts["model"]["label_law"] == law_of(run, 2)


# --- prompts, and models without conditions ---------------------------------------------------------------------------


class Continues(GenerativeModule):
    """Begins its rows with a prompt of two tokens and goes on with random ones."""

    learning_rate = 0.0

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def conditions(self, data):
        return Prompts(data.prompts(2))

    def loss(self, batch):
        return self.weight * batch.x.sum(1)

    def sample(self, n, generator, y=None):
        return torch.cat([y, torch.randint(9, (n, 2), generator=generator)], 1)


class Tokens(GaussianData):
    """Rows of four tokens, and prompts none of which is like another."""

    def gold(self):
        return Samples(np.zeros((40, 4), np.uint16))

    def prompts(self, length):
        return 100 + torch.arange(7 * length).view(7, length)


def test_rows_begin_with_the_prompts_that_their_addresses_draw():
    data = Tokens()
    run = chain(module=Continues(), data=data, generations=2)
    for generation in (1, 2):
        prompts, records = Prompts(data.prompts(2)), records_of(run, generation)
        assert set(records["label"]) == {-1}
        for chunk in range(3):
            rows, _ = run.store.read_chunk(generation, chunk)
            address = generator(SEED, Stream.CONDITION, Stream.SAMPLE, generation, chunk)
            places = prompts.places(len(rows), address)
            assert rows[:, :2].tolist() == prompts.tokens[places].tolist()
            assert len(set(places.tolist())) == 7


def test_a_model_without_conditions_is_sampled_without_labels():
    class TwoArguments(VAE):
        def sample(self, n, generator):
            return super().sample(n, generator)

    run = chain(module=TwoArguments((2,), 2, hidden=8, likelihood="gaussian"), generations=2)
    assert set(records_of(run, 1)["label"]) == {-1}
    assert law_of(run, 1) == pytest.approx(frequencies(DATA.gold().y), rel=1e-12)  # a fact of gold, whoever trains
    assert "label_law" not in run.store.manifest(2).facts["model"]


def test_more_classes_than_the_data_have_are_never_asked_for():
    assert set(records_of(chain(module=vae(9), generations=2), 2)["label"]) <= {0, 1, 2}
