"""The histogram estimator against NumPy."""

import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from collapse.data import Batch, RecursiveDataModule, Samples
from collapse.models.estimators.histogram import Histogram
from collapse.recursion import run_chain
from collapse.seeding import generator

LOW, HIGH, BINS = -2.0, 3.0, 10


def rows(n, replicates=3, seed=0):
    return LOW + (HIGH - LOW) * torch.rand(n, replicates, 1, dtype=torch.float64, generator=generator(seed)).square()


def column(*values):
    return torch.tensor(values, dtype=torch.float64)[:, None, None]


def batch_of(x):
    nothing = torch.zeros(len(x), dtype=torch.int64)
    return Batch(x, None, nothing, nothing, torch.arange(len(x)))


def fitted(x, sizes=None, weights=None, *, low=LOW, high=HIGH, bins=BINS):
    model = Histogram(low, high, bins, replicates=x.shape[1])
    model.begin()
    parts = x.split(sizes or len(x))
    factors = [None] * len(parts) if weights is None else weights.split(sizes or len(x))
    for part, factor in zip(parts, factors, strict=True):
        model.update(batch_of(part), factor)
    model.finish()
    return model


@pytest.mark.parametrize("sizes", [200, 7, 1])
@pytest.mark.parametrize("weighted", [False, True])
def test_shares_equal_numpy_whatever_the_batches(sizes, weighted):
    x = rows(200)
    weights = torch.rand(200, 3, dtype=torch.float64, generator=generator(5)) if weighted else None
    model = fitted(x, sizes, weights)
    for replicate in range(3):
        factor = np.ones(200) if weights is None else weights[:, replicate].numpy()
        counts, _ = np.histogram(x[:, replicate, 0].numpy(), BINS, (LOW, HIGH), weights=factor)
        np.testing.assert_allclose(model.counts[replicate], counts, rtol=1e-12)
        np.testing.assert_allclose(model.probabilities[replicate], counts / factor.sum(), rtol=1e-12)


def test_many_rows_are_counted_in_blocks(monkeypatch):
    x = rows(500)
    whole = fitted(x).counts
    monkeypatch.setattr("collapse.models.estimators.histogram.BLOCK", 64)
    assert torch.equal(fitted(x).counts, whole)


def test_edges_belong_to_the_bin_on_their_right():
    model = fitted(column(0.0, 0.25, 0.25, 0.5, math.nextafter(1, 0)), low=0, high=1, bins=4)
    assert model.counts.tolist() == [[1, 2, 1, 1]]


def test_loss_is_the_negative_log_of_a_density():
    model = fitted(rows(200, replicates=1))
    density = stats.rv_histogram((model.counts[0].numpy(), model.edges.numpy()), density=False)
    x = rows(50, replicates=1, seed=1)
    np.testing.assert_allclose(model.loss(batch_of(x)), -density.logpdf(x[:, 0, 0].numpy()), rtol=1e-9)
    total, _ = integrate.quad(
        lambda value: float(model.log_prob(torch.tensor([[[value]]])).exp()), LOW, HIGH, limit=200
    )
    assert total == pytest.approx(1, abs=1e-6)


def test_loss_is_infinite_where_there_is_no_density():
    model = fitted(column(0.1, 0.9), low=0, high=1, bins=4)
    losses = model.loss(batch_of(torch.tensor([0.1, 0.3, -0.1, 1.0, math.nan])[:, None, None]))
    assert losses.tolist() == pytest.approx([-math.log(2), math.inf, math.inf, math.inf, math.inf])


def test_samples_are_uniform_within_bins():
    model = fitted(rows(100))
    n = 100_000
    x = model.sample(n, generator(3))
    assert x.shape == (n, 3, 1)
    assert x.dtype == torch.float64
    for replicate in range(3):
        p, values = model.probabilities[replicate].numpy(), x[:, replicate, 0].numpy()
        counts, _ = np.histogram(values, BINS, (LOW, HIGH))
        assert (counts[p == 0] == 0).all()
        assert stats.chisquare(counts[p > 0], n * p[p > 0]).pvalue > 1e-5
        within = (values - LOW) / model.width % 1
        assert stats.kstest(within, "uniform").pvalue > 1e-5
        assert stats.pearsonr(within, values // model.width).pvalue > 1e-5


class SingleData(RecursiveDataModule):
    """Gold rows stored as float32, all over [0, 1)."""

    def gold(self):
        return Samples(torch.rand(50, 1, generator=generator(0)))

    def reference(self):
        return self.gold()


@pytest.mark.parametrize(("low", "high"), [(0.1, 0.7), (0.0, 1.0)])
def test_samples_stay_inside_when_they_are_stored_as_float32(low, high):
    model = fitted(column(low, high - 1e-9), low=low, high=high, bins=1 << 16)
    x = model.sample(200_000, generator(0)).float().double()
    assert float(x.min()) >= low
    assert float(x.max()) < high
    narrow = fitted(column(1 + 1e-12), low=1.0, high=1 + 1e-11, bins=2)
    assert narrow.covers(narrow.sample(1000, generator(0))).all()


def test_a_chain_on_single_precision_rows_runs():
    options = {"generations": 4, "samples_per_generation": 1 << 19, "evaluate": False}
    chain = run_chain(Histogram(0.0, 1.0, 3), SingleData(batch_size=None), **options)
    assert chain.pool().dtype == np.float32
    assert chain.state(3)["counts"].sum() == 1 << 19  # some of them would have been rounded to 1


def test_rows_need_no_replicate_axis():
    model, beside = Histogram(LOW, HIGH, BINS), Histogram(LOW, HIGH, BINS, replicates=1)
    model.fit(rows(30)[:, 0])
    beside.fit(rows(30)[:, :1])
    assert torch.equal(model.probabilities, beside.probabilities)
    assert torch.equal(model.sample(9, generator(0)), beside.sample(9, generator(0))[:, 0])
    assert model.sampler_settings == {}


def test_samples_depend_on_state_and_generator_alone():
    model = fitted(rows(20))
    state = torch.get_rng_state()
    x = model.sample(50, generator(1))
    other = model.twin()
    other.load_state_dict(model.state_dict())
    assert torch.equal(other.sample(50, generator(1)), x)
    assert not torch.equal(model.sample(50, generator(2)), x)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("value", [HIGH, LOW - 1e-9, math.nan, math.inf])
def test_values_outside_are_refused(value):
    x = rows(5)
    x[3, 1] = value
    with pytest.raises(ValueError, match=f"got the value {value}; widen low and high"):
        fitted(x)


def test_no_rows_are_refused():
    with pytest.raises(ValueError, match="was fitted on 0 rows"):
        fitted(rows(0)).sample(1, generator(0))


@pytest.mark.parametrize(
    "arguments", [{"bins": 0}, {"high": LOW}, {"high": math.inf}, {"low": math.nan}, {"replicates": 0}]
)
def test_misuse_is_refused(arguments):
    with pytest.raises(ValueError, match=f"{next(iter(arguments))}={next(iter(arguments.values()))}"):
        Histogram(**{"low": LOW, "high": HIGH} | arguments)
