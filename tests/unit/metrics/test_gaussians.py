"""Distances between Gaussians against exact values (M1, M13), matrix formulas, integration and finite differences."""

import math

import numpy as np
import pytest
import scipy.integrate
import scipy.linalg
import torch

from collapse.metrics import gaussian_frechet, gaussian_sliced_wasserstein, kl_gaussian

M1 = [
    torch.tensor(v, dtype=torch.float64)
    for v in ([0.0, 0.0], [[2.0, 0.5], [0.5, 1.0]], [1.0, -1.0], [[1.0, -0.3], [-0.3, 1.5]])
]
DISTANCES = [gaussian_frechet, kl_gaussian, gaussian_sliced_wasserstein]


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def law(width, seed):
    """Draw the moments of a Gaussian."""
    root = normal(width, width, seed=seed)
    return normal(width, seed=seed + 50), root @ root.T


def univariate(mean, variance):
    return mean[..., None], variance[..., None, None]


# Fréchet


def test_m1_frechet():
    assert gaussian_frechet(*M1).item() == pytest.approx(2.46347119, abs=2.5e-6)


def test_m1_iso():
    mean, eye = torch.zeros(3), torch.eye(3)
    assert gaussian_frechet(mean, eye, mean, 0.25 * eye).item() == pytest.approx(0.75, rel=1e-12)


def test_frechet_in_the_plane_has_a_root_of_determinants():
    m1, s1, m2, s2 = M1
    root = torch.sqrt((s1 @ s2).trace() + 2 * torch.sqrt(torch.det(s1) * torch.det(s2)))
    expected = (m1 - m2).square().sum() + s1.trace() + s2.trace() - 2 * root
    assert gaussian_frechet(*M1).item() == pytest.approx(expected.item(), rel=1e-12)


@pytest.mark.parametrize("width", [1, 3, 10])
def test_frechet_equals_scipy_and_is_symmetric(width):
    (m1, s1), (m2, s2) = law(width, 1), law(width, 2)
    root = scipy.linalg.sqrtm((s1 @ s2).numpy()).real
    expected = ((m1 - m2) ** 2).sum() + (s1 + s2).trace() - 2 * np.trace(root)
    assert gaussian_frechet(m1, s1, m2, s2).item() == pytest.approx(float(expected), rel=1e-9)
    assert gaussian_frechet(m2, s2, m1, s1).item() == pytest.approx(float(expected), rel=1e-9)


def test_m13_floor_of_two_samples_of_one_law():
    x, y = normal(2000, 25, seed=1), normal(2000, 25, seed=2)
    values = gaussian_frechet(*univariate(x.mean(1), x.var(1)), *univariate(y.mean(1), y.var(1)))
    assert values.shape == (2000,)
    assert values.mean().item() == pytest.approx(0.1212239, abs=0.0128)
    c4 = math.sqrt(2 / 24) * math.gamma(12.5) / math.gamma(12)
    assert 2 / 25 + 2 * (1 - c4**2) == pytest.approx(0.1212239, rel=1e-6)
    in_one_dimension = (x.mean(1) - y.mean(1)).square() + (x.std(1) - y.std(1)).square()
    torch.testing.assert_close(values, in_one_dimension, rtol=1e-9, atol=1e-12)


def test_collapsed_laws_are_at_their_traces():
    (mean, covariance), point = law(4, 1), torch.zeros(4, 4)
    expected = mean.square().sum() + covariance.trace()
    for distance in (gaussian_frechet, gaussian_sliced_wasserstein):
        share = 1 if distance is gaussian_frechet else 1 / 4
        assert distance(mean, covariance, torch.zeros(4), point).item() == pytest.approx(
            share * expected.item(), rel=1e-12
        )
        assert distance(mean, point, mean, point) == 0


def test_frechet_of_orthogonal_lines_is_the_sum_of_their_variances():
    one, two = torch.diag(torch.tensor([4.0, 0, 0])), torch.diag(torch.tensor([0, 9.0, 0]))
    assert gaussian_frechet(torch.zeros(3), one, torch.zeros(3), two).item() == pytest.approx(13, rel=1e-12)
    assert gaussian_frechet(torch.zeros(3), one, torch.zeros(3), 4 * one).item() == pytest.approx(4, rel=1e-12)


# Kullback-Leibler


def test_m1_kl():
    assert kl_gaussian(*M1).item() == pytest.approx(1.090568519, abs=1.1e-6)


def test_kl_equals_the_integral_of_the_log_ratio():
    (m1, v1), (m2, v2) = (0.3, 0.5), (-0.4, 1.7)

    def log_density(x, mean, variance):
        return -((x - mean) ** 2) / (2 * variance) - math.log(2 * math.pi * variance) / 2

    def term(x):
        return math.exp(log_density(x, m1, v1)) * (log_density(x, m1, v1) - log_density(x, m2, v2))

    expected, _ = scipy.integrate.quad(term, -12, 12)
    value = kl_gaussian(*univariate(*torch.tensor([m1, v1])), *univariate(*torch.tensor([m2, v2])))
    assert value.item() == pytest.approx(expected, rel=1e-6)


def test_kl_equals_torch():
    (m1, s1), (m2, s2) = law(5, 1), law(5, 2)
    laws = [torch.distributions.MultivariateNormal(m, s) for m, s in ((m1, s1), (m2, s2))]
    expected = torch.distributions.kl_divergence(*laws)
    assert kl_gaussian(m1, s1, m2, s2).item() == pytest.approx(expected.item(), rel=1e-10)


# All three


@pytest.mark.parametrize("distance", DISTANCES)
def test_leading_axes_are_independent_pairs(distance):
    pairs = [(*law(3, seed), *law(3, seed + 20)) for seed in range(4)]
    stacked = [torch.stack(part).reshape(2, 2, *part[0].shape) for part in zip(*pairs, strict=True)]
    one_by_one = torch.stack([distance(*pair) for pair in pairs]).reshape(2, 2)
    torch.testing.assert_close(distance(*stacked), one_by_one, rtol=1e-10, atol=0)
    against_one = distance(*stacked[:2], *pairs[0][2:])
    torch.testing.assert_close(against_one[0, 0], one_by_one[0, 0], rtol=1e-10, atol=0)


@pytest.mark.parametrize("distance", DISTANCES)
def test_a_law_is_at_zero_from_itself(distance):
    mean, covariance = map(torch.stack, zip(*(law(6, seed) for seed in range(40)), strict=True))
    values = distance(mean, covariance, mean, covariance)
    assert values.abs().max() < 1e-11
    if distance is gaussian_frechet:
        assert values.min() == 0  # about half would be below by rounding


@pytest.mark.parametrize("distance", DISTANCES)
def test_gradients_are_those_of_finite_differences(distance):
    roots = [normal(3, 3, seed=1).requires_grad_(), normal(3, 3, seed=2).requires_grad_()]
    means = [normal(3, seed=3).requires_grad_(), normal(3, seed=4).requires_grad_()]

    def of_roots(m1, a, m2, b):
        return distance(m1, a @ a.T, m2, b @ b.T)

    assert torch.autograd.gradcheck(of_roots, (means[0], roots[0], means[1], roots[1]))


@pytest.mark.parametrize("distance", DISTANCES)
def test_second_derivatives_are_those_of_finite_differences(distance):
    root = normal(2, 2, seed=1).requires_grad_()
    assert torch.autograd.gradgradcheck(lambda a: distance(M1[0], a @ a.T, M1[2], M1[3]), root)


def test_frechet_of_equal_eigenvalues_has_a_gradient():
    """The derivative of an eigenvector is infinite there; that of the distance is I - G, with G = c I."""
    covariance = (4 * torch.eye(3, dtype=torch.float64)).requires_grad_()
    value = gaussian_frechet(torch.zeros(3), covariance, torch.zeros(3), torch.eye(3))
    (gradient,) = torch.autograd.grad(value, covariance)
    torch.testing.assert_close(gradient, 0.5 * torch.eye(3, dtype=torch.float64))


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize(
    ("mean", "covariance", "message"),
    [
        (torch.zeros(3), torch.eye(2), r"mean_q has shape \(3,\) and cov_q has shape \(2, 2\), but"),
        (torch.zeros(()), torch.ones(()), r"mean_q has shape \(\)"),
        (torch.zeros(2), torch.full((2, 2), torch.nan), "mean_q or cov_q has NaN"),
        (torch.tensor([0, torch.inf]), torch.eye(2), "mean_q or cov_q has NaN or infinite numbers; drop"),
        (torch.zeros(2), torch.tensor([[1.0, 0.5], [0.0, 1.0]]), "cov_q is not symmetric; pass"),
    ],
)
def test_wrong_moments_are_a_sentence(distance, mean, covariance, message):
    with pytest.raises(ValueError, match=message):
        distance(torch.zeros(2), torch.eye(2), mean, covariance)


def test_kl_of_a_singular_gaussian_is_an_error():
    with pytest.raises(ValueError, match="cov_q is not positive definite, so that the divergence is infinite"):
        kl_gaussian(torch.zeros(2), torch.eye(2), torch.zeros(2), torch.zeros(2, 2))
