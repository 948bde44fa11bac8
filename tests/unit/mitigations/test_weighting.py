"""Weighted likelihood: real rows have the share of the weight that was asked for, whatever their number."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from collapse.data import Batch, GaussianData, Origin
from collapse.mitigations import AnchorReplay, DataAccumulation, WeightedLikelihood
from collapse.models import Gaussian
from collapse.recursion import run_chain
from collapse.seeding import Stream, generator


def batch_of(is_real, x=None):
    origin = torch.where(torch.as_tensor(is_real), int(Origin.REAL), int(Origin.SYNTHETIC)).to(torch.uint8)
    nothing = torch.zeros(origin.shape, dtype=torch.int64)
    return Batch(torch.zeros(len(origin), 3) if x is None else x, None, origin, nothing, nothing)


def weights_of(share, is_real, real_fraction, x=None):
    module = SimpleNamespace(training_facts={"real_fraction": real_fraction})
    return WeightedLikelihood(share).weigh(batch_of(is_real, x), module)


@pytest.mark.parametrize("share", [0.0, 0.25, 0.618, 1.0])
@pytest.mark.parametrize("real", [1, 5, 19])
def test_the_real_rows_of_a_training_set_have_the_share_and_the_mean_is_one(share, real):
    is_real = torch.arange(20) < real
    weights = weights_of(share, is_real, real / 20).double()
    assert float(weights.mean()) == pytest.approx(1, abs=1e-6)
    assert float(weights[is_real].sum() / weights.sum()) == pytest.approx(share, abs=1e-6)
    assert len(weights[is_real].unique()) == len(weights[~is_real].unique()) == 1


def test_the_share_that_is_there_already_changes_nothing():
    assert weights_of(0.25, torch.arange(20) < 5, 0.25).tolist() == [1.0] * 20
    assert weights_of(None, torch.arange(20) < 5, 0.25).tolist() == [1.0] * 20


@pytest.mark.parametrize("fraction", [0.0, 1.0])
def test_rows_of_one_origin_are_left_as_they_are(fraction):
    assert weights_of(0.0, torch.full((4,), bool(fraction)), fraction).tolist() == [1.0] * 4


def test_weights_follow_the_rows_of_every_replicate():
    is_real = torch.tensor([[True, False], [False, False], [True, True], [False, True]])
    assert weights_of(0.8, is_real, 0.5).tolist() == pytest.approx(np.where(is_real, 1.6, 0.4))


@pytest.mark.parametrize(
    ("x", "dtype"),
    [
        (torch.zeros(4, 2, dtype=torch.float64), torch.float64),
        (torch.zeros(4, 2, dtype=torch.bfloat16), torch.bfloat16),
        (torch.zeros(4, dtype=torch.int32), torch.float32),
    ],
)
def test_weights_have_the_type_of_the_rows(x, dtype):
    assert weights_of(0.8, torch.arange(4) < 2, 0.5, x).dtype == dtype


def test_outside_a_chain_the_share_is_not_known():
    with pytest.raises(ValueError, match="train in a RecursiveTrainer"):
        WeightedLikelihood(0.5).weigh(batch_of([True]), SimpleNamespace(training_facts={}))
    WeightedLikelihood(None).weigh(batch_of([True]), SimpleNamespace(training_facts={}))


# --- in a chain -------------------------------------------------------------------------------------------------------


class Noted(Gaussian):
    """Keeps the weight of the real rows, and of all, of the last pass over the training set."""

    def begin(self):
        super().begin()
        self.real = self.all = torch.zeros(self.chains, dtype=torch.float64)

    def update(self, batch, weights=None):
        super().update(batch, weights)
        taken = torch.ones(len(batch.x), self.chains) if weights is None else weights.expand(-1, self.chains)
        is_real = (batch.origin == Origin.REAL).reshape(len(batch.x), -1).expand(-1, self.chains)
        self.real, self.all = self.real + (taken * is_real).sum(0), self.all + taken.sum(0)


def trained(rows, share=0.6, *, fraction=0.5, batch_size=None, replicates=6, beside=()):
    model = Noted(1, 0, replicates)
    chain = run_chain(
        model,
        GaussianData(rows=200, replicates=replicates, batch_size=batch_size),
        generations=3,
        samples_per_generation=20,
        mitigations=[AnchorReplay(fraction, rows), WeightedLikelihood(share), *beside],
        evaluate=False,
    )
    return model, chain


@pytest.mark.parametrize("rows", ["fixed", "redrawn", "fresh", "coin"])
@pytest.mark.parametrize("batch_size", [None, 6])
def test_every_replicate_has_the_share(rows, batch_size):
    """By coin the number of real rows differs between replicates; each is an experiment of its own."""
    model, chain = trained(rows, batch_size=batch_size)
    np.testing.assert_allclose(model.real / model.all, 0.6, rtol=1e-12)
    np.testing.assert_allclose(chain.state(2)["count"], 20, rtol=1e-12)


def test_the_fit_is_the_weighted_one():
    _, chain = trained("fresh")
    order = torch.randperm(200, generator=generator(0, Stream.ANCHOR))  # of which the last rows are dealt out last
    rows = torch.cat([order[190:], torch.arange(220, 230)])
    x, weights = chain.pool().gather(rows).x[..., 0], torch.tensor([1.2, 0.8]).double().repeat_interleave(10)
    np.testing.assert_allclose(chain.state(2)["mean"][:, 0], np.average(x, axis=0, weights=weights), rtol=1e-6)
    for replicate in range(6):
        variance = np.cov(x[:, replicate], aweights=weights, ddof=0)
        np.testing.assert_allclose(chain.state(2)["covariance"][replicate, 0, 0], variance, rtol=1e-6)


def test_a_share_of_one_trains_on_real_rows_alone():
    """Also where the coins of a replicate gave it few of them, or none: then on what there is."""
    model, _ = trained("coin", 1.0, fraction=0.05)
    assert (model.all > 0).all()
    has_real = model.real > 0
    np.testing.assert_allclose(model.real[has_real], model.all[has_real], rtol=1e-12)


@pytest.mark.filterwarnings("ignore::collapse.mitigations.NoEffectWarning")
@pytest.mark.parametrize("share", [0.0, 1.0])
def test_generations_of_one_origin_are_fitted_as_without(share):
    plain, weighted = (
        run_chain(Gaussian(1), GaussianData(rows=30), generations=3, samples_per_generation=20, mitigations=mitigations)
        for mitigations in ([], [WeightedLikelihood(share)])
    )
    assert [record.digests for record in plain.records] == [record.digests for record in weighted.records]


def test_accumulated_rows_are_weighted_by_their_origin():
    chain = run_chain(
        Noted(1),
        GaussianData(rows=30),
        generations=4,
        samples_per_generation=20,
        mitigations=[DataAccumulation(), WeightedLikelihood(0.9)],
        evaluate=False,
    )
    x = chain.pool().gather(torch.arange(90)).x[:, 0].numpy()
    weights = np.repeat([0.9 * 90 / 30, 0.1 * 90 / 60], [30, 60])
    mean = np.average(x, weights=weights)
    assert float(chain.state(3)["mean"]) == pytest.approx(mean, rel=1e-12)
    variance = np.cov(x, aweights=weights, ddof=0) * 90 / 89
    assert float(chain.state(3)["covariance"]) == pytest.approx(float(variance), rel=1e-11)
