"""Evaluation measures what it says, with its floor, and changes nothing."""

import json
import math
from pathlib import Path

import pytest
import torch

from collapse.callbacks import GenerationEvaluation, SampleGallery
from collapse.callbacks.evaluation import cache_folder, default_extractor
from collapse.callbacks.profiles import profile
from collapse.data import Digits, GaussianData, GenerationStore, RingOfGaussians, Samples
from collapse.data.rows import decode, encode
from collapse.metrics import (
    ClassifierFeatures,
    IdentityFeatures,
    RandomConvFeatures,
    class_histogram,
    frechet_distance,
    neighborhood_profile,
    tail_mass,
    tail_recall,
    total_variation,
    variance_ratio,
)
from collapse.models import VAE, Gaussian
from collapse.recursion import run_chain
from collapse.recursion.sampling import ConditionedSampler, sample_rows
from collapse.seeding import Stream, generator

ROWS = 120
NAMES = {"fd_identity", "precision", "recall", "density", "coverage", "tail_mass", "tail_recall", "variance_ratio"}


def normal(rows, *shape, seed=0, scale=1.0):
    return scale * torch.randn(rows, *shape, generator=generator(seed))


@pytest.fixture(scope="module")
def digits():
    """Three hundred gold digits with their labels, and a hundred reference ones."""
    gold, labels = Digits().gold()[:300].tensors()
    return gold, labels, Digits().reference()[:100].tensors()[0]


# The profile


@pytest.mark.parametrize("neighbors", [3, 5])
def test_a_profile_is_the_metrics_of_the_package(neighbors):
    reference, generated = normal(80, 3), normal(70, 3, seed=1, scale=0.5)
    found = profile(reference, generated, IdentityFeatures((3,)), neighbors=neighbors)
    expected = {name: float(value) for name, value in neighborhood_profile(reference, generated, k=neighbors).items()}
    expected["fd_identity"] = float(frechet_distance(reference, generated))
    expected["variance_ratio"] = float(variance_ratio(reference, generated))
    expected["tail_recall"] = float(tail_recall(reference, generated, k=neighbors))
    expected["tail_mass"] = float(tail_mass(reference, generated))
    assert found == expected
    assert found["variance_ratio"] == pytest.approx(0.25, rel=0.3)
    assert "tail_mass" not in profile(normal(4, 3), generated, IdentityFeatures((3,)), neighbors=neighbors)


def test_a_profile_of_labeled_rows_counts_classes(digits):
    gold, labels, reference = digits
    extractor = ClassifierFeatures.fit(gold, labels, 10)
    generated = gold[labels < 3][:60]
    found = profile(reference, generated, extractor, classes=10)
    shares = class_histogram(extractor.classify(generated), 10)
    assert [found[f"class_share/{index}"] for index in range(10)] == shares.tolist()
    assert sum(shares[3:]) < 0.2
    wanted = class_histogram(extractor.classify(reference), 10)
    assert found["class_total_variation"] == float(total_variation(wanted, shares)) > 0.5
    assert found["fd_classifier"] == float(frechet_distance(extractor(reference), extractor(generated)))
    # the variance of the rows themselves: features are the network's business
    assert found["variance_ratio"] == float(variance_ratio(reference.flatten(1), generated.flatten(1)))


def test_the_name_of_a_distance_is_that_of_its_features(digits):
    gold, _, reference = digits
    found = profile(reference, gold[:100], RandomConvFeatures((1, 8, 8)), classes=10)
    assert "fd_random-conv" in found
    assert not [name for name in found if name.startswith(("class_", "fd_classifier", "fd_identity"))]


def test_few_rows_have_few_neighbors():
    reference, generated = normal(40, 2), normal(4, 2, seed=1)
    found = profile(reference, generated, IdentityFeatures((2,)), neighbors=5)
    assert found["coverage"] == float(neighborhood_profile(reference, generated, k=3)["coverage"])


# What a chain records


def rows_of(root, name):
    """{generation: row} of one metric."""
    rows = [json.loads(line) for line in (root / "metrics.jsonl").read_text().splitlines()]
    return {row["generation"]: row for row in rows if row["name"] == name}


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    """Two generations of a Gaussian on the plane, measured on as many rows as there are."""
    data = GaussianData(ROWS, 2, reference_rows=ROWS)
    root = tmp_path_factory.mktemp("chain")
    return data, run_chain(Gaussian(2), data, generations=2, samples_per_generation=ROWS, store=root, seed=4)


def expected(data, rows):
    reference = torch.as_tensor(data.reference().x)
    return profile(reference, torch.as_tensor(rows), IdentityFeatures((2,)))


def test_the_floor_is_the_profile_of_other_real_rows(chain):
    data, chain = chain
    floor = expected(data, data.gold().x)
    assert set(floor) == NAMES
    for name, value in floor.items():
        for prefix in ("", "deposit/"):
            found = rows_of(chain.root, prefix + name)
            assert [row["floor"] for row in found.values()] == [value, value]
    assert floor["coverage"] > 0.9


def test_the_deposit_is_measured(chain):
    data, chain = chain
    store = GenerationStore(chain.root)
    for index in range(2):
        pool = store.pool([store.manifest(index + 1)])
        values = expected(data, pool.gather(torch.arange(len(pool))).x)
        assert {name: chain.records[index].metrics[f"deposit/{name}"] for name in values} == values


def test_the_model_is_measured_on_rows_of_its_own(chain):
    data, chain = chain
    for index in range(2):
        model = Gaussian(2)
        model.load_state_dict(chain.state(index))
        drawn = sample_rows(model, ConditionedSampler(model.sample), ROWS, (4, Stream.EVALUATE, index), 1024)
        values = expected(data, drawn)
        assert {name: chain.records[index].metrics[name] for name in values} == values
        assert values != {name: chain.records[index].metrics[f"deposit/{name}"] for name in values}


def test_every_value_says_how_it_was_measured(chain):
    _, chain = chain
    for name in NAMES:
        for row in rows_of(chain.root, name).values():
            assert row["n"] == ROWS
            assert row["extractor"] == (None if name == "variance_ratio" else "identity")
    facts = rows_of(chain.root, "real_fraction")
    assert [row["value"] for row in facts.values()] == [1.0, 0.0]
    assert {row["floor"] for row in facts.values()} == {None}


def test_sets_are_cut_to_one_size_and_to_the_same_rows_in_every_run(tmp_path):
    def floors(seed):
        data = GaussianData(400, 2, reference_rows=300)
        evaluation = GenerationEvaluation(max_rows=100, neighbors=3)
        root = tmp_path / str(seed)
        arguments = {"generations": 1, "samples_per_generation": 250, "store": root, "seed": seed}
        run_chain(Gaussian(2), data, callbacks=[evaluation], **arguments)
        found = [rows_of(root, f"{prefix}{name}")[0] for prefix in ("", "deposit/") for name in sorted(NAMES)]
        assert {row["n"] for row in found} == {100}
        return [row["floor"] for row in found]

    assert floors(0) == floors(1)


def test_images_are_measured_as_they_are_stored():
    data, extractor = Digits(), IdentityFeatures((1, 8, 8))
    reference = data.reference().tensors()[0]
    model = VAE((1, 8, 8), 2, hidden=8, likelihood="gaussian")
    arguments = {"generations": 1, "samples_per_generation": 64, "steps_per_generation": 2}
    chain = run_chain(model, data, callbacks=[GenerationEvaluation(extractor)], **arguments)
    model.load_state_dict(chain.state(0))
    drawn = sample_rows(model, ConditionedSampler(model.sample), len(reference), (0, Stream.EVALUATE, 0), 1024)
    rounded = decode(torch.from_numpy(encode(drawn, data.gold().x.dtype)))
    values = profile(reference, rounded, extractor)
    assert {name: chain.records[0].metrics[name] for name in values} == values
    assert values != profile(reference, drawn, extractor)
    assert not [name for name in chain.records[0].metrics if name.startswith("class_")]


def test_replicated_data_are_passed_over():
    data = GaussianData(50, 2, replicates=3)
    chain = run_chain(Gaussian(2, replicates=3), data, generations=2, samples_per_generation=50)
    assert [set(record.metrics) for record in chain.records] == [{"real_fraction", "effective_size"}] * 2


def test_a_reference_too_small_to_compare_with_is_passed_over():
    data = GaussianData(50, 2, reference_rows=1)
    chain = run_chain(Gaussian(2), data, generations=1, samples_per_generation=50)
    assert set(chain.records[0].metrics) == {"real_fraction", "effective_size"}


def test_evaluation_can_be_left_out_or_replaced():
    data = GaussianData(50, 2)
    arguments = {"generations": 1, "samples_per_generation": 50}
    without = run_chain(Gaussian(2), data, evaluate=False, **arguments)
    assert set(without.records[0].metrics) == {"real_fraction", "effective_size"}
    own = run_chain(Gaussian(2), data, callbacks=[GenerationEvaluation(max_rows=20)], **arguments)
    assert set(own.records[0].metrics) >= NAMES


@pytest.mark.parametrize(("neighbors", "max_rows"), [(0, 10), (1, 1)])
def test_arguments_out_of_range(neighbors, max_rows):
    with pytest.raises(ValueError, match=rf"neighbors must be at least 1.*got {neighbors} and {max_rows}"):
        GenerationEvaluation(neighbors=neighbors, max_rows=max_rows)


# An observer changes nothing


def digests(**arguments):
    model = VAE((2,), 2, hidden=8, likelihood="gaussian")
    data = RingOfGaussians(modes=4, rows=64, reference_rows=32, batch_size=16)
    chain = run_chain(model, data, generations=3, samples_per_generation=48, epochs_per_generation=2, **arguments)
    return [record.digests for record in chain.records], chain


class Greedy(GenerationEvaluation):
    """Draws random numbers as if nobody else wanted any."""

    def on_generation_end(self, trainer, module, generation):
        torch.manual_seed(13)
        super().on_generation_end(trainer, module, generation)
        torch.rand(1000)


def test_who_watches_does_not_matter():
    alone, _ = digests(evaluate=False)
    assert len({record["weights"] for record in alone}) == 3
    for callbacks in ([GenerationEvaluation()], [Greedy(), SampleGallery(4)]):
        watched, chain = digests(callbacks=callbacks)
        assert watched == alone
        assert "coverage" in chain.records[2].metrics


# The feature space


def test_the_cache_is_where_the_environment_says(monkeypatch):
    monkeypatch.setenv("COLLAPSE_CACHE", "/one")
    assert cache_folder() == Path("/one")
    monkeypatch.delenv("COLLAPSE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/two")
    assert cache_folder() == Path("/two/collapse")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/three")
    assert cache_folder() == Path("/three/.cache/collapse")


def test_a_classifier_is_trained_once_and_kept_under_its_hash(tmp_path, monkeypatch, digits):
    monkeypatch.setenv("COLLAPSE_CACHE", str(tmp_path))
    gold, labels, _ = digits
    first = default_extractor(Samples(gold, labels), 10)
    (path,) = tmp_path.iterdir()
    assert path.name == f"{first.id}.pt"
    written = path.stat().st_ino, path.stat().st_mtime_ns  # reading may change when it was last read

    again = default_extractor(Samples(gold, labels), 10)
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == written
    assert again.id == first.id
    assert torch.equal(again(gold), first(gold))

    other = default_extractor(Samples(gold[:200], labels[:200]), 10)
    assert {file.name for file in tmp_path.iterdir()} == {f"{first.id}.pt", f"{other.id}.pt"}
    assert len({first.id, other.id}) == 2


def test_rows_without_labels_are_their_own_features(tmp_path, monkeypatch):
    monkeypatch.setenv("COLLAPSE_CACHE", str(tmp_path))
    for samples, classes in ((Samples(normal(10, 3)), 4), (Samples(normal(10, 3), torch.zeros(10).long()), None)):
        extractor = default_extractor(samples, classes)
        assert (extractor.id, extractor.shape) == ("identity", (3,))
    assert list(tmp_path.iterdir()) == []


def test_a_chain_on_labeled_rows_uses_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("COLLAPSE_CACHE", str(tmp_path))
    _, chain = digests()
    (path,) = tmp_path.iterdir()
    row = [record.metrics["fd_classifier"] for record in chain.records]
    assert all(math.isfinite(value) for value in row)
    assert rows_of(chain.root, "fd_classifier")[0]["extractor"] == path.stem
    shares = [chain.records[0].metrics[f"class_share/{index}"] for index in range(4)]
    assert sum(shares) == pytest.approx(1)
