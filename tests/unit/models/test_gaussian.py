"""The Gaussian estimator against NumPy and SciPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal

from collapse import Batch, Gaussian
from collapse.seeding import generator


def rows(n, replicates=3, dim=2, seed=0):
    mix = torch.tensor([[2.0, 0.0], [0.7, 0.5]], dtype=torch.float64)[:dim, :dim]
    noise = torch.randn(n, replicates, dim, dtype=torch.float64, generator=generator(seed))
    return 5 + noise @ mix.T


def batch_of(x):
    nothing = torch.zeros(len(x), dtype=torch.int64)
    return Batch(x, None, nothing, nothing, torch.arange(len(x)))


def fitted(x, sizes, **arguments):
    model = Gaussian(dim=x.shape[-1], replicates=x.shape[1], **arguments)
    model.begin()
    for part in x.split(sizes):
        model.update(batch_of(part))
    model.finish()
    return model


@pytest.mark.parametrize("ddof", [0, 1])
@pytest.mark.parametrize("sizes", [100, 7, 1])
def test_moments_equal_numpy_whatever_the_batches(ddof, sizes):
    x = rows(100)
    model = fitted(x, sizes, ddof=ddof)
    for replicate in range(3):
        values = x[:, replicate].numpy()
        np.testing.assert_allclose(model.mean[replicate], values.mean(0), rtol=1e-12)
        np.testing.assert_allclose(model.covariance[replicate], np.cov(values.T, ddof=ddof), rtol=1e-11)


def test_a_new_pass_forgets_the_last_one():
    model = fitted(rows(50), 50)
    model.fit(rows(20, seed=1))
    np.testing.assert_allclose(model.covariance, fitted(rows(20, seed=1), 20).covariance, rtol=1e-12)
    assert (model.count == 20).all()


def test_loss_is_the_negative_log_density():
    x = rows(30, replicates=1)
    model = fitted(x, 30)
    wanted = -multivariate_normal(model.mean[0], model.covariance[0]).logpdf(x[:, 0].numpy())
    np.testing.assert_allclose(model.loss(batch_of(x)), wanted, rtol=1e-10)


@pytest.mark.parametrize("multiplier", [1.0, 0.5])
def test_samples_have_the_fitted_moments(multiplier):
    model = fitted(rows(100), 100, variance_multiplier=multiplier)
    n = 200_000
    x = model.sample(n, generator(3))
    wanted = multiplier * model.covariance
    for replicate in range(3):
        error = torch.cov(x[:, replicate].T) - wanted[replicate]
        scale = wanted[replicate].diagonal()
        spread = ((wanted[replicate] ** 2 + scale[:, None] * scale) / n).sqrt()  # of a Gaussian's sample covariance
        assert (error.abs() < 4.5 * spread).all()
        assert ((x[:, replicate].mean(0) - model.mean[replicate]).abs() < 4.5 * (scale / n).sqrt()).all()
    assert model.sampler_settings == ({} if multiplier == 1 else {"variance_multiplier": 0.5})


def test_samples_depend_on_the_generator_alone():
    model = fitted(rows(20), 20)
    state = torch.get_rng_state()
    assert torch.equal(model.sample(5, generator(1)), model.sample(5, generator(1)))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("direction", [[1.0, 0.0], [0.6, 0.8], [0.0, 0.0]])
def test_a_collapsed_covariance_is_still_sampled(direction):
    line = torch.randn(40, 1, 1, dtype=torch.float64, generator=generator(2)) * torch.tensor(direction)
    model = fitted(line.double(), 40)
    x = model.sample(1000, generator(4))[:, 0]
    off = x @ torch.tensor([-direction[1], direction[0]], dtype=torch.float64)
    assert off.abs().max() < 1e-7  # eigenvalues at the rounding of the fit: nothing leaves the line
    assert torch.isfinite(x).all()


@pytest.mark.parametrize("dim", [1, 2])
def test_a_collapsed_covariance_has_no_density(dim):
    model = Gaussian(dim, replicates=3)
    x = rows(20)[..., :dim]
    x[:, 1] = 5.0
    model.fit(x)
    with pytest.raises(ValueError, match=r"Gaussian\(.*\) has no density in 1 of 3 replicates, where the covariance"):
        model.loss(batch_of(x))


def test_as_many_rows_as_dimensions_give_a_flat_covariance():
    model = Gaussian(3, ddof=1)
    x = torch.randn(3, 3, dtype=torch.float64, generator=generator(6))
    model.fit(x)
    assert torch.linalg.matrix_rank(model.covariance[0]) == 2
    normal = torch.linalg.svd(x - x.mean(0)).Vh[2]
    assert ((model.sample(100, generator(7)) - x.mean(0)) @ normal).abs().max() < 1e-7


def test_too_few_rows_are_refused():
    model = fitted(rows(1), 1, ddof=1)
    with pytest.raises(ValueError, match="was fitted on 1 rows"):
        model.sample(3, generator(0))


@pytest.mark.parametrize("sizes", [100, 7, 1])
@pytest.mark.parametrize("ddof", [0, 1])
def test_weighted_moments_equal_numpy(sizes, ddof):
    x, weights = rows(100), torch.rand(100, 3, dtype=torch.float64, generator=generator(5))
    weights[:10] = 0
    model = Gaussian(2, ddof, 3)
    model.begin()
    for part, factor in zip(x.split(sizes), weights.split(sizes), strict=True):
        model.update(batch_of(part), factor)
    model.finish()
    for replicate in range(3):
        values, factor = x[:, replicate].numpy(), weights[:, replicate].numpy()
        np.testing.assert_allclose(model.mean[replicate], np.average(values, axis=0, weights=factor), rtol=1e-12)
        wanted = np.cov(values.T, aweights=factor, ddof=0) * factor.sum() / (factor.sum() - ddof)
        np.testing.assert_allclose(model.covariance[replicate], wanted, rtol=1e-10)


def test_a_known_variance_is_not_fitted():
    model = Gaussian(2, replicates=3, known_variance=4.0)
    model.fit(rows(1))
    np.testing.assert_array_equal(model.mean, rows(1)[0])
    np.testing.assert_array_equal(model.covariance, 4 * torch.eye(2, dtype=torch.float64).expand(3, 2, 2))
    assert abs(float(model.sample(20_000, generator(0)).var()) - 4 - float(rows(1)[0].var(correction=0))) < 0.1


@pytest.mark.parametrize(
    "arguments", [{"dim": 0}, {"ddof": 2}, {"replicates": 0}, {"variance_multiplier": -1.0}, {"known_variance": 0.0}]
)
def test_misuse_is_refused(arguments):
    with pytest.raises(ValueError, match=f"{next(iter(arguments))}={next(iter(arguments.values()))}"):
        Gaussian(**arguments)


def test_rows_of_another_size_are_refused():
    with pytest.raises(ValueError, match=r"Gaussian\(\) cannot take up rows of shape \(3, 2\)"):
        Gaussian().fit(rows(5))
