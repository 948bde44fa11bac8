"""Transport against exact values (M2, M3), assignment, quantile integrals and quadrature."""

import math

import numpy as np
import pytest
import scipy.integrate
import scipy.optimize
import scipy.stats
import torch

from collapse.metrics import gaussian_sliced_wasserstein, random_directions, sliced_wasserstein, wasserstein_1d

SIGMAS = 4.5
M3 = [
    torch.tensor(v, dtype=torch.float64)
    for v in ([0.0, 0.0], [[2.0, 0.5], [0.5, 1.0]], [1.0, -1.0], [[1.0, -0.3], [-0.3, 1.5]])
]


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def assigned(x, y, p):
    """Cost of the best assignment, after every point is repeated to a common number of points."""
    n, m = len(x), len(y)
    costs = np.abs(np.repeat(x, m)[:, None] - np.repeat(y, n)[None]) ** p
    return costs[scipy.optimize.linear_sum_assignment(costs)].mean()


# On a line


@pytest.mark.parametrize(
    ("x", "y", "w1", "w2_squared"),
    [
        pytest.param([0, 1, 3], [5, 6, 8], 5, 25, id="M2.a"),
        pytest.param([0, 1, 2], [0.5, 1.5], 0.5, 0.25, id="M2.b"),
        pytest.param([0, 0, 1, 5], [2, 2, 2, 2], 2, 4.5, id="M2.c"),
        pytest.param([3], [1, 2, 6, 7], 2.5, 7.5, id="point"),
    ],
)
def test_exact_values(x, y, w1, w2_squared):
    x, y = torch.tensor(x), torch.tensor(y)
    for a, b in ((x, y), (y, x), (x.flip(0), y.double())):
        assert wasserstein_1d(a, b).item() == pytest.approx(w1, rel=1e-12)
        assert wasserstein_1d(a, b, p=2).item() == pytest.approx(w2_squared, rel=1e-12)
    assert wasserstein_1d(x, x, p=2) == 0


@pytest.mark.parametrize(("n", "m"), [(7, 7), (6, 4), (5, 8), (1, 9)])
@pytest.mark.parametrize("p", [1, 1.5, 2, 3])
def test_quantile_coupling_is_the_best_assignment(n, m, p):
    x, y = normal(n, seed=n), 1 + 2 * normal(m, seed=m + 20)
    assert wasserstein_1d(x, y, p).item() == pytest.approx(assigned(x.numpy(), y.numpy(), p), rel=1e-12)


def test_w1_equals_scipy_on_ties_and_any_sizes():
    x, y = normal(101).round(decimals=1), normal(64, seed=1).round(decimals=1)
    assert wasserstein_1d(x, y).item() == pytest.approx(scipy.stats.wasserstein_distance(x, y), rel=1e-12)


def test_m2_floor_of_two_uniform_samples():
    source = torch.Generator().manual_seed(3)
    x, y = torch.rand(2, 2000, 16, generator=source, dtype=torch.float64)
    values = wasserstein_1d(x, y, p=2)
    assert values.mean().item() == pytest.approx(1 / (3 * 17), abs=0.00177)
    assert values.std().item() == pytest.approx(0.01761, rel=0.15)


def test_leading_axes_are_independent_pairs_and_broadcast():
    x, y = normal(2, 3, 5), normal(3, 4, seed=1)
    expected = [[wasserstein_1d(x[i, j], y[j], p=2) for j in range(3)] for i in range(2)]
    torch.testing.assert_close(wasserstein_1d(x, y, p=2), torch.tensor(expected, dtype=torch.float64))


def test_shift_and_scale():
    x = normal(50)
    assert wasserstein_1d(x, x + 3).item() == pytest.approx(3, rel=1e-12)
    assert wasserstein_1d(x, x + 3, p=2).item() == pytest.approx(9, rel=1e-12)
    assert wasserstein_1d(x, 0.5 * x, p=2).item() == pytest.approx(0.25 * x.square().mean().item(), rel=1e-12)


@pytest.mark.parametrize("p", [1, 2])
def test_gradients_on_a_line_are_those_of_finite_differences(p):
    x, y = normal(2, 6).requires_grad_(), normal(2, 4, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, y: wasserstein_1d(x, y, p), (x, y))


# Sliced


def test_sliced_is_the_mean_over_directions():
    x, y = normal(15, 5), normal(20, 5, seed=1)
    a = random_directions(5, 7, torch.Generator().manual_seed(2)).double()
    expected = np.mean([assigned((x @ u).numpy(), (y @ u).numpy(), 2) for u in a.T])
    assert sliced_wasserstein(x, y, directions=a).item() == pytest.approx(expected, rel=1e-12)


def test_given_generators_and_directions_decide():
    x, y = normal(20, 4), normal(20, 4, seed=1)
    one, again, other = (
        sliced_wasserstein(x, y, n_projections=9, generator=torch.Generator().manual_seed(seed)) for seed in (5, 5, 6)
    )
    directions = random_directions(4, 9, torch.Generator().manual_seed(5))
    assert one == again == sliced_wasserstein(x, y, directions=directions)
    assert one != other


@pytest.mark.parametrize("width", [1, 2, 3, 16])
def test_a_shift_is_at_its_square_over_the_dimension(width):
    x, shift = normal(25, width), torch.arange(1.0, width + 1)
    value = sliced_wasserstein(x, x + shift, n_projections=4096).item()
    expected = shift.square().sum().item() / width
    error = math.sqrt(2 * (width - 1) / (width + 2)) * expected / 64  # of a mean of 4096 squared coordinates
    assert value == pytest.approx(expected, rel=1e-9, abs=SIGMAS * error if width > 2 else 0)


def test_equal_angles_have_the_mean_of_every_rotation():
    x, y = normal(15, 2), 0.5 * normal(15, 2, seed=1)
    quarter = torch.tensor([[0.0, -1.0], [1.0, 0.0]], dtype=torch.float64)
    value = sliced_wasserstein(x, y).item()
    assert sliced_wasserstein(x @ quarter, y @ quarter).item() == pytest.approx(value, rel=1e-12)
    assert sliced_wasserstein(x, y, n_projections=2048).item() == pytest.approx(value, rel=1e-3)


def test_on_a_line_one_direction_is_exact():
    x, y = normal(15, 1), normal(9, 1, seed=1)
    assert sliced_wasserstein(x, y).item() == pytest.approx(wasserstein_1d(x[:, 0], y[:, 0], 2).item(), rel=1e-12)


def test_gradients_of_slices_are_those_of_finite_differences():
    x, y = normal(5, 3).requires_grad_(), normal(4, 3, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, y: sliced_wasserstein(x, y, n_projections=6), (x, y))


# Gaussians


def test_m3_sw2():
    assert gaussian_sliced_wasserstein(*M3).item() == pytest.approx(1.120190317, abs=1.1e-6)


def test_m3_equals_adaptive_quadrature():
    m1, s1, m2, s2 = (part.numpy() for part in M3)

    def squared(angle):
        u = np.array([np.cos(angle), np.sin(angle)])
        return (u @ (m1 - m2)) ** 2 + (np.sqrt(u @ s1 @ u) - np.sqrt(u @ s2 @ u)) ** 2

    expected, _ = scipy.integrate.quad(squared, 0, np.pi, epsabs=1e-13)
    assert gaussian_sliced_wasserstein(*M3).item() == pytest.approx(expected / np.pi, rel=1e-12)


def test_m3_scaled_is_exact_whatever_the_directions():
    zero, shift, s = torch.zeros(3), torch.tensor([1.0, 2.0, 0.0]), torch.diag(torch.tensor([1.0, 2.0, 3.0]))
    one = random_directions(3, 1, torch.Generator().manual_seed(0))
    for directions in (None, one):
        value = gaussian_sliced_wasserstein(zero, s, shift, 0.25 * s, directions=directions)
        assert value.item() == pytest.approx(13 / 6, rel=1e-12)


@pytest.mark.parametrize("width", [2, 3, 8])
def test_shift_scale_and_shape_are_the_mean_of_squared_distances(width):
    """The decomposition against the plain mean over the same directions, of which only the last term is the same."""
    roots = [normal(width, width, seed=seed) for seed in (1, 2)]
    (s1, s2), (m1, m2) = (root @ root.T for root in roots), (normal(width, seed=seed) for seed in (3, 4))
    a = normal(width, 400_000, seed=5)
    a /= a.norm(dim=0)
    stds = [(a * (s @ a)).sum(0).sqrt() for s in (s1, s2)]
    plain = (a.T @ (m1 - m2)).square() + (stds[0] - stds[1]).square()
    value = gaussian_sliced_wasserstein(m1, s1, m2, s2).item()
    tolerance = SIGMAS * plain.std().item() * math.sqrt(1 / 400_000 + (0 if width == 2 else 1 / 4096))
    assert value == pytest.approx(plain.mean().item(), abs=tolerance)


def test_samples_of_gaussians_come_near_their_closed_form():
    m1, s1, m2, s2 = M3
    x = m1 + normal(20_000, 2) @ torch.linalg.cholesky(s1).T
    y = m2 + normal(20_000, 2, seed=1) @ torch.linalg.cholesky(s2).T
    assert sliced_wasserstein(x, y).item() == pytest.approx(1.120190317, rel=0.05)


# Errors


@pytest.mark.parametrize(
    ("x", "y", "p", "message"),
    [
        ([0.0], [1.0], 0.5, "p = 0.5, but a Wasserstein distance needs p >= 1; use 1 or 2"),
        ([], [1.0], 1, r"x has shape \(0,\), but finite samples"),
        ([0.0], [math.nan], 1, r"y has shape \(1,\), but finite samples"),
        (0.0, [1.0], 1, r"x has shape \(\)"),
        (
            [[0.0], [1.0]],
            [[0.0]] * 3,
            1,
            r"x has shape \(2, 1\) and y has shape \(3, 1\), but all axes",
        ),
    ],
)
def test_wrong_samples_are_a_sentence(x, y, p, message):
    with pytest.raises(ValueError, match=message):
        wasserstein_1d(torch.tensor(x), torch.tensor(y), p)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_projections": 0}, "n_projections = 0, but at least one direction is needed"),
        ({"directions": torch.ones(2, 4)}, r"directions has shape \(2, 4\), but unit columns, \(3, S\), are needed"),
        ({"directions": torch.ones(3, 0)}, r"directions has shape \(3, 0\)"),
        ({"directions": torch.ones(3, 4)}, "not of unit length; divide it by"),
    ],
)
def test_wrong_directions_are_a_sentence(options, message):
    with pytest.raises(ValueError, match=message):
        sliced_wasserstein(normal(5, 3), normal(5, 3), **options)
