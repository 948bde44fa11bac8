"""Mixtures of Gaussians against scikit-learn, SciPy and themselves."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal
from sklearn.mixture import GaussianMixture as Reference

from collapse import Batch
from collapse.data.toy import GaussianMixtureData
from collapse.models.estimators import em
from collapse.models.estimators.mixture import GaussianMixture
from collapse.recursion import run_chain
from collapse.seeding import generator, keyed_rng

CENTERS = ((0.0, 0.0), (3.0, 1.0), (-2.0, 4.0))
REFERENCES = {  # our name: theirs, and what they want of inverse covariances (K, d, d)
    "full": ("full", lambda precisions: precisions),
    "diagonal": ("diag", lambda precisions: np.diagonal(precisions, axis1=1, axis2=2)),
    "spherical": ("spherical", lambda precisions: precisions[:, 0, 0]),
}


def rows(n, replicates=3, seed=0):
    """Rows of overlapping clouds around the centers."""
    labels = torch.randint(3, (n, replicates), generator=generator(seed, 1))
    noise = torch.randn(n, replicates, 2, dtype=torch.float64, generator=generator(seed, 2))
    return torch.tensor(CENTERS, dtype=torch.float64)[labels] + noise


def batch_of(x):
    nothing = torch.zeros(len(x), dtype=torch.int64)
    return Batch(x, None, nothing, nothing, torch.arange(len(x)))


def fitted(x, sizes=None, weights=None, **arguments):
    model = GaussianMixture(
        **{"components": 3, "dim": x.shape[-1], "replicates": x.shape[1], "start": CENTERS} | arguments
    )
    model.begin()
    parts = x.split(sizes or len(x))
    factors = [None] * len(parts) if weights is None else weights.split(sizes or len(x))
    for part, factor in zip(parts, factors, strict=True):
        model.update(batch_of(part), factor)
    model.finish()
    return model


def assert_same_fit(one, other, rtol=1e-9):
    for name in ("weights", "mean", "covariance"):
        torch.testing.assert_close(getattr(one, name), getattr(other, name), rtol=rtol, atol=rtol)


def known(weights, mean, covariance):
    """A model with given parameters, each with a leading replicate axis."""
    model = GaussianMixture(len(weights[0]), len(mean[0][0]), replicates=len(weights))
    for name, value in (("weights", weights), ("mean", mean), ("covariance", covariance)):
        getattr(model, name).copy_(torch.tensor(value, dtype=torch.float64))
    return model


# --- the fit ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("regularization", [1e-6, 0.1])
@pytest.mark.parametrize("covariance_type", REFERENCES)
@pytest.mark.parametrize("stop", [(300, 1e-8), (7, 0.0), (300, 1e-3)], ids=["converged", "seven", "coarse"])
def test_fits_equal_scikit_learn_from_the_same_start(stop, covariance_type, regularization):
    x, centers = rows(200), torch.tensor(CENTERS, dtype=torch.float64)
    options = {"iterations": stop[0], "tolerance": stop[1], "regularization": regularization}
    model = fitted(x, covariance_type=covariance_type, **options)
    name, form = REFERENCES[covariance_type]
    for replicate in range(3):
        one = em.Rows(x[None, :, replicate], torch.ones(1, 200, dtype=torch.float64))
        first = em.first_components(one, centers[None], model.settings)
        reference = Reference(
            n_components=3,
            covariance_type=name,
            max_iter=stop[0],
            tol=stop[1],
            reg_covar=regularization,
            weights_init=first.weights[0].numpy(),
            means_init=first.mean[0].numpy(),
            precisions_init=form(torch.linalg.inv(first.covariance[0]).numpy()),
        )
        values = x[:, replicate].numpy()
        if stop[1] == 0:
            with pytest.warns(match="did not converge"):
                reference.fit(values)
        else:
            reference.fit(values)
        np.testing.assert_allclose(model.weights[replicate], reference.weights_, rtol=1e-8)
        np.testing.assert_allclose(model.mean[replicate], reference.means_, rtol=1e-8, atol=1e-8)
        found = form(model.covariance[replicate].numpy())
        np.testing.assert_allclose(found, reference.covariances_, rtol=1e-8, atol=1e-8)
        likelihood = float(model.log_density(x)[:, replicate].mean())
        assert likelihood == pytest.approx(reference.score(values), rel=1e-10)


@pytest.mark.parametrize("covariance_type", REFERENCES)
def test_the_likelihood_never_falls(covariance_type):
    x = rows(60)
    options = {"covariance_type": covariance_type, "tolerance": 0.0, "regularization": 0.0}
    values = torch.stack([fitted(x, iterations=n, **options).log_density(x).mean(0) for n in range(1, 25)])
    assert (values.diff(dim=0) > -1e-12).all()
    assert (values[-1] > values[0] + 1e-4).all()


def test_replicates_are_fitted_alone():
    x = rows(50, replicates=8)
    model = fitted(x)
    for replicate in range(8):
        alone = fitted(x[:, replicate : replicate + 1])
        for name in ("weights", "mean", "covariance"):
            torch.testing.assert_close(getattr(model, name)[replicate], getattr(alone, name)[0], rtol=1e-10, atol=1e-10)


def test_one_component_is_the_gaussian():
    x = rows(50)
    model = fitted(x, components=1, start=None, regularization=0.0)
    for replicate in range(3):
        values = x[:, replicate].numpy()
        np.testing.assert_allclose(model.mean[replicate, 0], values.mean(0), rtol=1e-12)
        np.testing.assert_allclose(model.covariance[replicate, 0], np.cov(values.T, ddof=0), rtol=1e-11)


@pytest.mark.parametrize("sizes", [7, 1])
@pytest.mark.parametrize("weighted", [False, True])
def test_batches_do_not_matter(weighted, sizes):
    x = rows(40)
    weights = torch.rand(40, 3, dtype=torch.float64, generator=generator(5)) if weighted else None
    assert_same_fit(fitted(x, sizes, weights), fitted(x, None, weights), rtol=0)


def test_whole_weights_are_repeated_rows():
    x, counts = rows(40, 1), torch.randint(0, 4, (40,), generator=generator(6))
    repeated = fitted(x.repeat_interleave(counts, dim=0))
    assert_same_fit(fitted(x, weights=counts[:, None].double()), repeated)
    assert_same_fit(fitted(x, weights=7.5 * counts[:, None].double()), repeated)  # a common factor does not matter


def test_a_model_with_parameters_goes_on_from_them():
    x, options = rows(60), {"tolerance": 0.0}
    model = fitted(x, iterations=3, **options)
    assert len(model.points) == 0
    model.fit(x)
    assert_same_fit(model, fitted(x, iterations=6, **options), rtol=1e-12)
    assert not torch.allclose(model.mean, fitted(x, iterations=3, **options).mean)


def test_a_chain_draws_its_starts_from_its_own_keys():
    data = GaussianMixtureData((0.5, 0.5), ((0.0, 0.0), (1.0, 1.0)), rows=50, reference_rows=1)

    def weights(seed):
        chain = run_chain(
            *(GaussianMixture(2, 2), data), generations=2, samples_per_generation=50, seed=seed, evaluate=False
        )
        return chain.state(1)["weights"]

    first = weights(0)
    torch.manual_seed(99)
    assert torch.equal(weights(0), first)
    assert not torch.equal(weights(1), first)


# --- density and samples ----------------------------------------------------------------------------------------------

WEIGHTS = [[0.2, 0.8], [0.5, 0.5]]
MEAN = [[[0.0, 1.0], [4.0, -1.0]], [[2.0, 2.0], [2.0, 2.0]]]
COVARIANCE = [
    [[[1.0, 0.5], [0.5, 2.0]], [[0.3, 0.0], [0.0, 0.1]]],
    [[[1.0, 0.0], [0.0, 1.0]], [[4.0, 3.9], [3.9, 4.0]]],
]


def test_density_equals_scipy():
    model, x = known(WEIGHTS, MEAN, COVARIANCE), rows(20, 2)
    for replicate in range(2):
        wanted = sum(
            weight * multivariate_normal(mean, covariance).pdf(x[:, replicate].numpy())
            for weight, mean, covariance in zip(WEIGHTS[replicate], MEAN[replicate], COVARIANCE[replicate], strict=True)
        )
        np.testing.assert_allclose(model.log_density(x)[:, replicate], np.log(wanted), rtol=1e-10)
    torch.testing.assert_close(model.loss(batch_of(x)), -model.log_density(x).mean(1))


def test_samples_come_from_the_components():
    model, n = known(WEIGHTS, MEAN, COVARIANCE), 100_000
    x = model.sample(n, generator(3))
    for replicate in range(2):
        weight, mean = np.array(WEIGHTS[replicate]), np.array(MEAN[replicate])
        center = weight @ mean
        gap = mean - center
        wanted = np.einsum("k,kij->ij", weight, np.array(COVARIANCE[replicate]) + gap[:, :, None] * gap[:, None, :])
        found = x[:, replicate].numpy()
        assert (np.abs(found.mean(0) - center) < 4.5 * np.sqrt(np.diag(wanted) / n)).all()
        products = (found - center)[:, :, None] * (found - center)[:, None, :]
        assert (np.abs(products.mean(0) - wanted) < 4.5 * products.std(0) / n**0.5).all()
    second = x[:, 0, 0] > 2.7  # 2.7 standard deviations from the first component, 2.4 from the second
    tail = [0.5 * math.erfc(z / math.sqrt(2)) for z in (2.7, (2.7 - 4) / math.sqrt(0.3))]
    share = 0.2 * tail[0] + 0.8 * tail[1]
    assert abs(float(second.double().mean()) - share) < 4.5 * (share * (1 - share) / n) ** 0.5


def test_samples_depend_on_the_generator_alone():
    model = fitted(rows(30))
    state = torch.get_rng_state()
    assert torch.equal(model.sample(5, generator(1)), model.sample(5, generator(1)))
    assert not torch.equal(model.sample(5, generator(1)), model.sample(5, generator(2)))
    assert torch.equal(torch.get_rng_state(), state)


# --- what has died or collapsed ---------------------------------------------------------------------------------------


def test_a_component_without_rows_dies_where_it_stood():
    x = rows(40, 2)
    far = ((0.0, 0.0), (3.0, 1.0), (1000.0, 1000.0))
    model = fitted(x, start=far)
    assert (model.weights[:, 2] == 0).all()
    assert (model.weights[:, :2] > 0).all()
    torch.testing.assert_close(model.weights.sum(1), torch.ones(2, dtype=torch.float64))
    np.testing.assert_array_equal(model.mean[:, 2], [far[2]] * 2)
    for replicate in range(2):  # that of all rows, which is where a component starts from
        np.testing.assert_allclose(
            model.covariance[replicate, 2], np.cov(x[:, replicate].T, ddof=0) + 1e-6 * np.eye(2), rtol=1e-10
        )
    assert model.sample(5000, generator(0)).max() < 100
    pair = fitted(x, components=2, start=far[:2])
    torch.testing.assert_close(model.log_density(x), pair.log_density(x))
    model.fit(1000 + x)  # nobody comes back from the dead: the others have to move
    assert (model.weights[:, 2] == 0).all()


@pytest.mark.parametrize("regularization", [0.0, 1e-6])
def test_rows_that_are_all_equal(regularization):
    x = torch.tensor([[1.0, 2.0]], dtype=torch.float64).expand(10, 1, 2)
    with keyed_rng(0):
        model = fitted(x, start=None, regularization=regularization)
    assert float(model.weights.sum()) == pytest.approx(1)
    alive = model.weights[0] > 0
    torch.testing.assert_close(model.mean[0, alive], x[:1, 0].expand(int(alive.sum()), 2), rtol=1e-14, atol=0)
    wanted = regularization * np.eye(2)
    np.testing.assert_allclose(model.covariance[0, alive], [wanted] * int(alive.sum()), rtol=1e-12, atol=1e-28)
    drawn = model.sample(100, generator(0))
    assert (drawn - x[:1]).abs().max() <= 5 * regularization**0.5 + 1e-14
    assert torch.isfinite(model.log_density(x)).all()


@pytest.mark.parametrize("n", [1, 2])
def test_fewer_rows_than_components(n):
    x = rows(n, 4)
    with keyed_rng(0):
        model = fitted(x, start=None)
    assert torch.isfinite(model.log_density(x)).all()
    assert ((model.weights > 0).sum(1) <= n).all()
    torch.testing.assert_close((model.weights[..., None] * model.mean).sum(1), x.mean(0))


def test_without_regularization_a_component_may_collapse():
    x = torch.cat([torch.zeros(5, 1, 1), torch.tensor([[[9.0]], [[10.0]], [[11.0]]])]).double()
    model = fitted(x, components=2, start=((0.0,), (10.0,)), regularization=0.0)
    np.testing.assert_array_equal(model.covariance[0, 0], 0)
    np.testing.assert_allclose(model.weights[0], [5 / 8, 3 / 8], rtol=1e-12)
    np.testing.assert_allclose(model.covariance[0, 1], 2 / 3, rtol=1e-12)
    drawn = model.sample(4000, generator(0))[:, 0, 0]
    share = float((drawn == 0).double().mean())
    assert abs(share - 5 / 8) < 4.5 * (15 / 64 / 4000) ** 0.5


def test_a_line_of_rows_is_fitted_and_sampled():
    x = torch.linspace(0, 1, 30, dtype=torch.float64)[:, None, None] * torch.tensor([0.6, 0.8], dtype=torch.float64)
    model = fitted(x, components=2, start=((0.0, 0.0), (0.6, 0.8)), regularization=0.0)
    off = model.sample(1000, generator(1))[:, 0] @ torch.tensor([-0.8, 0.6], dtype=torch.float64)
    assert off.abs().max() < 1e-7
    assert torch.isfinite(model.log_density(x)).all()


# --- misuse -----------------------------------------------------------------------------------------------------------


def test_rows_that_cannot_be_fitted_are_refused():
    model = GaussianMixture(2, 1)
    with pytest.raises(ValueError, match="cannot take up rows that are NaN or infinite"):
        model.fit(torch.tensor([[1.0], [math.nan]]))
    model.begin()
    with pytest.raises(ValueError, match="was fitted on no rows"):
        model.finish()
    for act in (lambda: model.sample(3, generator(0)), lambda: model.log_density(torch.ones(1, 1))):
        with pytest.raises(ValueError, match="was not fitted yet"):
            act()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"components": 0}, "components=0"),
        ({"dim": 0}, "dim=0"),
        ({"iterations": 0}, "iterations=0"),
        ({"tolerance": -1.0}, "tolerance=-1.0"),
        ({"regularization": -1e-6}, "regularization=-1e-06"),
        ({"regularization": math.nan}, "regularization=nan"),
        ({"covariance_type": "tied"}, "covariance_type='tied' must be one of full, diagonal, spherical"),
        ({"start": ((0.0,),)}, "must be components=2 centers of dim=1 numbers each"),
        ({"replicates": 0}, "replicates=0"),
    ],
)
def test_misuse_is_refused(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        GaussianMixture(**arguments)
