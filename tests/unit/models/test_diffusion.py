"""The Gaussian diffusion against the textbook's steps, taken with the full covariance matrix."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from collapse import Batch, Gaussian
from collapse.models.estimators.diffusion import GaussianDiffusion
from collapse.seeding import generator
from collapse.theory.diffusion import output_moments

SAMPLERS = ["ddpm_beta", "ddpm_posterior", "ddim"]
MEAN = np.array([1.0, -2.0, 0.5])
COVARIANCE = np.array([[2.0, 0.6, -0.3], [0.6, 0.5, 0.0], [-0.3, 0.0, 0.1]])


def rows(n, replicates=3, dim=3, seed=0):
    mix = torch.randn(dim, dim, dtype=torch.float64, generator=generator(11))
    return 1 + torch.randn(n, replicates, dim, dtype=torch.float64, generator=generator(seed)) @ mix


def batch_of(x):
    nothing = torch.zeros(len(x), dtype=torch.int64)
    return Batch(x, None, nothing, nothing, torch.arange(len(x)))


def known(mean, covariance, **arguments):
    """A model with given moments."""
    model = GaussianDiffusion(len(mean), **arguments)
    model.mean.copy_(torch.as_tensor(mean))
    model.covariance.copy_(torch.as_tensor(covariance))
    model.count.fill_(math.inf)
    return model


def textbook_moments(sampler, betas):
    """Moments of the samples, from predictions of the clean point by matrix inversion."""
    levels = np.cumprod(1 - betas)
    identity = np.eye(len(MEAN))
    mean, covariance = np.zeros(len(MEAN)), identity
    for k in reversed(range(len(betas))):
        level, before = levels[k], levels[k - 1] if k else 1.0
        # E[x_0 | x_k] = gain x_k + shift
        gain = np.sqrt(level) * COVARIANCE @ np.linalg.inv(level * COVARIANCE + (1 - level) * identity)
        shift = MEAN - np.sqrt(level) * gain @ MEAN
        if sampler == "ddim":  # keep the predicted noise (x_k - sqrt(level) x_0) / sqrt(1 - level)
            keep = np.sqrt((1 - before) / (1 - level))
            matrix, offset = np.sqrt(before) * gain + keep * (identity - np.sqrt(level) * gain), np.sqrt(before) * shift
            offset = offset - keep * np.sqrt(level) * shift
            variance = 0.0
        else:  # the posterior of x_{k-1} given x_k and x_0
            clean = np.sqrt(before) * betas[k] / (1 - level)
            matrix = clean * gain + np.sqrt(1 - betas[k]) * (1 - before) / (1 - level) * identity
            offset = clean * shift
            posterior = betas[k] * (1 - before) / (1 - level)
            variance = posterior if sampler == "ddpm_posterior" else betas[k] * (k > 0)
        mean, covariance = matrix @ mean + offset, matrix @ covariance @ matrix.T + variance * identity
    return mean, covariance


@pytest.mark.parametrize("steps", [2, 10, 50])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_samples_have_the_moments_of_the_textbook(sampler, steps):
    n = 60_000
    model = known(MEAN, COVARIANCE, sampler=sampler, steps=steps, beta_start=1e-3, beta_end=0.3)
    x = model.sample(n, generator(1)).numpy()
    mean, covariance = textbook_moments(sampler, np.linspace(1e-3, 0.3, steps))
    scale = np.diag(covariance)
    assert (np.abs(x.mean(0) - mean) < 4.5 * np.sqrt(scale / n)).all()
    error = np.sqrt((covariance**2 + scale[:, None] * scale) / n)
    assert (np.abs(np.cov(x.T) - covariance) < 4.5 * error).all()


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_textbook_agrees_with_the_closed_form(sampler):
    betas = np.linspace(1e-4, 0.2, 50)
    mean, covariance = textbook_moments(sampler, betas)
    values, vectors = np.linalg.eigh(COVARIANCE)
    law = output_moments(betas, sampler, mean=vectors.T @ MEAN, variance=values)
    np.testing.assert_allclose(vectors @ law.mean, mean, rtol=1e-10)
    np.testing.assert_allclose(vectors @ np.diag(law.variance) @ vectors.T, covariance, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_many_small_steps_return_the_fitted_law(sampler):
    model = known([1.0], [[0.25]], sampler=sampler, steps=1000, beta_start=1e-4, beta_end=0.02)
    x = model.sample(20_000, generator(2))
    assert abs(float(x.mean()) - 1) < 4.5 * 0.5 / 20_000**0.5 + 0.002
    assert abs(float(x.var()) / 0.25 - 1) < 4.5 * (2 / 20_000) ** 0.5 + 0.01


@pytest.mark.parametrize("ddof", [0, 1])
@pytest.mark.parametrize("sizes", [7, 1])
def test_it_fits_and_scores_as_the_gaussian_does(sizes, ddof):
    x = rows(40)
    weights = 1 + torch.rand(40, 3, dtype=torch.float64, generator=generator(5))
    model, whole = GaussianDiffusion(3, ddof=ddof, replicates=3), Gaussian(3, ddof, 3)
    model.begin(), whole.begin()
    for part, factor in zip(x.split(sizes), weights.split(sizes), strict=True):
        model.update(batch_of(part), factor)
    model.finish()
    whole.update(batch_of(x), weights)
    model.finish()
    whole.finish()
    torch.testing.assert_close(model.mean, whole.mean)
    torch.testing.assert_close(model.covariance, whole.covariance)
    torch.testing.assert_close(model.loss(batch_of(x)), whole.loss(batch_of(x)))


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("rank", [0, 1])
def test_nothing_leaves_what_the_covariance_has_collapsed_to(rank, sampler):
    direction = np.array([0.6, 0.0, 0.8])
    model = known(MEAN, rank * np.outer(direction, direction), sampler=sampler)
    x = model.sample(500, generator(3)).numpy() - MEAN
    off = x - np.outer(x @ direction, direction)
    assert np.abs(off).max() < 1e-6
    assert rank == 0 or 0.5 < x.std() < 1


def test_replicates_are_sampled_from_their_own_laws():
    model = GaussianDiffusion(1, replicates=2, sampler="ddim")
    model.mean.copy_(torch.tensor([[0.0], [100.0]]))
    model.covariance.copy_(torch.tensor([[[1.0]], [[9.0]]]))
    model.count.fill_(10)
    x = model.sample(20_000, generator(4)).numpy()
    law = output_moments(np.linspace(1e-4, 0.2, 50), "ddim", mean=np.array([0.0, 100.0]), variance=np.array([1.0, 9.0]))
    np.testing.assert_allclose(x.mean(0)[:, 0], law.mean, rtol=0, atol=4.5 * (9 / 20_000) ** 0.5)
    np.testing.assert_allclose(x.var(0, ddof=1)[:, 0] / law.variance, 1, rtol=0, atol=4.5 * (2 / 20_000) ** 0.5)


def test_samples_depend_on_the_generator_alone():
    model = known(MEAN, COVARIANCE)
    state = torch.get_rng_state()
    assert torch.equal(model.sample(5, generator(1)), model.sample(5, generator(1)))
    assert not torch.equal(model.sample(5, generator(1)), model.sample(5, generator(2)))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_sampler_is_on_record(sampler):
    assert GaussianDiffusion(steps=20, sampler=sampler).sampler_settings == {"sampler": sampler, "steps": 20}


def test_rows_that_cannot_be_fitted_are_refused():
    with pytest.raises(ValueError, match="cannot take up rows that are NaN or infinite"):
        GaussianDiffusion().fit(torch.tensor([[1.0], [math.inf]]))
    with pytest.raises(ValueError, match="was fitted on 0 rows"):
        GaussianDiffusion().sample(3, generator(0))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"dim": 0}, "dim=0"),
        ({"steps": 0}, "steps=0"),
        ({"beta_start": 0.0}, "beta_start=0.0"),
        ({"beta_start": 0.3}, "beta_start=0.3"),
        ({"beta_end": 1.0}, "beta_end=1.0"),
        ({"sampler": "euler"}, "sampler='euler' must be one of ddpm_beta, ddpm_posterior, ddim"),
        ({"ddof": 2}, "ddof=2"),
        ({"replicates": 0}, "replicates=0"),
    ],
)
def test_misuse_is_refused(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        GaussianDiffusion(**arguments)
