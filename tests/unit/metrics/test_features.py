"""Feature extractors: reproducible, isolated, cached; and metrics in their space order degradations of digits."""

import random

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from collapse.metrics import (
    METRICS,
    ClassifierFeatures,
    IdentityFeatures,
    RandomConvFeatures,
    class_histogram,
    frechet_distance,
    neighborhood_profile,
    total_variation,
)
from collapse.metrics import features as features_module


def permutation(n, seed=0):
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def digits():
    data = load_digits()
    x = torch.tensor(data.images, dtype=torch.float32)[:, None] / 16
    order = permutation(len(x))
    return x[order], torch.tensor(data.target)[order]


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("features")


@pytest.fixture(scope="module")
def classifier(digits, cache):
    x, y = digits
    return ClassifierFeatures.fit(x[:1000], y[:1000], 10, cache=cache)


@pytest.fixture
def few_steps(monkeypatch):
    monkeypatch.setattr(features_module, "STEPS", 5)


# The spaces


def test_identity_flattens():
    x = torch.arange(24.0).reshape(2, 3, 2, 2)
    extractor = IdentityFeatures((3, 2, 2))
    assert extractor.id == "identity"
    assert extractor.num_features == 12
    assert torch.equal(extractor(x), torch.arange(24.0).reshape(2, 12))


def test_random_conv_is_a_function_of_its_seed(digits):
    x = digits[0][:50]
    a, b, c = (RandomConvFeatures((1, 8, 8), seed) for seed in (0, 0, 1))
    assert (a.id, c.id) == ("random-conv-0", "random-conv-1")
    assert torch.equal(a(x), b(x))
    assert not torch.equal(a(x), c(x))
    assert a(x).shape == (50, a.num_features)
    assert a(x).var(0).sum() > 0


def test_classifier_generalizes(digits, classifier):
    x, y = digits
    assert (classifier.classify(x[1000:]) == y[1000:]).float().mean() > 0.93
    assert classifier(x[:3]).shape == (3, classifier.num_features)


def test_classifier_of_vectors_generalizes(digits):
    x, y = digits[0].flatten(1), digits[1]
    extractor = ClassifierFeatures.fit(x[:1000], y[:1000], 10)
    assert (extractor.classify(x[1000:]) == y[1000:]).float().mean() > 0.93


def test_features_are_frozen(digits, classifier):
    outer = torch.nn.Sequential(classifier).train()
    assert not any(module.training for module in classifier.modules())
    assert not any(p.requires_grad for p in outer.parameters())
    assert not classifier(digits[0][:2].clone().requires_grad_()).requires_grad


@pytest.mark.parametrize("chunk_size", [1, 7])
def test_features_do_not_depend_on_chunks(digits, classifier, monkeypatch, chunk_size):
    x = digits[0][:40]
    for extractor in (classifier, RandomConvFeatures((1, 8, 8)), IdentityFeatures((1, 8, 8))):
        whole = extractor(x)
        monkeypatch.setattr(extractor, "chunk_size", chunk_size)
        torch.testing.assert_close(extractor(x), whole, rtol=1e-5, atol=1e-5)


def test_features_are_float32_whatever_comes_in(digits, classifier):
    x = digits[0][:4]
    assert classifier(x.double()).dtype == torch.float32
    assert torch.equal(classifier(x.double()), classifier(x))


# Identity and isolation


def test_id_names_everything_that_determines_the_weights(few_steps, digits):
    x, y = digits[0][:100], digits[1][:100]
    changed = x.clone()
    changed[3, 0, 2, 2] += 1 / 16
    fits = [(x, y, 10, 0), (changed, y, 10, 0), (x, y.roll(1), 10, 0), (x, y, 11, 0), (x, y, 10, 1)]
    ids = [ClassifierFeatures.fit(*arguments).id for arguments in fits]
    assert len(set(ids)) == len(ids)
    assert all(id.startswith("classifier-") and len(id) == len("classifier-") + 8 for id in ids)
    assert ClassifierFeatures.fit(x.double(), y.int(), 10).id == ids[0]


def test_fit_ignores_and_keeps_global_state(few_steps, digits):
    x, y = digits[0][:100], digits[1][:100]
    first = ClassifierFeatures.fit(x, y, 10)
    torch.manual_seed(5)
    before = (torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate())  # noqa: NPY002
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with torch.inference_mode():
            second = ClassifierFeatures.fit(x.clone(), y.clone(), 10)
            RandomConvFeatures((1, 8, 8))(x)
            assert torch.equal(second(x), first(x))
            assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])  # noqa: NPY002
    assert random.getstate() == before[2]


# Cache


def test_cache_hit_is_bit_equal_and_does_not_train(digits, classifier, cache, monkeypatch):
    monkeypatch.setattr(features_module, "_train", lambda *_: pytest.fail("trained although the cache is there"))
    x, y = digits
    again = ClassifierFeatures.fit(x[:1000], y[:1000], 10, cache=cache)
    assert again.id == classifier.id
    assert torch.equal(again(x), classifier(x))
    assert [path.name for path in cache.iterdir()] == [f"{classifier.id}.pt"]


def flip_a_bit(content):
    middle = len(content) // 2  # inside the weights, where torch itself sees nothing
    return content[:middle] + bytes([content[middle] ^ 64]) + content[middle + 1 :]


def state_without_checksum(path):
    torch.save({"head.weight": torch.zeros(2)}, path)


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda path: path.write_bytes(b""), id="empty"),
        pytest.param(lambda path: path.write_bytes(b"not a checkpoint"), id="text"),
        pytest.param(lambda path: path.write_bytes(path.read_bytes()[:1000]), id="truncated"),
        pytest.param(lambda path: path.write_bytes(flip_a_bit(path.read_bytes())), id="flipped-bit"),
        pytest.param(state_without_checksum, id="foreign"),
    ],
)
def test_corrupt_cache_is_trained_again_and_replaced(few_steps, digits, tmp_path, caplog, damage):
    x, y = digits[0][:100], digits[1][:100]
    first = ClassifierFeatures.fit(x, y, 10, cache=tmp_path)
    path = tmp_path / f"{first.id}.pt"
    damage(path)
    second = ClassifierFeatures.fit(x, y, 10, cache=tmp_path)
    assert torch.equal(second(x), first(x))
    assert "is corrupt" in caplog.text
    caplog.clear()
    assert torch.equal(ClassifierFeatures.fit(x, y, 10, cache=tmp_path)(x), first(x))
    assert not caplog.text
    assert list(tmp_path.iterdir()) == [path]


def test_failed_write_leaves_nothing_behind(few_steps, digits, tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(features_module.os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        ClassifierFeatures.fit(digits[0][:100], digits[1][:100], 10, cache=tmp_path / "new")
    assert list((tmp_path / "new").iterdir()) == []


# Errors


def test_wrong_rows_are_explained(classifier):
    with pytest.raises(ValueError, match=r"x has shape \(2, 64\), but classifier-.* expects rows of shape \(1, 8, 8\)"):
        classifier(torch.zeros(2, 64))
    with pytest.raises(ValueError, match=r"shape = \(2,\), but images \(C, H, W\) are needed; use IdentityFeatures"):
        RandomConvFeatures((2,))


@pytest.mark.parametrize(
    ("x", "y", "classes", "message"),
    [
        (torch.zeros(4, 2), torch.zeros(3, dtype=torch.long), 2, r"x has shape \(4, 2\) and y has shape \(3,\)"),
        (torch.zeros(0, 2), torch.zeros(0, dtype=torch.long), 2, "N >= 1"),
        (torch.zeros(2, 2), torch.tensor([0, 2]), 2, r"ranges over \[0, 2\], but integers in \[0, classes = 2\)"),
        (torch.zeros(2, 2), torch.tensor([0.0, 1.0]), 2, "dtype torch.float32"),
        (torch.full((2, 2), torch.inf), torch.tensor([0, 1]), 2, "NaN or infinite"),
    ],
)
def test_wrong_gold_rows_are_explained(x, y, classes, message):
    with pytest.raises(ValueError, match=message):
        ClassifierFeatures.fit(x, y, classes)


# Metrics in these spaces: two disjoint halves of the digits, the second one degraded step by step


def drop_classes(x, y):
    return [x[y < keep][permutation(int((y < keep).sum()))].repeat(2, 1, 1, 1)[: len(x)] for keep in (10, 8, 5, 2)]


def shrink(x, y):
    return [x.mean(0) + s * (x - x.mean(0)) for s in (1.0, 0.8, 0.5, 0.2)]


def duplicate(x, y):
    return [x[torch.arange(len(x)) % n] for n in (len(x), 200, 50, 10)]


@pytest.fixture(params=["classifier", "random-conv"])
def extractor(request, classifier):
    return classifier if request.param == "classifier" else RandomConvFeatures((1, 8, 8))


@pytest.mark.parametrize("degrade", [drop_classes, shrink, duplicate])
def test_degradations_are_ordered(digits, extractor, degrade):
    x, y = digits
    reference = extractor(x[:890])
    sets = [extractor(g) for g in degrade(x[890:], y[890:])]
    distance = [frechet_distance(reference, g).item() for g in sets]
    covered = [neighborhood_profile(reference, g)["coverage"].item() for g in sets]
    assert distance == sorted(distance)
    assert distance[-1] > 5 * distance[0]
    assert covered == sorted(covered, reverse=True)
    assert covered[-1] < 0.6 * covered[0]


def test_duplicates_keep_precision_and_lose_recall(digits, classifier):
    x, _ = digits
    profile = neighborhood_profile(classifier(x[:890]), classifier(duplicate(x[890:], None)[-1]))
    assert profile["precision"] >= 0.7
    assert profile["recall"] == 0


def add_noise(x, y):
    return [x + s * torch.randn(x.shape, generator=torch.Generator().manual_seed(1)) for s in (0.0, 0.2, 0.4, 0.8)]


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_every_metric_sees_what_it_says_it_detects(digits, classifier, metric):
    """Fidelity falls with noise, diversity and tails with the spread; shrunk digits stay inside precision's balls."""
    x, y = digits
    degrade = {"fidelity": add_noise, "diversity": shrink, "tails": shrink}[metric.detects]
    values = [metric.compute(classifier(x[:890]), classifier(g)).item() for g in degrade(x[890:], y[890:])]
    assert values == sorted(values, reverse=metric.higher_is_better)
    assert values[0] != values[-1]


def test_predicted_histogram_sees_lost_classes(digits, classifier):
    x, y = digits
    truth = class_histogram(y[:890], 10)
    moved = [total_variation(truth, class_histogram(classifier.classify(g), 10)).item() for g in drop_classes(x, y)]
    assert moved == sorted(moved)
    assert moved[0] < 0.05
    assert moved[-1] == pytest.approx(1 - truth[:2].sum().item(), abs=0.02)
