"""The categorical estimator against NumPy and SciPy."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from collapse.data import Batch
from collapse.data.discrete import CategoricalData
from collapse.models.estimators.categorical import Categorical
from collapse.recursion import run_chain
from collapse.seeding import generator

SIGMAS = 4.5


def rows(n, replicates=3, categories=5, seed=0, dtype=torch.int32):
    return torch.randint(categories, (n, replicates), generator=generator(seed)).to(dtype)


def batch_of(x):
    nothing = torch.zeros(len(x), dtype=torch.int64)
    return Batch(x, None, nothing, nothing, torch.arange(len(x)))


def fitted(x, categories=5, sizes=None, weights=None, **arguments):
    model = Categorical(categories, replicates=x.shape[1], **arguments)
    model.begin()
    parts = x.split(sizes or len(x))
    factors = [None] * len(parts) if weights is None else weights.split(sizes or len(x))
    for part, factor in zip(parts, factors, strict=True):
        model.update(batch_of(part), factor)
    model.finish()
    return model


@pytest.mark.parametrize("dtype", [torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8])
@pytest.mark.parametrize("smoothing", [0.0, 0.5])
@pytest.mark.parametrize("sizes", [100, 7, 1])
def test_frequencies_equal_numpy_whatever_the_batches(dtype, smoothing, sizes):
    x = rows(100, dtype=dtype)
    model = fitted(x, 6, sizes, smoothing=smoothing)
    for replicate in range(3):
        counts = np.bincount(x[:, replicate].numpy(), minlength=6)
        np.testing.assert_array_equal(model.counts[replicate], counts)
        wanted = (counts + smoothing) / (100 + 6 * smoothing)
        np.testing.assert_allclose(model.probabilities[replicate], wanted, rtol=1e-15)


def test_many_rows_are_counted_in_blocks(monkeypatch):
    x = rows(1000)
    whole = fitted(x).counts
    monkeypatch.setattr("collapse.models.estimators.categorical.BLOCK", 64)
    assert torch.equal(fitted(x).counts, whole)


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("sizes", [100, 7])
def test_weights_count(sizes, shared):
    x, weights = rows(100), torch.rand(100, 1 if shared else 3, dtype=torch.float64, generator=generator(5))
    model = fitted(x, sizes=sizes, weights=weights, smoothing=0.25)
    for replicate in range(3):
        factor = weights.expand(-1, 3)[:, replicate].numpy()
        counts = np.bincount(x[:, replicate].numpy(), factor, minlength=5)
        wanted = (counts + 0.25) / (factor.sum() + 1.25)
        np.testing.assert_allclose(model.probabilities[replicate], wanted, rtol=1e-12)


def test_a_new_pass_forgets_the_last_one():
    model = fitted(rows(50))
    model.fit(rows(20, seed=1))
    assert torch.equal(model.probabilities, fitted(rows(20, seed=1)).probabilities)


def test_loss_is_the_cross_entropy():
    x = rows(50)
    model = fitted(x, smoothing=1.0)
    wanted = [-stats.multinomial(1, model.probabilities[r].numpy()).logpmf(np.eye(5)[x[:, r]]) for r in range(3)]
    np.testing.assert_allclose(model.loss(batch_of(x)), np.mean(wanted, axis=0), rtol=1e-12)
    np.testing.assert_allclose(model.log_prob(x), -np.stack(wanted, axis=1), rtol=1e-12)


def test_a_dead_category_has_infinite_loss_and_stays_dead():
    model = fitted(torch.tensor([[0], [2], [2], [2]], dtype=torch.int32), 4)
    losses = model.loss(batch_of(torch.tensor([[0], [1], [2], [3]])))
    assert losses.tolist() == pytest.approx([math.log(4), math.inf, math.log(4 / 3), math.inf])
    x = model.sample(100_000, generator(0))
    assert set(x.flatten().tolist()) == {0, 2}
    assert torch.isfinite(fitted(torch.zeros(4, 1).int(), 4, smoothing=1e-9).loss(batch_of(torch.tensor([[3]])))).all()


@pytest.mark.parametrize("dead", [1, 30])
def test_a_sum_below_one_revives_no_category(dead):
    model = fitted(torch.tensor([[0], [1], [2]]), 3 + dead)
    model.probabilities *= 0.99  # as rounding does on a smaller scale: 1000 uniform numbers lie above the sum
    assert int(model.sample(100_000, generator(0)).max()) == 2


@pytest.mark.parametrize("categories", [1, 2, 6, 16, 17, 40])
def test_samples_have_the_fitted_law(categories):
    model = fitted(rows(60, categories=categories), categories)
    n = 50_000
    x = model.sample(n, generator(3))
    assert x.shape == (n, 3)
    assert x.dtype == torch.int32
    for replicate in range(3):
        p = model.probabilities[replicate].numpy()
        counts = np.bincount(x[:, replicate].numpy(), minlength=categories)
        assert (counts[p == 0] == 0).all()
        if (p > 0).sum() > 1:
            assert stats.chisquare(counts[p > 0], n * p[p > 0]).pvalue > 1e-5
    if categories > 1:
        both = stats.contingency.crosstab(x[:, 0].numpy(), x[:, 1].numpy()).count
        assert stats.chi2_contingency(both).pvalue > 1e-5  # replicates are independent


def test_decoding_acts_on_the_sampler_alone():
    x = torch.repeat_interleave(torch.arange(5), torch.tensor([40, 30, 15, 10, 5]))[:, None]
    plain, model = fitted(x), fitted(x, temperature=0.5, top_k=3, top_p=0.85)
    assert torch.equal(model.probabilities, plain.probabilities)
    assert torch.equal(model.loss(batch_of(x)), plain.loss(batch_of(x)))
    n = 100_000
    counts = torch.bincount(model.sample(n, generator(1)).flatten(), minlength=5)
    assert counts[2:].sum() == 0  # 16 + 9 of 27.25 = 16 + 9 + 2.25 is 0.917: the nucleus has two
    assert abs(float(counts[0]) / n - 0.64) < SIGMAS * (0.64 * 0.36 / n) ** 0.5


def test_decoding_is_on_record():
    assert Categorical(3).sampler_settings == {}
    model = Categorical(3, temperature=0.7, top_k=2)
    data = CategoricalData(20, [0.5, 0.3, 0.2])
    chain = run_chain(model, data, generations=1, samples_per_generation=5, evaluate=False)
    assert chain.store.manifest(1).facts["sampler"] == {"temperature": 0.7, "top_k": 2}


def test_samples_depend_on_the_generator_alone():
    model = fitted(rows(20))
    state = torch.get_rng_state()
    assert torch.equal(model.sample(50, generator(1)), model.sample(50, generator(1)))
    assert not torch.equal(model.sample(50, generator(1)), model.sample(50, generator(2)))
    assert torch.equal(torch.get_rng_state(), state)


def test_rows_need_no_replicate_axis():
    model, beside = Categorical(5), Categorical(5, replicates=1)
    model.fit(rows(30)[:, 0])
    beside.fit(rows(30)[:, :1])
    assert torch.equal(model.probabilities, beside.probabilities)
    assert torch.equal(model.sample(9, generator(0)), beside.sample(9, generator(0))[:, 0])
    assert torch.equal(model.log_prob(rows(30)[:, 0]), beside.log_prob(rows(30)[:, :1])[:, 0])


def test_the_state_can_be_taken_over():
    model = fitted(rows(30), temperature=0.5)
    other = model.twin()
    assert other.describe() == "Categorical(categories=5, replicates=3, temperature=0.5)"
    other.load_state_dict(model.state_dict())
    assert torch.equal(other.sample(40, generator(0)), model.sample(40, generator(0)))


def test_no_rows_are_refused_unless_smoothed():
    with pytest.raises(ValueError, match=r"Categorical\(categories=5, replicates=3\) was fitted on 0 rows"):
        fitted(rows(0)).sample(1, generator(0))
    weightless = torch.ones(4, 3).double()
    weightless[:, 1] = 0
    with pytest.raises(ValueError, match="was fitted on 0 rows"):
        fitted(rows(4), weights=weightless).sample(1, generator(0))
    assert fitted(rows(0), smoothing=2.0).probabilities.tolist() == [[0.2] * 5] * 3


@pytest.mark.parametrize(
    ("x", "sentence"),
    [
        (torch.tensor([[1, 5, 0]]), r"takes integers in \[0, 5\), got 5"),
        (torch.tensor([[1, -1, 7]]), r"takes integers in \[0, 5\), got -1"),
        (torch.rand(2, 3), r"takes integers, got torch.float32; store indices as int32"),
        (torch.zeros(2, 4).int(), r"cannot take up rows of shape \(4,\)"),
    ],
)
def test_rows_of_another_kind_are_refused(x, sentence):
    with pytest.raises(ValueError, match=sentence):
        Categorical(5, replicates=3).fit(x)
    model = fitted(rows(20))
    with pytest.raises(ValueError, match=sentence):
        model.loss(batch_of(x))


@pytest.mark.parametrize(
    "arguments",
    [
        {"categories": 0},
        {"smoothing": -0.5},
        {"smoothing": math.inf},
        {"replicates": 0},
        {"temperature": 0.0},
        {"top_k": 0},
    ],
)
def test_misuse_is_refused(arguments):
    with pytest.raises(ValueError, match=f"{next(iter(arguments))}={next(iter(arguments.values()))}"):
        Categorical(**{"categories": 3} | arguments)
