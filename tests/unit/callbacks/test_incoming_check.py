"""A check of every deposit: it warns of collapse and not of its absence, says what it saw, and changes nothing."""

import json
import warnings
from types import SimpleNamespace

import pytest
import torch

from collapse.callbacks import IncomingCheck, IncomingWarning
from collapse.data import CategoricalData, Digits, GaussianData, GenerationStore, RingOfGaussians
from collapse.metrics import FeatureExtractor, RandomConvFeatures, check_incoming
from collapse.metrics.splits import STATISTICS
from collapse.mitigations import RealOnly
from collapse.models import VAE, Categorical, Gaussian, GaussianMixture
from collapse.recursion import run_chain
from collapse.seeding import Stream, generator

NAMES = {*(f"check/{name}" for name in STATISTICS), "check/p_value"}


def watched(model, data, check, **settings):
    """Run a chain with a check; return it with the generations that were warned of, and what was said."""
    defaults = {"generations": 2, "samples_per_generation": 60, "evaluate": False, "callbacks": [check]}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        chain = run_chain(model, data, **{**defaults, **settings})
    said = [str(one.message) for one in caught if issubclass(one.category, IncomingWarning)]
    return chain, [int(sentence.split()[1]) for sentence in said], said


# What it says


MODELS = {
    "Gaussian": (lambda: Gaussian(2), lambda: GaussianData(300, 2), 8),
    "mixture on the ring": (lambda: GaussianMixture(4, 2), lambda: RingOfGaussians(4, rows=300, batch_size=None), 8),
}


@pytest.mark.parametrize("name", MODELS)
def test_collapse_raises_the_alarm_and_its_absence_does_not(name):
    model, data, generations = MODELS[name]
    settings = {"generations": generations, "samples_per_generation": 40, "seed": 1}
    _, alarms, said = watched(model(), data(), IncomingCheck(), **settings)
    assert alarms
    assert all(
        sentence.startswith(f"generation {index} deposited 40 incoming rows")
        for index, sentence in zip(alarms, said, strict=True)
    )
    settings["samples_per_generation"] = 300
    _, alarms, _ = watched(model(), data(), IncomingCheck(), mitigations=[RealOnly()], **settings)
    assert alarms == []


def test_samples_of_a_poor_model_are_no_digits():
    data = Digits()
    _, alarms, said = watched(
        VAE((1, 8, 8), 2, hidden=8), data, IncomingCheck(max_rows=200), samples_per_generation=300
    )
    assert alarms == [0, 1]
    assert said[0].startswith("generation 0 deposited 200 of 300 incoming rows beside 200 of gold: ")
    assert " is outside [" in said[0]


# What it records


def rows_of(root):
    """{(generation, name): row} of the record."""
    rows = [json.loads(line) for line in (root / "metrics.jsonl").read_text().splitlines()]
    return {(row["generation"], row["name"]): row for row in rows if row["name"].startswith("check/")}


def test_the_record_is_the_check_of_deposit_and_gold(tmp_path):
    data = GaussianData(80, 2)
    chain, _, _ = watched(Gaussian(2), data, IncomingCheck(0.05), store=tmp_path, seed=3)
    store, found = GenerationStore(chain.root), rows_of(tmp_path)
    assert set(found) == {(index, name) for index in range(2) for name in NAMES}
    for index in range(2):
        draws = generator(3, Stream.CHECK, index, 1)
        drawn = torch.randperm(60, generator=draws).sort().values
        deposit = store.pool([store.manifest(index + 1)]).gather(drawn).x
        report = check_incoming(torch.as_tensor(data.gold().x), deposit, generator=draws, false_alarm=0.05)
        for finding in report.findings:
            row = found[index, f"check/{finding.statistic}"]
            assert (row["value"], row["floor"], row["n"]) == (finding.value, finding.expected, 60)
            assert row["extractor"] is None
            assert chain.records[index].metrics[f"check/{finding.statistic}"] == finding.value
        assert found[index, "check/p_value"]["value"] == report.p_value


def test_features_of_ones_own(tmp_path):
    extractor = RandomConvFeatures((1, 8, 8))
    settings = {"store": tmp_path, "generations": 1}
    chain, _, _ = watched(VAE((1, 8, 8), 2, hidden=8), Digits(), IncomingCheck(0.1, extractor, max_rows=50), **settings)
    found = rows_of(tmp_path)[0, "check/variance_ratio"]
    assert (found["extractor"], found["n"]) == (extractor.id, 50)
    draws = generator(0, Stream.CHECK, 0, 0)
    gold = torch.as_tensor(Digits().gold().x)
    gold = gold[torch.randperm(len(gold), generator=draws)[:50].sort().values].float() / 255
    draws = generator(0, Stream.CHECK, 0, 1)
    drawn = torch.randperm(60, generator=draws)[:50].sort().values
    deposit = chain.pool().gather(len(Digits().gold()) + drawn).x
    spread = [extractor(rows).double().var(0).sum() for rows in (deposit, gold)]
    assert found["value"] == pytest.approx(float(spread[0] / spread[1]), rel=1e-6)


# What it leaves alone


def test_it_changes_nothing():
    chains = [
        run_chain(Gaussian(2), GaussianData(80, 2), generations=3, samples_per_generation=60, callbacks=callbacks)
        for callbacks in ([], [IncomingCheck(0.001)])
    ]
    assert [record.digests for record in chains[0].records] == [record.digests for record in chains[1].records]
    others = [
        {name: value for name, value in record.metrics.items() if name not in NAMES} for record in chains[1].records
    ]
    assert others == [record.metrics for record in chains[0].records]


def test_rows_of_many_experiments_and_too_few_rows_are_passed_over():
    chain, alarms, _ = watched(Gaussian(2, replicates=3), GaussianData(30, 2, replicates=3), IncomingCheck())
    assert not NAMES & set(chain.records[0].metrics)
    chain, _, _ = watched(Gaussian(2), GaussianData(30, 2), IncomingCheck(), samples_per_generation=2)
    assert not NAMES & set(chain.records[0].metrics)
    assert alarms == []


class OneHot(FeatureExtractor):
    """One coordinate for each of four tokens."""

    def __init__(self):
        super().__init__("one-hot-4", (), 4)

    def embed(self, x):
        return torch.nn.functional.one_hot(x.long(), 4).float()


def test_tokens_are_passed_over_unless_an_extractor_gives_them_distances():
    settings = {"generations": 1, "evaluate": False}
    chain, _, _ = watched(Categorical(4), CategoricalData(rows=99), IncomingCheck(), **settings)
    assert not NAMES & set(chain.records[0].metrics)
    chain, _, _ = watched(Categorical(4), CategoricalData(rows=99), IncomingCheck(0.1, OneHot()), **settings)
    assert set(chain.records[0].metrics) >= NAMES


def test_only_the_first_process_checks():
    trainer = SimpleNamespace(is_global_zero=False)
    assert IncomingCheck().on_generation_end(trainer, None, None) is None  # it does not even look


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"false_alarm": 0.0}, r"false_alarm must lie in \(0, 0.5\], got 0.0"),
        ({"false_alarm": 0.7}, "got 0.7"),
        ({"max_rows": 2}, "max_rows must be at least 3, got 2"),
    ],
)
def test_misuse_is_a_sentence(arguments, message):
    with pytest.raises(ValueError, match=message):
        IncomingCheck(**arguments)
