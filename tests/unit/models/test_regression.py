"""Linear regression against NumPy and scikit-learn, and what it hands on."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LinearRegression as LeastSquares
from sklearn.linear_model import Ridge

from collapse import Batch, LinearRegression, RegressionData, run_chain
from collapse.mitigations import AnchorReplay, DataAccumulation
from collapse.seeding import generator


def rows(n, dim=3, replicates=4, seed=0, noise=0.5):
    rng = generator(seed)
    x = torch.randn(n, replicates, dim, dtype=torch.float64, generator=rng)
    y = x @ torch.arange(1.0, dim + 1, dtype=torch.float64)
    y = y + noise * torch.randn(n, replicates, dtype=torch.float64, generator=rng)
    return torch.cat([x, y[..., None]], -1)


def batch_of(x, generation=0, row=None):
    count = torch.arange(len(x))
    generation = torch.as_tensor(generation).expand(len(x))
    return Batch(x, None, torch.zeros(len(x)), generation, count if row is None else torch.as_tensor(row))


def fitted(x, sizes=None, weights=None, **settings):
    model = LinearRegression(x.shape[-1] - 1, replicates=x.shape[1], **settings)
    model.begin()
    sizes = sizes or len(x)
    factors = [None] * len(x) if weights is None else weights.split(sizes)
    for part, factor in zip(x.split(sizes), factors, strict=False):
        model.update(batch_of(part), factor)
    model.finish()
    return model


def split(x, replicate):
    return x[:, replicate, :-1].numpy(), x[:, replicate, -1].numpy()


# --- the fit ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("ridge", [0.0, 2.5])
@pytest.mark.parametrize("sizes", [None, 7, 1])
def test_weights_are_scikit_learns_whatever_the_batches(sizes, ridge, weighted):
    x = rows(40)
    weights = torch.rand(40, 4, dtype=torch.float64, generator=generator(5)) if weighted else None
    model = fitted(x, sizes, weights, ridge=ridge)
    for replicate in range(4):
        reference = Ridge(ridge, fit_intercept=False) if ridge else LeastSquares(fit_intercept=False)
        reference.fit(*split(x, replicate), None if weights is None else weights[:, replicate].numpy())
        np.testing.assert_allclose(model.weight[replicate], reference.coef_, rtol=1e-10)


@pytest.mark.parametrize("n", [1, 2, 4])
def test_with_fewer_rows_than_dimensions_it_is_the_solution_of_least_norm(n):
    x = rows(n, dim=5)
    model = fitted(x)
    for replicate in range(4):
        design, label = split(x, replicate)
        np.testing.assert_allclose(model.weight[replicate], np.linalg.pinv(design) @ label, rtol=1e-9)
        np.testing.assert_allclose(design @ model.weight[replicate].numpy(), label, rtol=1e-9)


def test_rows_that_repeat_leave_no_more_directions_than_they_have():
    x = rows(2, dim=5).repeat(10, 1, 1)
    np.testing.assert_allclose(fitted(x).weight, fitted(x[:2]).weight, rtol=1e-8)


@pytest.mark.parametrize("scale", [1e-8, 1e8])
def test_units_do_not_matter(scale):
    x = rows(20)
    np.testing.assert_allclose(fitted(x * scale).weight, fitted(x).weight, rtol=1e-9)


@pytest.mark.parametrize("ridge", [0.0, 1.0])
def test_no_rows_and_rows_without_weight_give_zero_weights(ridge):
    assert fitted(rows(3)[:0], 1, ridge=ridge).weight.tolist() == [[0.0] * 3] * 4
    assert fitted(rows(3), weights=torch.zeros(3, 1), ridge=ridge).weight.tolist() == [[0.0] * 3] * 4


def test_a_new_pass_forgets_the_last_one():
    model = fitted(rows(20), covariates="same")
    model.fit(rows(9, seed=1))
    np.testing.assert_allclose(model.weight, fitted(rows(9, seed=1)).weight, rtol=1e-12)
    assert torch.equal(model.design, rows(9, seed=1)[..., :-1])


def test_loss_is_half_the_squared_error():
    x, model = rows(10), fitted(rows(20, seed=1))
    error = [x[:, r, -1] - x[:, r, :-1] @ model.weight[r] for r in range(4)]
    np.testing.assert_allclose(model.loss(batch_of(x)), (torch.stack(error, 1) ** 2 / 2).mean(1), rtol=1e-12)


# --- samples ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("noise", [0.0, 0.7])
def test_samples_are_labeled_by_the_model(noise):
    model, n = fitted(rows(20, dim=2), noise=noise), 40_000
    drawn = model.sample(n, generator(1))
    x, residual = drawn[..., :-1], drawn[..., -1] - torch.einsum("nri,ri->nr", drawn[..., :-1], model.weight)
    assert drawn.shape == (n, 4, 3)
    assert (residual.square().mean(0) - noise**2).abs().max() <= 4.5 * noise**2 * (2 / n) ** 0.5 + 1e-25
    assert x.mean(0).abs().max() < 4.5 / n**0.5
    for replicate in range(4):
        deviation = torch.cov(x[:, replicate].T) - torch.eye(2)
        assert deviation.abs().max() < 4.5 * (2 / n) ** 0.5
        together = torch.corrcoef(torch.stack([x[:, replicate, 0], residual[:, replicate]]))[0, 1]
        assert noise == 0 or together.abs() < 4.5 / n**0.5


def test_the_same_covariates_are_labeled_again():
    x = rows(6)
    model = fitted(x, covariates="same", noise=0.0)
    drawn = model.sample(6, generator(1))
    assert torch.equal(drawn[..., :-1], x[..., :-1])
    np.testing.assert_allclose(drawn[..., -1], torch.einsum("nri,ri->nr", x[..., :-1], model.weight), rtol=1e-12)
    with pytest.raises(ValueError, match=r"labels the 6 oldest rows .* and was asked for 5"):
        model.sample(5, generator(1))


@pytest.mark.parametrize("size", [1, 3, 12])
def test_the_oldest_rows_are_kept_in_the_pools_order_whatever_the_batches(size):
    x, order = rows(12), torch.randperm(12, generator=generator(2))
    generation = torch.tensor([1, 1, 1, 1, 2, 2, 2, 2, 2, 3, 3, 3])
    model = LinearRegression(3, replicates=4, covariates="same")
    model.begin()
    for part in order.split(size):
        model.update(batch_of(x[part], generation[part], part))
    model.finish()
    assert torch.equal(model.design, x[:4, :, :-1])


def test_the_same_covariates_for_all_replicates_or_none():
    model = LinearRegression(3, replicates=4, covariates="same")
    model.begin()
    with pytest.raises(ValueError, match="needs the same rows in every replicate"):
        model.update(batch_of(rows(2), row=[[0, 1, 2, 3], [4, 5, 6, 7]]))


# --- chains -----------------------------------------------------------------------------------------------------------


def chain_of(data=None, samples=20, mitigations=(), generations=4, **settings):
    data = data or RegressionData(rows=20, dim=2, replicates=3)
    model = LinearRegression(2, replicates=3, **settings)
    return run_chain(
        model, data, generations=generations, samples_per_generation=samples, mitigations=mitigations, evaluate=False
    )


@pytest.mark.parametrize("batch_size", [None, 6])
@pytest.mark.parametrize("mitigations", [[], [DataAccumulation()]], ids=["replace", "accumulate"])
def test_only_labels_change_from_generation_to_generation(mitigations, batch_size):
    data = RegressionData(rows=20, dim=2, replicates=3, batch_size=batch_size)
    chain = chain_of(data, mitigations=mitigations, covariates="same")
    x = chain.pool().gather(torch.arange(100)).x.reshape(5, 20, 3, 3)
    assert all(torch.equal(part[..., :-1], x[0, ..., :-1]) for part in x)
    assert not torch.equal(x[1, ..., -1], x[0, ..., -1])


def test_without_noise_the_first_fit_is_handed_on_for_ever():
    chain = chain_of(noise=0.0)
    for generation in range(1, 4):
        np.testing.assert_allclose(chain.state(generation)["weight"], chain.state(0)["weight"], rtol=1e-10)


def test_a_chain_fits_what_its_pool_holds():
    chain = chain_of(mitigations=[DataAccumulation()], ridge=1.0)
    for generation in range(4):
        x = chain.pool().gather(torch.arange(20 * (generation + 1))).x
        for replicate in range(3):
            reference = Ridge(1.0, fit_intercept=False).fit(*split(x, replicate))
            np.testing.assert_allclose(chain.state(generation)["weight"][replicate], reference.coef_, rtol=1e-9)


def test_what_the_same_covariates_cannot_do_is_said():
    with pytest.raises(ValueError, match="labels the 20 oldest rows of the training set again"):
        chain_of(covariates="same", samples=10)
    with pytest.raises(ValueError, match="needs the same rows in every replicate"):
        chain_of(covariates="same", mitigations=[AnchorReplay(0.5, "redrawn")])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dim": 0}, "dim=0"),
        ({"dim": 1, "noise": -1.0}, "noise=-1.0"),
        ({"dim": 1, "ridge": -0.1}, "ridge=-0.1"),
        ({"dim": 1, "covariates": "old"}, "covariates must be one of fresh, same, got 'old'"),
        ({"dim": 1, "replicates": 0}, "replicates=0 must be at least 1"),
    ],
)
def test_misuse_is_a_sentence(settings, message):
    with pytest.raises(ValueError, match=message):
        LinearRegression(**settings)
