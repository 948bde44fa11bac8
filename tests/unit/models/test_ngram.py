"""The n-gram estimator against brute force, exact Markov chains and the law of drift."""

import itertools
import math
from collections import Counter

import numpy as np
import pytest
import torch
from scipy import stats

from collapse.data import Batch
from collapse.data.discrete import MarkovData
from collapse.models.estimators.categorical import Categorical
from collapse.models.estimators.ngram import NGram
from collapse.recursion import run_chain
from collapse.seeding import generator
from collapse.theory import categorical

SIGMAS = 4.5
TRANSITION = ((0.5, 0.3, 0.2), (0.1, 0.6, 0.3), (0.25, 0.25, 0.5))


def rows(n, replicates=2, length=4, vocabulary=3, seed=0):
    x = torch.rand(n, replicates, length, generator=generator(seed)).square()  # some tokens are rare
    return (vocabulary * x).int()


def batch_of(x):
    nothing = torch.zeros(len(x), dtype=torch.int64)
    return Batch(x, None, nothing, nothing, torch.arange(len(x)))


def fitted(x, order=2, vocabulary=3, sizes=None, weights=None, **arguments):
    model = NGram(vocabulary, order, length=x.shape[2], replicates=x.shape[1], **arguments)
    model.begin()
    parts = x.split(sizes or len(x))
    factors = [None] * len(parts) if weights is None else weights.split(sizes or len(x))
    for part, factor in zip(parts, factors, strict=True):
        model.update(batch_of(part), factor)
    model.finish()
    return model


def counted(x, order, vocabulary, weights):
    """Weight of every (context, token) of rows (n, L), by a dictionary."""
    found = Counter()
    for row, weight in zip(x.tolist(), weights.tolist(), strict=True):
        padded = [vocabulary] * (order - 1) + row
        for place, token in enumerate(row):
            found[tuple(padded[place : place + order - 1]), token] += weight
    return found


def contexts(order, vocabulary):
    return itertools.product(range(vocabulary + 1), repeat=order - 1)


@pytest.mark.parametrize("order", [1, 2, 3, 6])
@pytest.mark.parametrize("sizes", [60, 7])
@pytest.mark.parametrize("smoothing", [0.0, 0.5])
@pytest.mark.parametrize("weighted", [False, True])
def test_frequencies_equal_brute_force(order, sizes, smoothing, weighted):
    x = rows(60)
    weights = torch.rand(60, 2, dtype=torch.float64, generator=generator(5)) if weighted else None
    model = fitted(x, order, sizes=sizes, weights=weights, smoothing=smoothing)
    for replicate in range(2):
        factor = torch.ones(60) if weights is None else weights[:, replicate]
        found = counted(x[:, replicate], order, 3, factor)
        everywhere = np.array([sum(found[key] for key in found if key[1] == token) for token in range(3)])
        for index, context in enumerate(contexts(order, 3)):
            counts = np.array([found[context, token] for token in range(3)])
            wanted = (counts + smoothing) / (counts.sum() + 3 * smoothing) if counts.sum() + smoothing else None
            wanted = everywhere / everywhere.sum() if wanted is None else wanted
            np.testing.assert_allclose(model.probabilities[replicate, index], wanted, rtol=1e-11)
            np.testing.assert_allclose(model.visits[replicate, index], counts.sum(), rtol=1e-11)


def test_many_rows_are_taken_up_in_blocks(monkeypatch):
    x = rows(300)
    model = fitted(x, 3)
    whole, likelihoods = model.probabilities, model.log_prob(x)
    monkeypatch.setattr("collapse.models.estimators.ngram.BLOCK", 64)
    assert torch.equal(fitted(x, 3).probabilities, whole)
    assert torch.equal(model.log_prob(x), likelihoods)


def test_without_context_it_is_the_categorical_model():
    x = rows(40, length=1)
    model, beside = fitted(x, 1), Categorical(3, replicates=2)
    beside.fit(x[..., 0])
    assert torch.equal(model.probabilities[:, 0], beside.probabilities)
    assert torch.equal(model.log_prob(x), beside.log_prob(x[..., 0]))


@pytest.mark.parametrize("order", [1, 2, 3])
def test_the_likelihoods_of_all_rows_sum_to_one(order):
    model = fitted(rows(5), order)
    every = torch.tensor(list(itertools.product(range(3), repeat=4)))[:, None].expand(-1, 2, -1)
    torch.testing.assert_close(model.log_prob(every).exp().sum(0), torch.ones(2).double(), rtol=1e-12, atol=0)


def test_loss_is_the_sum_over_tokens():
    x = rows(30)
    model = fitted(x)
    wanted = []
    for row in x.tolist():
        chances = [
            math.prod(float(model.probabilities[r, c, v]) for c, v in itertools.pairwise([3, *row[r]]))
            for r in range(2)
        ]
        wanted.append(-sum(math.log(chance) for chance in chances) / 2)
    np.testing.assert_allclose(model.loss(batch_of(x)), wanted, rtol=1e-12)


def test_an_unseen_pair_has_infinite_loss():
    model = fitted(torch.tensor([[[0, 1, 0]], [[0, 1, 0]]]))
    losses = model.loss(batch_of(torch.tensor([[[0, 1, 0]], [[0, 0, 1]], [[2, 1, 0]]])))
    assert losses.tolist() == [0, math.inf, math.inf]


@pytest.mark.parametrize("order", [1, 2, 3])
def test_samples_have_the_law_of_the_likelihood(order):
    model, n = fitted(rows(12), order), 50_000
    x = model.sample(n, generator(1))
    assert x.shape == (n, 2, 4)
    assert x.dtype == torch.int32
    every = torch.tensor(list(itertools.product(range(3), repeat=4)))
    chances = model.log_prob(every[:, None].expand(-1, 2, -1)).exp().numpy()
    for replicate in range(2):
        counts = torch.bincount((x[:, replicate] * torch.tensor([27, 9, 3, 1])).sum(1), minlength=81).numpy()
        possible = chances[:, replicate] > 0
        assert counts[~possible].sum() == 0
        many = n * chances[:, replicate] >= 5
        counts, wanted = (np.append(value[many], value[~many].sum()) for value in (counts, n * chances[:, replicate]))
        assert stats.chisquare(counts[wanted > 0], wanted[wanted > 0]).pvalue > 1e-5


def test_a_stationary_chain_stays_stationary():
    data = MarkovData(200_000, TRANSITION, length=6, replicates=1)
    gold = data.gold().x
    model = fitted(gold)
    error = (torch.tensor(TRANSITION, dtype=torch.float64) - model.probabilities[0, :3]).abs()
    assert (error < SIGMAS * (0.25 / model.visits[0, :3, None]) ** 0.5).all()
    n = 200_000
    x, (start, step) = model.sample(n, generator(0))[:, 0], (model.probabilities[0, 3], model.probabilities[0, :3])
    for place in range(6):
        law = start @ torch.linalg.matrix_power(step, place)  # of the fitted chain, exactly
        counts = torch.bincount(x[:, place], minlength=3)
        assert stats.chisquare(counts.numpy(), n * law.numpy()).pvalue > 1e-5
        assert (law - data.initial).abs().max() < SIGMAS * (0.25 / 200_000) ** 0.5  # gold is stationary
    pairs = torch.bincount(3 * x[:, 4] + x[:, 5], minlength=9)
    law = (start @ torch.linalg.matrix_power(step, 4))[:, None] * step
    assert stats.chisquare(pairs.numpy(), n * law.flatten().numpy()).pvalue > 1e-5


def test_contexts_drift_as_categories_do():
    """Rows of two tokens, the first dealt in fixed numbers: every context is a categorical chain of its own.

    The first fit sees n_c visits of context c, E H = H_0 (1 - 1/n_c). What is sampled from it has binomial visits N,
    drawn without a look at the second tokens, so where there are any the next fit has E H (1 - E[1/N | N > 0]).
    """
    visits, replicates = (6, 4), 20_000
    law = torch.tensor(TRANSITION[:2], dtype=torch.float64)
    first = torch.repeat_interleave(torch.arange(2), torch.tensor(visits))[:, None].expand(-1, replicates)
    second = torch.multinomial(law[first.flatten()], 1, generator=generator(0)).reshape(first.shape)
    model = fitted(torch.stack([first, second], dim=2))
    assert torch.equal(model.visits[:, :2], torch.tensor(visits).double().expand(replicates, 2))
    again = fitted(model.sample(10, generator(1)))
    for context in range(2):
        real, share = categorical.heterozygosity(TRANSITION[context]), visits[context] / 10
        binomial = stats.binom(10, share)
        left = 1 - sum(binomial.pmf(k) / k for k in range(1, 11)) / (1 - binomial.pmf(0))
        wanted = categorical.replace_expected_heterozygosity(1, visits[context], probabilities=TRANSITION[context])
        for fit, expected in ((model, wanted), (again, real * (1 - 1 / visits[context]) * left)):
            values = 1 - fit.probabilities[fit.visits[:, context] > 0, context].square().sum(1)
            assert abs(float(values.mean()) - expected) < SIGMAS * float(values.std()) / len(values) ** 0.5


def test_decoding_acts_in_every_context():
    x = rows(100)
    plain, model = fitted(x), fitted(x, top_k=1)
    assert torch.equal(model.probabilities, plain.probabilities)
    likeliest = plain.probabilities.argmax(2)
    for row in model.sample(20, generator(0)):
        for replicate in range(2):
            for context, token in itertools.pairwise([3, *row[replicate].tolist()]):
                assert token == likeliest[replicate, context]
    assert model.sampler_settings == {"top_k": 1}
    assert plain.sampler_settings == {}


def test_a_chain_of_sentences():
    data = MarkovData(30, TRANSITION, length=5, replicates=50)
    model = NGram(3, 2, length=5, replicates=50, temperature=0.5)
    chain = run_chain(model, data, generations=6, samples_per_generation=30, evaluate=False)
    assert chain.store.manifest(1).facts["sampler"] == {"temperature": 0.5}
    states = [chain.state(generation) for generation in range(6)]
    diversity = [float((1 - state["probabilities"][:, 3].square().sum(1)).mean()) for state in states]
    assert all(later < earlier for earlier, later in itertools.pairwise(diversity))
    for state in states:
        torch.testing.assert_close(state["probabilities"].sum(2), torch.ones(50, 4).double())
        assert (state["visits"].sum(1) == 150).all()


def test_rows_need_no_replicate_axis():
    x = rows(30, 1)
    model, beside = NGram(3, length=4), NGram(3, length=4, replicates=1)
    model.fit(x[:, 0])
    beside.fit(x)
    assert torch.equal(model.probabilities, beside.probabilities)
    assert torch.equal(model.sample(9, generator(0)), beside.sample(9, generator(0))[:, 0])
    assert torch.equal(model.log_prob(x[:, 0]), beside.log_prob(x)[:, 0])


def test_samples_depend_on_state_and_generator_alone():
    model = fitted(rows(20), 3)
    state = torch.get_rng_state()
    x = model.sample(50, generator(1))
    other = model.twin()
    other.load_state_dict(model.state_dict())
    assert torch.equal(other.sample(50, generator(1)), x)
    assert not torch.equal(model.sample(50, generator(2)), x)
    assert torch.equal(torch.get_rng_state(), state)


def test_no_rows_are_refused_unless_smoothed():
    with pytest.raises(ValueError, match="was fitted on 0 rows"):
        fitted(rows(0)).sample(1, generator(0))
    assert (fitted(rows(0), smoothing=1.0).probabilities == 1 / 3).all()


@pytest.mark.parametrize(
    ("x", "sentence"),
    [
        (torch.tensor([[[0, 1, 3, 0]]]), r"takes integers in \[0, 3\), got 3"),
        (torch.rand(2, 1, 4), "takes integers, got torch.float32"),
        (torch.zeros(2, 1, 5).int(), r"cannot take up rows of shape \(1, 5\)"),
    ],
)
def test_rows_of_another_kind_are_refused(x, sentence):
    with pytest.raises(ValueError, match=sentence):
        NGram(3, length=4, replicates=1).fit(x)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"vocabulary": 0}, "vocabulary=0"),
        ({"order": 0}, "order=0"),
        ({"length": 0}, "length=0"),
        ({"smoothing": -1.0}, "smoothing=-1.0"),
        ({"replicates": 0}, "replicates=0"),
        ({"top_p": 2.0}, "top_p=2.0"),
        ({"vocabulary": 50_257}, "make 50258 contexts, a table of 2525816306 entries with replicates=None"),
        ({"order": 30}, "the limit is 268435456"),
    ],
)
def test_misuse_is_refused(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        NGram(**{"vocabulary": 3, "length": 4} | arguments)
