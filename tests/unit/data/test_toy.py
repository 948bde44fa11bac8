"""Toy data against the moments of their laws."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import kstest, norm
from sklearn.datasets import make_moons

from collapse.data import GaussianData, GridOfGaussians, RingOfGaussians, TwoMoons
from collapse.data.toy import GaussianMixtureData

SIGMAS = 4.5
PLANES = [RingOfGaussians, GridOfGaussians, TwoMoons]


def pair(rows=1000, **arguments):
    """The mixture of two normal laws that contaminated recursions are studied on."""
    return GaussianMixtureData((0.35, 0.65), (-2.0, 1.0), stds=(0.8, 1.3), rows=rows, **arguments)


def mean_error(x, mean, variance):
    """Distance of the sample mean from ``mean``, in standard errors."""
    return ((x.mean(0) - mean) / (variance / len(x)) ** 0.5).abs().max()


def test_gaussian_moments_of_one_experiment():
    x = GaussianData(20_000, 3, mean=[1.0, -2.0, 0.5], std=[0.1, 1.0, 3.0], seed=1).gold().x
    std = torch.tensor([0.1, 1.0, 3.0], dtype=torch.float64)
    assert x.shape == (20_000, 3)
    assert x.dtype == torch.float64
    assert mean_error(x, torch.tensor([1.0, -2.0, 0.5]), std**2) < SIGMAS
    assert ((x.var(0) / std**2 - 1).abs() < SIGMAS * math.sqrt(2 / 19_999)).all()


def test_gaussian_covariance_takes_the_place_of_std():
    sigma = torch.tensor([[2.0, -0.7], [-0.7, 0.5]], dtype=torch.float64)
    x = GaussianData(1, 2, covariance=sigma.tolist(), std=100.0, reference_rows=30_000).reference().x
    # Var S_ij = (S_ii S_jj + S_ij^2) / (n - 1), from Wishart
    error = ((torch.outer(sigma.diag(), sigma.diag()) + sigma**2) / 29_999).sqrt()
    assert ((torch.cov(x.T) - sigma).abs() / error).max() < SIGMAS


@pytest.mark.parametrize("covariance", [None, [[1.0, 0.5], [0.5, 1.0]]])
def test_replicates_are_independent_experiments(covariance):
    data = GaussianData(20, 2, mean=3.0, covariance=covariance, replicates=5000)
    x = data.gold().x
    assert x.shape == (20, 5000, 2)
    assert data.replicates == 5000
    variances = x.var(0)  # chi-square with 19 degrees of freedom: E = 1, Var = 2 / 19
    assert mean_error(variances, 1.0, 2 / 19) < SIGMAS
    assert abs(variances.var(0) / (2 / 19) - 1).max() < 0.15
    means = x.mean(0)
    assert mean_error(means, 3.0, 1 / 20) < SIGMAS
    neighbors = torch.corrcoef(torch.stack([means[:-1, 0], means[1:, 0]]))[0, 1]
    assert abs(neighbors) < SIGMAS / math.sqrt(4999)


def test_replicate_axis_is_there_for_one_replicate_only_when_asked():
    assert GaussianData(4).gold().x.shape == (4, 1)
    assert GaussianData(4, replicates=1).gold().x.shape == (4, 1, 1)
    assert GaussianData(4).batch_size is None
    assert len(next(iter(GaussianData(300).train_dataloader())).x) == 300


@pytest.mark.parametrize("data", [GaussianData, pair, *PLANES])
def test_rows_are_keyed_by_seed_and_drawn_once(data):
    one = data(rows=50, reference_rows=60)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    gold, reference = one.gold(), one.reference()
    assert torch.equal(torch.get_rng_state(), before)
    assert (len(gold), len(reference)) == (50, 60)
    assert one.gold() is gold
    assert one.reference() is reference
    assert torch.equal(one.twin().gold().x, gold.x)
    assert not torch.equal(data(rows=50, seed=1).gold().x, gold.x)
    assert not np.isin(np.asarray(gold.x)[:, 0], np.asarray(reference.x)[:, 0]).any()


def test_the_draws_are_pinned():
    def first(data):
        return data.gold().x[0].tolist()

    torch.testing.assert_close(GaussianData().gold().x[:3, 0].tolist(), [-0.514509163, 1.029631375, -0.142518588])
    torch.testing.assert_close(first(pair()), [-0.585912543])
    torch.testing.assert_close(first(RingOfGaussians()), [-0.00943152, -0.99523437])
    torch.testing.assert_close(first(GridOfGaussians()), [-1.00943148, -1.99523437])
    torch.testing.assert_close(first(TwoMoons()), [-0.14573547, 1.00430989])
    torch.testing.assert_close(first(TwoMoons(spaced=True)), [-0.90535372, 0.41845542])


@pytest.mark.parametrize("plane", PLANES)
def test_planes_have_replicates(plane):
    data, labeled = plane(rows=200, replicates=300), plane(rows=60_000)
    x = data.gold().x
    assert (x.shape, x.dtype, data.replicates) == ((200, 300, 2), torch.float32, 300)
    assert data.gold().y is data.classes is None
    assert data.batch_size == 128
    assert torch.equal(x.reshape(-1, 2), labeled.gold().x)  # rows of a replicate are any rows of the law
    assert torch.equal(plane(rows=50, replicates=1).gold().x[:, 0], plane(rows=50).gold().x)
    means = x.double().mean(0)
    spread = labeled.gold().x.double().var(0) / 200
    assert mean_error(means, labeled.modes().mean(0), spread) < SIGMAS
    assert ((means.var(0) / spread - 1).abs() < SIGMAS * math.sqrt(2 / 299)).all()


def test_spaced_moons_are_those_of_scikit_learn():
    wanted, labels = make_moons(101, shuffle=False)
    x, y = TwoMoons(0.0, 101, spaced=True).gold().tensors()
    assert torch.bincount(y).tolist() == np.bincount(labels).tolist() == [50, 51]
    replicates = TwoMoons(0.0, 101, spaced=True, replicates=3).gold().x.unbind(1)
    for label in (0, 1):
        for points in (x, *replicates):
            moon = points[y == label]
            np.testing.assert_allclose(moon[moon[:, 0].argsort()], sorted(wanted[labels == label].tolist()), atol=1e-6)
    assert not torch.equal(y, y.sort().values)


def test_only_the_noise_of_spaced_moons_is_left_to_chance():
    x = TwoMoons(0.1, 40, spaced=True, replicates=5000).gold().x.double()
    places, _ = TwoMoons(0.0, 40, spaced=True).gold().tensors()
    assert mean_error(x.transpose(0, 1) / 0.1, places / 0.1, 1.0) < 5.5  # the largest of 80
    assert ((x.var(1) / 0.01 - 1).abs() < 5.5 * math.sqrt(2 / 4999)).all()


@pytest.mark.parametrize(("data", "modes"), [(RingOfGaussians(rows=40_000), 8), (GridOfGaussians(rows=40_000), 25)])
def test_equal_round_modes(data, modes):
    x, y = data.gold().tensors()
    assert (x.shape, x.dtype) == ((40_000, 2), torch.float32)
    assert data.classes == modes
    counts = torch.bincount(y, minlength=modes).double()
    chi_square = ((counts - 40_000 / modes) ** 2 / (40_000 / modes)).sum()
    assert abs(chi_square - (modes - 1)) < SIGMAS * math.sqrt(2 * (modes - 1))
    noise = (x - data.modes()[y]) / 0.05
    assert mean_error(noise, 0.0, 1.0) < SIGMAS
    assert ((noise.var(0) - 1).abs() < SIGMAS * math.sqrt(2 / 40_000)).all()
    nearest = torch.cdist(x.double(), data.modes()).argmin(1)
    assert torch.equal(nearest, y)  # at these distances no point is nearer to another mode


def test_the_places_of_the_modes():
    ring = RingOfGaussians(6, 2.0).modes()
    torch.testing.assert_close(ring.norm(dim=1), torch.full((6,), 2.0).double())
    torch.testing.assert_close((ring - ring.roll(1, 0)).norm(dim=1), torch.full((6,), 2.0).double())  # a hexagon
    torch.testing.assert_close(ring[0], torch.tensor([2.0, 0.0]).double())
    grid = GridOfGaussians(3, 0.5).modes()
    expected = [[a, b] for a in (-0.5, 0.0, 0.5) for b in (-0.5, 0.0, 0.5)]
    assert grid.tolist() == expected


def test_moments_of_the_moons():
    data = TwoMoons(0.1, rows=40_000)
    x, y = data.gold().tensors()
    assert data.classes == 2
    assert abs(y.double().mean() - 0.5) < SIGMAS * 0.5 / math.sqrt(40_000)
    variance = torch.tensor([0.5, 0.5 - 4 / math.pi**2]) + 0.1**2
    for label in (0, 1):
        moon = x[y == label].double()
        assert mean_error(moon, data.modes()[label], variance) < SIGMAS
        fourth = (moon - moon.mean(0)).pow(4).mean(0)
        error = ((fourth - variance**2) / len(moon)).sqrt()
        assert ((moon.var(0) - variance).abs() / error).max() < SIGMAS


def test_moons_without_noise_are_half_circles():
    x, y = TwoMoons(0.0).gold().tensors()
    centers = torch.tensor([[0.0, 0.0], [1.0, 0.5]])
    torch.testing.assert_close((x - centers[y]).norm(dim=1), torch.ones(len(x)))
    assert (x[y == 0, 1] >= 0).all()
    assert (x[y == 1, 1] <= 0.5).all()


def test_a_mixture_of_numbers():
    data = pair(40_000)
    x, y = data.gold().tensors()
    assert (x.shape, x.dtype, data.classes) == ((40_000, 1), torch.float64, 2)
    assert abs(y.double().mean() - 0.65) < SIGMAS * math.sqrt(0.35 * 0.65 / 40_000)
    for label, (mean, std) in enumerate([(-2.0, 0.8), (1.0, 1.3)]):
        assert kstest(x[y == label, 0], norm(mean, std).cdf).pvalue > 1e-5
    every = pair(20, replicates=2000).gold().x.flatten()
    assert kstest(every, lambda t: 0.35 * norm.cdf(t, -2, 0.8) + 0.65 * norm.cdf(t, 1, 1.3)).pvalue > 1e-5
    assert data.modes().tolist() == [[-2.0], [1.0]]


def test_a_mixture_of_vectors():
    means, sigma = [[0.0, 5.0], [3.0, -1.0], [0.0, 0.0]], [[2.0, -0.7], [-0.7, 0.5]]
    data = GaussianMixtureData((0.2, 0.0, 0.8), means, covariances=[sigma, sigma, np.eye(2).tolist()], rows=50_000)
    x, y = data.gold().tensors()
    counts = torch.bincount(y, minlength=3)
    assert counts[1] == 0
    assert abs(counts[0] - 10_000) < SIGMAS * math.sqrt(8000)
    for label, wanted in ((0, torch.tensor(sigma).double()), (2, torch.eye(2).double())):
        part = x[y == label]
        assert mean_error(part, torch.tensor(means[label]), wanted.diag()) < SIGMAS
        error = ((torch.outer(wanted.diag(), wanted.diag()) + wanted**2) / (len(part) - 1)).sqrt()
        assert ((torch.cov(part.T) - wanted).abs() / error).max() < SIGMAS


def test_replicates_of_a_mixture_choose_their_own_components():
    data = GaussianMixtureData((0.5, 0.3, 0.2), (0.0, 100.0, 200.0), rows=30, replicates=5000)
    assert data.gold().y is data.classes is None
    share = ((data.gold().x[..., 0] / 100).round() == 1).double().mean(0)  # binomial
    assert mean_error(share, 0.3, 0.21 / 30) < SIGMAS
    assert abs(share.var() / (0.21 / 30) - 1) < SIGMAS * math.sqrt(2 / 4999)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: GaussianData(0), "rows = 0"),
        (lambda: GaussianData(dim=0), "dim = 0"),
        (lambda: GaussianData(replicates=0), "replicates = 0"),
        (lambda: GaussianData(dim=3, mean=[1.0, 2.0]), r"mean = \[1.0, 2.0\] must be one number or dim = 3"),
        (lambda: GaussianData(std=0.0), "std = 0.0 must be above 0"),
        (lambda: GaussianData(dim=2, covariance=[[1.0]]), "symmetric matrix of dim = 2"),
        (lambda: GaussianData(dim=2, covariance=[[1.0, 0.2], [0.1, 1.0]]), "symmetric matrix"),
        (lambda: GaussianData(dim=2, covariance=[[1.0, 2.0], [2.0, 1.0]]), "positive definite"),
        (lambda: RingOfGaussians(0), "modes = 0"),
        (lambda: GridOfGaussians(0), "side = 0"),
        (lambda: TwoMoons(-0.1), "noise = -0.1"),
        (lambda: TwoMoons(reference_rows=0), "reference_rows = 0"),
        (lambda: TwoMoons(replicates=0), "replicates = 0 must be at least 1"),
        (lambda: pair(0), "rows = 0"),
        (lambda: GaussianMixtureData((0.5, 0.6), (0.0, 1.0)), r"weights = \(0.5, 0.6\) must be 2 probabilities"),
        (lambda: GaussianMixtureData((1.5, -0.5), (0.0, 1.0)), r"weights = \(1.5, -0.5\)"),
        (lambda: GaussianMixtureData((1.0,), (0.0, 1.0)), "one per mean"),
        (
            lambda: GaussianMixtureData((0.5, 0.5), (0.0, 1.0), stds=(1.0, 0.0)),
            "stds = .* one number above 0 or 2 of them",
        ),
        (lambda: GaussianMixtureData((0.5, 0.5), (0.0, 1.0), stds=(1.0, 1.0, 1.0)), "one number above 0 or 2"),
        (lambda: GaussianMixtureData((0.5, 0.5), (0.0, 1.0), covariances=[[[1.0]]]), "1 matrices for 2 means"),
        (lambda: GaussianMixtureData((1.0,), (0.0,), covariances=[[[-1.0]]]), "positive definite"),
    ],
)
def test_a_wrong_argument_is_a_sentence(make, sentence):
    with pytest.raises(ValueError, match=sentence):
        make()
