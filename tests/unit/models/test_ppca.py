"""Probabilistic PCA against scikit-learn, SciPy and its own likelihood."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal
from sklearn.decomposition import PCA

from collapse import Batch
from collapse.models.estimators.ppca import PPCA
from collapse.seeding import generator


def rows(n, replicates=3, dim=5, seed=0):
    mix = torch.randn(dim, dim, dtype=torch.float64, generator=generator(11))
    return 5 + torch.randn(n, replicates, dim, dtype=torch.float64, generator=generator(seed)) @ mix


def batch_of(x):
    nothing = torch.zeros(len(x), dtype=torch.int64)
    return Batch(x, None, nothing, nothing, torch.arange(len(x)))


def fitted(x, latent_dim=2, sizes=None, weights=None, **arguments):
    model = PPCA(x.shape[-1], latent_dim, replicates=x.shape[1], **arguments)
    model.begin()
    parts = x.split(sizes or len(x))
    factors = [None] * len(parts) if weights is None else weights.split(sizes or len(x))
    for part, factor in zip(parts, factors, strict=True):
        model.update(batch_of(part), factor)
    model.finish()
    return model


@pytest.mark.parametrize("latent_dim", [1, 2, 4])
def test_fits_equal_scikit_learn(latent_dim):
    x = rows(60)
    model = fitted(x, latent_dim, ddof=1)  # as there
    for replicate in range(3):
        values = x[:, replicate].numpy()
        reference = PCA(latent_dim).fit(values)
        np.testing.assert_allclose(model.mean[replicate], reference.mean_, rtol=1e-12)
        assert float(model.noise_variance[replicate]) == pytest.approx(reference.noise_variance_, rel=1e-10)
        np.testing.assert_allclose(model.covariance[replicate], reference.get_covariance(), rtol=1e-9, atol=1e-11)
        found = fitted(x[:, replicate : replicate + 1], latent_dim, ddof=1).loss(
            batch_of(x[:, replicate : replicate + 1])
        )
        np.testing.assert_allclose(-found, reference.score_samples(values), rtol=1e-9)


def test_loadings_and_noise_make_the_covariance():
    model = fitted(rows(60))
    noise = model.noise_variance[:, None, None] * torch.eye(5, dtype=torch.float64)
    torch.testing.assert_close(model.loadings @ model.loadings.mT + noise, model.covariance)
    squares = model.loadings.mT @ model.loadings  # orthogonal, the strongest first
    assert (squares[:, 0, 1].abs() < 1e-10).all()
    assert (squares[:, 0, 0] > squares[:, 1, 1]).all()


def test_no_other_model_of_the_family_has_a_larger_likelihood():
    x = rows(60, 1)
    model, values = fitted(x), x[:, 0].numpy()
    best = multivariate_normal(model.mean[0], model.covariance[0]).logpdf(values).mean()
    change = np.random.default_rng(0)
    for size in (1e-3, 1e-2, 1e-1):
        for _ in range(20):
            loadings = model.loadings[0].numpy() + size * change.standard_normal((5, 2))
            noise = float(model.noise_variance) * np.exp(size * change.standard_normal())
            mean = model.mean[0].numpy() + size * change.standard_normal(5)
            other = multivariate_normal(mean, loadings @ loadings.T + noise * np.eye(5)).logpdf(values).mean()
            assert other < best


@pytest.mark.parametrize("latent_dim", [0, 2, 4])
@pytest.mark.parametrize("n", [3, 60])
def test_maximum_likelihood_keeps_the_trace(n, latent_dim):
    x = rows(n)
    model = fitted(x, latent_dim)
    wanted = x.var(0, correction=0).sum(1)
    torch.testing.assert_close(model.covariance.diagonal(dim1=1, dim2=2).sum(1), wanted)
    assert latent_dim > 0 or torch.equal(model.covariance, model.covariance[:, :1, :1] * torch.eye(5))


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("sizes", [7, 1])
def test_batches_do_not_matter(sizes, weighted):
    x = rows(40)
    weights = torch.rand(40, 3, dtype=torch.float64, generator=generator(5)) if weighted else None
    model, whole = fitted(x, 2, sizes, weights), fitted(x, 2, None, weights)
    torch.testing.assert_close(model.covariance, whole.covariance, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(model.mean, whole.mean, rtol=1e-10, atol=1e-10)


def test_whole_weights_are_repeated_rows():
    x, counts = rows(40, 1), torch.randint(0, 4, (40,), generator=generator(6))
    weighted, repeated = fitted(x, 2, None, counts[:, None].double()), fitted(x.repeat_interleave(counts, dim=0))
    torch.testing.assert_close(weighted.covariance, repeated.covariance)
    torch.testing.assert_close(weighted.noise_variance, repeated.noise_variance)


def test_samples_have_the_moments_of_the_model():
    model, n = fitted(rows(60)), 100_000
    x = model.sample(n, generator(3))
    for replicate in range(3):
        wanted = model.covariance[replicate]
        scale = wanted.diagonal()
        error = torch.cov(x[:, replicate].T) - wanted
        assert (error.abs() < 4.5 * ((wanted**2 + scale[:, None] * scale) / n).sqrt()).all()
        assert ((x[:, replicate].mean(0) - model.mean[replicate]).abs() < 4.5 * (scale / n).sqrt()).all()


@pytest.mark.parametrize("n", [1, 2, 3])
def test_few_rows_leave_a_plane_without_noise(n):
    x = rows(n, 1)
    model = fitted(x, 2)
    assert float(model.noise_variance) == pytest.approx(0, abs=1e-12)
    drawn = model.sample(200, generator(0))[:, 0] - x[0]
    off = drawn - drawn @ torch.linalg.pinv((x - x[0])[:, 0]) @ (x - x[0])[:, 0]  # what the rows do not span
    assert off.abs().max() < 1e-6
    assert n == 1 or drawn.std(0).min() > 0.1
    model.noise_variance.zero_()
    with pytest.raises(ValueError, match=r"PPCA\(dim=5, latent_dim=2, replicates=1\) has no density without noise"):
        model.loss(batch_of(x))


def test_a_state_can_be_loaded():
    model, other = fitted(rows(60)), PPCA(5, 2, replicates=3)
    other.load_state_dict(model.state_dict())
    assert torch.equal(other.sample(4, generator(1)), model.sample(4, generator(1)))


def test_rows_that_cannot_be_fitted_are_refused():
    with pytest.raises(ValueError, match="cannot take up rows that are NaN or infinite"):
        PPCA(2, 1).fit(torch.tensor([[1.0, 2.0], [math.nan, 0.0]]))
    model = PPCA(2, 1)
    model.begin()
    model.finish()
    with pytest.raises(ValueError, match="was fitted on 0 rows"):
        model.sample(3, generator(0))
    with pytest.raises(ValueError, match="was fitted on 1 rows"):
        fitted(rows(1), ddof=1).sample(3, generator(0))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"latent_dim": 3}, "latent_dim=3 must lie in 0 to dim - 1, below dim=3"),
        ({"latent_dim": -1}, "latent_dim=-1"),
        ({"dim": 0, "latent_dim": 0}, "dim=0"),
        ({"ddof": 2}, "ddof=2"),
        ({"replicates": 0}, "replicates=0"),
    ],
)
def test_misuse_is_refused(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        PPCA(**{"dim": 3, "latent_dim": 1} | arguments)
