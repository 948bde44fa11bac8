"""Text is measured by its n-grams and by what it costs the model, other rows also by what they cost."""

import json
import math

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import nn

from collapse.callbacks import GenerationEvaluation, likelihood
from collapse.callbacks.likelihood import negative_log_likelihood, row_likelihood, text_likelihood
from collapse.callbacks.profiles import text_profile
from collapse.data import Digits, GenerationStore, RecursiveDataModule, Samples
from collapse.metrics import TEXT_METRICS
from collapse.models import VAE, Gaussian, GenerativeModule, NGram
from collapse.recursion import run_chain
from collapse.recursion.sampling import ConditionedSampler, sample_rows
from collapse.seeding import Stream, generator, numpy_generator

VOCABULARY, LENGTH, ROWS = 6, 8, 50
LAW = np.array([0.4, 0.3, 0.15, 0.1, 0.04, 0.01])
LIKELIHOOD = {"heldout_cross_entropy", "self_perplexity", "entropy_rate"}


class Letters(RecursiveDataModule):
    """Independent letters in rows of ``length``, stored as text is."""

    vocabulary = VOCABULARY

    def __init__(self, length=LENGTH, rows=ROWS, batch_size=16, num_workers=0) -> None:
        super().__init__(batch_size, num_workers)
        self.length, self.rows = length, rows

    def _drawn(self, which):
        x = numpy_generator(5, which).choice(VOCABULARY, (self.rows, self.length), p=LAW)
        return Samples(x.astype(np.uint16))

    def gold(self):
        return self._drawn(0)

    def reference(self):
        return self._drawn(1)


class Uniform(GenerativeModule):
    """Knows that all letters are equally likely, but for rows that begin with the letter ``forbidden``."""

    def __init__(self, forbidden: int | None = None) -> None:
        super().__init__()
        self.forbidden, self.weight, self.dropout = forbidden, nn.Parameter(torch.zeros(())), nn.Dropout(0.5)
        self.modes = []

    def loss(self, batch):
        return self.weight.square().expand(len(batch.x))

    def log_prob(self, x):
        self.modes.append((self.training, torch.is_grad_enabled()))
        value = self.dropout(torch.full((len(x),), -LENGTH * math.log(VOCABULARY), dtype=torch.float64))
        return value if self.forbidden is None else torch.where(x[:, 0] == self.forbidden, -math.inf, value)

    def sample(self, n, generator, y=None):
        return torch.randint(VOCABULARY, (n, LENGTH), generator=generator)


def rows_of(root):
    """{(generation, name): row}."""
    rows = [json.loads(line) for line in (root / "metrics.jsonl").read_text().splitlines()]
    return {(row["generation"], row["name"]): row for row in rows}


def measured(model, data=None, **arguments):
    return run_chain(model, data or Letters(), generations=1, samples_per_generation=ROWS, **arguments).records[0]


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    """Two generations of independent letters, fitted exactly."""
    root = tmp_path_factory.mktemp("letters")
    model = NGram(VOCABULARY, 1, length=LENGTH)
    return run_chain(model, Letters(), generations=2, samples_per_generation=ROWS, store=root, seed=3)


# What a chain records


def test_a_chain_on_text_has_a_text_profile(chain):
    names = {metric.name for metric in TEXT_METRICS}
    expected = names | {f"deposit/{name}" for name in names} | LIKELIHOOD | {"real_fraction", "effective_size"}
    assert [set(record.metrics) for record in chain.records] == [expected] * 2


def test_samples_and_deposit_are_compared_with_held_out_text(chain):
    reference = Letters().reference().tensors()[0]
    store = GenerationStore(chain.root)
    for index in range(2):
        model = NGram(VOCABULARY, 1, length=LENGTH)
        model.load_state_dict(chain.state(index))
        drawn = sample_rows(model, ConditionedSampler(model.sample), ROWS, (3, Stream.EVALUATE, index), 1024)
        deposit = store.pool([store.manifest(index + 1)]).gather(torch.arange(ROWS)).x
        for prefix, rows in (("", drawn), ("deposit/", deposit)):
            values = text_profile(reference, rows)
            assert {name: chain.records[index].metrics[prefix + name] for name in values} == values
    assert chain.records[0].metrics["unigram_entropy"] == pytest.approx(-(LAW * np.log(LAW)).sum(), abs=0.15)


def test_the_floor_is_that_of_gold(chain):
    data, rows = Letters(), rows_of(chain.root)
    floor = text_profile(data.reference().tensors()[0], data.gold().tensors()[0])
    for name, value in floor.items():
        for prefix in ("", "deposit/"):
            row = rows[1, prefix + name]
            assert (row["floor"], row["n"], row["extractor"]) == (value, ROWS, None)
    assert {rows[1, name]["floor"] for name in LIKELIHOOD} == {None}


def test_held_out_text_costs_what_the_counts_say(chain):
    """The cross-entropy of two histograms, written out."""
    gold, reference = (
        np.bincount(np.asarray(part.x).ravel(), minlength=6) / (ROWS * LENGTH)
        for part in (Letters().gold(), Letters().reference())
    )
    expected = -(reference * np.log(gold)).sum()
    assert chain.records[0].metrics["heldout_cross_entropy"] == pytest.approx(expected, rel=1e-12)


def test_a_chain_is_perplexed_by_its_own_text_as_its_entropy_says(chain):
    for record, index in zip(chain.records, range(2), strict=True):
        law = chain.state(index)["probabilities"][0, 0]
        rate = record.metrics["entropy_rate"]
        assert record.metrics["self_perplexity"] == pytest.approx(math.exp(rate), rel=1e-12)
        deviation = float((law * (law.log() + torch.special.entr(law).sum()).square()).sum().sqrt())
        assert rate == pytest.approx(float(torch.special.entr(law).sum()), abs=4 * deviation / (ROWS * LENGTH) ** 0.5)


def test_a_biased_sampler_has_a_self_perplexity_and_no_entropy_rate():
    cold = measured(NGram(VOCABULARY, 1, length=LENGTH, temperature=0.3)).metrics
    plain = measured(NGram(VOCABULARY, 1, length=LENGTH)).metrics
    assert "entropy_rate" in plain
    assert "entropy_rate" not in cold
    assert cold["self_perplexity"] < plain["self_perplexity"] - 0.5
    assert cold["heldout_cross_entropy"] == plain["heldout_cross_entropy"]  # the law, not the sampler


def test_tokens_shorter_than_the_longest_ngram_are_rows_like_others():
    metrics = measured(NGram(VOCABULARY, 1, length=3), Letters(length=3)).metrics
    assert {"coverage", "recall", "variance_ratio"} <= set(metrics)
    assert not set(TEXT_METRICS) & set(metrics)


# What rows cost


def test_a_uniform_model_costs_the_logarithm_of_the_vocabulary():
    reference = Letters().reference().tensors()[0]
    drawn = torch.zeros(7, LENGTH, dtype=torch.int32)
    values = text_likelihood(Uniform(), reference, drawn)
    assert values == pytest.approx(
        {"heldout_cross_entropy": math.log(6), "self_perplexity": 6.0, "entropy_rate": math.log(6)}, rel=1e-15
    )
    assert row_likelihood(Uniform(), reference, drawn) == pytest.approx({"heldout_nll": LENGTH * math.log(6)})


def test_an_excluded_row_costs_everything():
    reference = torch.tensor([[0] * LENGTH, [1] * LENGTH])
    costs = negative_log_likelihood(Uniform(forbidden=1), reference)
    assert costs.tolist() == [LENGTH * math.log(6), math.inf]
    assert text_likelihood(Uniform(forbidden=1), reference, reference[:1])["heldout_cross_entropy"] == math.inf


@pytest.mark.parametrize("training", [True, False])
def test_a_model_is_asked_in_evaluation_mode_and_put_back(training, monkeypatch):
    monkeypatch.setattr(likelihood, "CHUNK", 20)
    model = Uniform().train(training)
    costs = negative_log_likelihood(model, Letters().reference().tensors()[0])
    assert model.modes == [(False, False)] * 3
    assert model.training is training
    assert costs.unique().tolist() == [LENGTH * math.log(6)]  # dropout would double or drop some


def test_costs_come_in_the_order_of_rows_whatever_the_chunks(chain, monkeypatch):
    model, rows = NGram(VOCABULARY, 1, length=LENGTH), Letters().reference().tensors()[0]
    model.load_state_dict(chain.state(0))
    whole = negative_log_likelihood(model, rows)
    assert torch.equal(whole, -model.log_prob(rows))
    monkeypatch.setattr(likelihood, "CHUNK", 7)
    assert torch.equal(negative_log_likelihood(model, rows), whole)


@pytest.mark.parametrize("classes", [None, 10])
def test_a_vae_is_asked_for_its_bound(classes):
    model, data = VAE((1, 8, 8), 2, hidden=8, classes=classes), Digits()
    rows, labels = data.reference()[:100].tensors()
    given = None if classes is None else labels
    expected = -model.elbo(rows, y=given, generator=generator(0, Stream.EVALUATE, 3)).detach().double()
    before = torch.get_rng_state()
    assert torch.equal(negative_log_likelihood(model, rows, labels), expected)
    assert torch.equal(negative_log_likelihood(model, rows, labels), expected)  # the same draws
    assert torch.equal(torch.get_rng_state(), before)
    assert row_likelihood(model, rows, rows[:1], labels=labels) == {"heldout_nll": float(expected.mean())}
    if classes is not None:
        unlabeled = -model.elbo(rows, y=torch.full((100,), -1), generator=generator(0, Stream.EVALUATE, 3))
        assert torch.equal(negative_log_likelihood(model, rows), unlabeled.detach().double())


@pytest.mark.parametrize("classes", [None, 10])
def test_a_chain_of_images_records_the_bound_of_held_out_rows(classes, tmp_path):
    model, data = VAE((1, 8, 8), 2, hidden=8, classes=classes), Digits()
    arguments = {"generations": 1, "samples_per_generation": 64, "steps_per_generation": 3, "store": tmp_path}
    chain = run_chain(model, data, callbacks=[GenerationEvaluation()], **arguments)
    model.load_state_dict(chain.state(0))
    rows, labels = data.reference().tensors()
    value = chain.records[0].metrics["heldout_nll"]
    assert value == float(negative_log_likelihood(model, rows, labels).mean())
    row = rows_of(tmp_path)[0, "heldout_nll"]
    assert (row["n"], row["floor"], row["extractor"]) == (len(rows), None, None)


class Foreign(pl.LightningModule):
    """A user's own module, whose ``log_prob`` may be anything."""

    def log_prob(self, x, temperature):
        raise AssertionError("not ours to call")


@pytest.mark.parametrize("model", [Gaussian(3), Foreign(), nn.Linear(2, 2)], ids=lambda model: type(model).__name__)
def test_models_without_a_likelihood_are_not_asked(model):
    assert negative_log_likelihood(model, torch.zeros(2, 3)) is None
    assert row_likelihood(model, torch.zeros(2, 3), torch.zeros(2, 3)) == {}
    assert text_likelihood(model, torch.zeros(2, 3), torch.zeros(2, 3)) == {}


def test_sharded_weights_are_not_gathered_by_one_process(monkeypatch):
    monkeypatch.setattr(likelihood, "is_sharded", lambda module: True)
    assert negative_log_likelihood(Uniform(), Letters().reference().tensors()[0]) is None
