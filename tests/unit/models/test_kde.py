"""Kernel density estimates against SciPy, brute force and numerical integration."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import gaussian_kde, norm

from collapse import Batch
from collapse.models.estimators import kde
from collapse.models.estimators.kde import KDE
from collapse.models.estimators.points import pick
from collapse.seeding import generator


def rows(n, replicates=3, dim=2, seed=0):
    mix = torch.tensor([[2.0, 0.0], [0.7, 0.5]], dtype=torch.float64)[:dim, :dim]
    noise = torch.randn(n, replicates, dim, dtype=torch.float64, generator=generator(seed))
    return 5 + noise @ mix.T


def positive(*shape, seed=7):
    return torch.rand(*shape, dtype=torch.float64, generator=generator(seed)) + 0.1


def batch_of(x):
    nothing = torch.zeros(len(x), dtype=torch.int64)
    return Batch(x, None, nothing, nothing, torch.arange(len(x)))


def fitted(x, bandwidth, sizes=None, weights=None):
    model = KDE(x.shape[-1], bandwidth, x.shape[1])
    model.begin()
    parts = x.split(sizes or len(x))
    factors = [None] * len(parts) if weights is None else weights.split(sizes or len(x))
    for part, factor in zip(parts, factors, strict=True):
        model.update(batch_of(part), factor)
    model.finish()
    return model


# --- the density ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("rule", ["scott", "silverman"])
@pytest.mark.parametrize("dim", [1, 2])
def test_data_driven_kernels_equal_scipy(dim, rule, weighted):
    x, places, weights = rows(40, dim=dim), rows(11, dim=dim, seed=1), positive(40, 3) if weighted else None
    model = fitted(x, rule, weights=weights)
    for replicate in range(3):
        given = None if weights is None else weights[:, replicate].numpy()
        wanted = gaussian_kde(x[:, replicate].numpy().T, rule, given)
        np.testing.assert_allclose(model.kernel_covariance[replicate], wanted.covariance, rtol=1e-12)
        found = model.log_density(places)[:, replicate]
        np.testing.assert_allclose(found, wanted.logpdf(places[:, replicate].numpy().T), rtol=1e-11)


@pytest.mark.parametrize("weighted", [False, True])
def test_a_fixed_kernel_equals_the_sum(weighted):
    x, places, weights = rows(40), rows(11, seed=1), positive(40, 1) if weighted else torch.ones(40, 1)
    model = fitted(x, 0.3, weights=weights if weighted else None)
    for replicate in range(3):
        gap = places[:, None, replicate].numpy() - x[None, :, replicate].numpy()
        wanted = np.average(norm.pdf(gap, scale=0.3).prod(2), axis=1, weights=weights[:, 0].numpy())
        np.testing.assert_allclose(model.log_density(places)[:, replicate], np.log(wanted), rtol=1e-10)


def test_a_density_has_mass_one():
    model = fitted(rows(7, dim=1), 0.4, weights=positive(7, 3))
    grid = torch.linspace(-15, 25, 4001, dtype=torch.float64)
    density = model.log_density(grid[:, None, None].expand(-1, 3, -1)).exp()
    np.testing.assert_allclose(torch.trapezoid(density, grid, dim=0), 1, rtol=1e-12)


def test_loss_is_the_negative_log_density_averaged_over_replicates():
    model, places = fitted(rows(20), 0.5), rows(9, seed=1)
    torch.testing.assert_close(model.loss(batch_of(places)), -model.log_density(places).mean(1))


def test_a_place_far_from_every_row_has_a_log_density():
    model = KDE(1, 0.1)
    model.fit(torch.zeros(2, 1))
    found = float(model.log_density(torch.tensor([[50.0]])))
    assert found == pytest.approx(-((50 / 0.1) ** 2) / 2 - math.log(0.1 * math.sqrt(2 * math.pi)), rel=1e-12)


@pytest.mark.parametrize("block", [1, 3, 50])
def test_blocks_do_not_matter(block, monkeypatch):
    model, places = fitted(rows(40), "scott", weights=positive(40, 3)), rows(11, seed=1)
    whole = model.log_density(places)
    monkeypatch.setattr(kde, "BLOCK", block)
    torch.testing.assert_close(model.log_density(places), whole, rtol=1e-13, atol=0)


# --- fitting ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bandwidth", [0.3, "scott"])
@pytest.mark.parametrize("weights", [None, positive(40, 1), positive(40, 3)], ids=["ones", "shared", "own"])
@pytest.mark.parametrize("sizes", [7, 1])
def test_batches_do_not_matter(sizes, weights, bandwidth):
    x = rows(40)
    model, whole = fitted(x, bandwidth, sizes, weights), fitted(x, bandwidth, None, weights)
    for name, value in whole.state_dict().items():
        assert torch.equal(model.state_dict()[name], value)


def test_weights_may_come_with_some_batches_only():
    x, weights = rows(40), positive(40, 3)
    weights[:25] = 1
    model = KDE(2, "scott", 3)
    model.begin()
    model.update(batch_of(x[:25]))
    model.update(batch_of(x[25:]), weights[25:])
    model.finish()
    torch.testing.assert_close(model.log_density(x), fitted(x, "scott", weights=weights).log_density(x))


def test_a_new_pass_forgets_the_last_one():
    model = fitted(rows(50), 0.3)
    model.fit(rows(20, seed=1))
    assert torch.equal(model.points, rows(20, seed=1))


def test_a_state_of_another_size_can_be_loaded():
    model, other = fitted(rows(50), "scott", weights=positive(50, 3)), KDE(2, "scott", 3)
    other.load_state_dict(model.state_dict())
    assert torch.equal(other.sample(20, generator(1)), model.sample(20, generator(1)))
    assert torch.equal(other.log_density(rows(5)), model.log_density(rows(5)))


# --- sampling ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("bandwidth", [0.7, "silverman"])
def test_samples_have_the_moments_of_the_density(bandwidth, weighted):
    x, weights, n = rows(10), positive(10, 3) if weighted else None, 100_000
    model = fitted(x, bandwidth, weights=weights)
    drawn = model.sample(n, generator(3))
    for replicate in range(3):
        given = None if weights is None else weights[:, replicate].numpy()
        points = x[:, replicate].numpy()
        wanted = np.cov(points.T, aweights=given, ddof=0) + model.kernel_covariance[replicate].numpy()
        found = drawn[:, replicate].numpy()
        error = np.sqrt(np.diag(wanted) / n)
        assert (np.abs(found.mean(0) - np.average(points, axis=0, weights=given)) < 4.5 * error).all()
        centered = found - found.mean(0)
        products = centered[:, :, None] * centered[:, None, :]
        assert (np.abs(products.mean(0) - wanted) < 4.5 * products.std(0) / n**0.5).all()


@pytest.mark.parametrize("weighted", [False, True])
def test_without_bandwidth_samples_are_rows(weighted):
    x, weights = torch.arange(5.0)[:, None], torch.tensor([[1.0], [0.0], [2.0], [3.0], [4.0]]) if weighted else None
    model = KDE(1, 0.0)
    model.begin()
    model.update(batch_of(model.arranged(x)), weights)
    model.finish()
    counts = torch.bincount(model.sample(20_000, generator(2))[:, 0].long(), minlength=5)
    share = (torch.ones(5) / 5 if weights is None else weights[:, 0] / 10).double()
    assert ((counts - 20_000 * share).abs() <= 4.5 * (20_000 * share * (1 - share)).sqrt()).all()


def test_samples_depend_on_the_generator_alone():
    model = fitted(rows(20), "scott")
    state = torch.get_rng_state()
    assert torch.equal(model.sample(5, generator(1)), model.sample(5, generator(1)))
    assert not torch.equal(model.sample(5, generator(1)), model.sample(5, generator(2)))
    assert torch.equal(torch.get_rng_state(), state)


def test_picks_follow_the_weights_of_their_replicate():
    weights = torch.tensor([[0.0, 1.0], [3.0, 1.0], [1.0, 0.0]], dtype=torch.float64)
    uniform = torch.tensor(
        [[0.0, 0.0], [0.7499, 0.4999], [0.7501, 0.5001], [1 - 2**-53, 1 - 2**-53]], dtype=torch.float64
    )
    assert pick(weights, uniform).tolist() == [[1, 0], [1, 0], [2, 1], [2, 1]]
    assert pick(torch.ones(4, 1), uniform).tolist() == [[0, 0], [2, 1], [3, 2], [3, 3]]


# --- what has collapsed, or was never there ---------------------------------------------------------------------------


@pytest.mark.parametrize("direction", [[0.6, 0.8], [0.0, 0.0]], ids=["line", "point"])
def test_collapsed_rows_are_sampled_and_have_no_density(direction):
    x = torch.arange(6.0).double()[:, None, None] * torch.tensor(direction, dtype=torch.float64)
    model = fitted(x, "scott")
    off = model.sample(1000, generator(4))[:, 0] @ torch.tensor([-direction[1], direction[0]], dtype=torch.float64)
    assert off.abs().max() < 1e-7
    if direction == [0.0, 0.0]:
        with pytest.raises(ValueError, match="no density in 1 of 1 replicates"):
            model.log_density(x)


def test_the_empirical_distribution_has_no_density():
    model = KDE(1, 0.0)
    model.fit(torch.ones(3, 1))
    sentence = r"KDE\(bandwidth=0.0\) has no density in 1 of 1 replicates.*give a positive bandwidth"
    with pytest.raises(ValueError, match=sentence):
        model.log_density(torch.ones(3, 1))


def test_one_row_is_enough_for_a_fixed_kernel_only():
    model = KDE(1, 2.0)
    model.fit(torch.tensor([[3.0]]))
    assert float(model.log_density(torch.tensor([[4.0]]))) == pytest.approx(norm.logpdf(4, 3, 2))
    with pytest.raises(ValueError, match="bandwidth='scott' needs at least two rows"):
        KDE(1).fit(torch.tensor([[3.0]]))
    with pytest.raises(ValueError, match="needs at least two rows"):
        fitted(rows(2), "scott", weights=torch.tensor([[1.0], [0.0]]))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_rows_that_are_no_numbers_are_refused(value):
    with pytest.raises(ValueError, match=r"KDE\(bandwidth=0.1\) cannot take up rows that are NaN or infinite"):
        KDE(1, 0.1).fit(torch.tensor([[1.0], [value]]))


def test_no_rows_are_refused():
    model = KDE(1, 0.1)
    model.begin()
    for act in (model.finish, lambda: model.sample(3, generator(0)), lambda: model.log_density(torch.ones(1, 1))):
        with pytest.raises(ValueError, match="was fitted on no rows"):
            act()
    with pytest.raises(ValueError, match="weights are all zero"):
        fitted(rows(4), 0.1, weights=torch.tensor([[1.0, 0.0, 1.0]]).repeat(4, 1))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"dim": 0}, "dim=0"),
        ({"bandwidth": -0.1}, "bandwidth=-0.1"),
        ({"bandwidth": math.inf}, "bandwidth=inf"),
        ({"bandwidth": "scot"}, "bandwidth='scot' must be a number or one of scott, silverman"),
        ({"replicates": 0}, "replicates=0"),
    ],
)
def test_misuse_is_refused(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        KDE(**arguments)
