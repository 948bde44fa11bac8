"""The exact Epps-Pulley statistic against integrals (M9) and expectations (M10), beside the one on a grid."""

import cmath
import math

import pytest
import scipy.integrate
import torch

from collapse.metrics import bhep, epps_pulley

ROOT = math.sqrt(2 * math.pi)
M9 = [  # sample, under the N(0, 1) density, under exp(-t^2/2), on the grid of 17 knots
    pytest.param([0.0], 0.1631367068, 0.4089230819, 0.4020475797, id="M9.a"),
    pytest.param([-1.0, 1.0], 0.087254562, 0.2187147522, 0.2056592319, id="M9.b"),
    pytest.param([-1.5, -0.5, 0.0, 0.5, 1.5], 0.0101553115, 0.02545559095, 0.02332688465, id="M9.c"),
    pytest.param([3.0, 3.0, 3.0], 4.284879769, 10.74060078, 10.71948037, id="M9.d"),
]


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(("sample", "density", "unnormalized", "grid"), M9)
def test_m9(sample, density, unnormalized, grid):
    x = torch.tensor(sample, dtype=torch.float64)
    assert bhep(x).item() == pytest.approx(density, rel=1e-6)
    assert ROOT * bhep(x).item() == pytest.approx(unnormalized, rel=1e-6)
    assert epps_pulley(x).item() == pytest.approx(grid, rel=1e-6)


@pytest.mark.parametrize("n", [1, 2, 7])
def test_it_is_the_integral(n):
    x = 1.5 * normal(n, seed=n) + 0.3

    def integrand(t):
        empirical = sum(cmath.exp(1j * t * value) for value in x.tolist()) / n
        return n * abs(empirical - math.exp(-(t**2) / 2)) ** 2 * math.exp(-(t**2) / 2) / ROOT

    expected, _ = scipy.integrate.quad(integrand, -12, 12, epsabs=1e-13, limit=200)
    assert bhep(x).item() == pytest.approx(expected, rel=1e-9)


def test_a_wide_and_fine_grid_comes_to_it():
    x = normal(40, 3, seed=1) + 0.5
    torch.testing.assert_close(epps_pulley(x, t_max=12, knots=601), ROOT * bhep(x), rtol=1e-9, atol=0)


@pytest.mark.parametrize(
    ("std", "mean", "expected", "tolerance"),
    [(1, 0, 0.4226497, 0.0383), (0.5, 0, 3.209179, 0.0644), (1, 0.5, 2.778848, 0.149)],
    ids=["M10.null", "M10.shrunk", "M10.shifted"],
)
def test_m10(std, mean, expected, tolerance):
    values = bhep(mean + std * normal(50, 2000, seed=2))
    assert values.shape == (2000,)
    assert values.mean().item() == pytest.approx(expected, abs=tolerance)
    a1, a2 = (1 + 2 * std**2) ** -0.5, (2 + std**2) ** -0.5
    law = 1 - a1 + 50 * (a1 + 3**-0.5 - 2 * a2 * math.exp(-(a2**2) * mean**2 / 2))
    assert law == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("chunk_size", [1, 3, 100])
def test_it_does_not_depend_on_chunks_or_on_the_other_columns(chunk_size):
    x = normal(10, 4)
    value = bhep(x, chunk_size=chunk_size)
    torch.testing.assert_close(value, torch.stack([bhep(column) for column in x.T]), rtol=1e-12, atol=0)
    assert bhep(x.float()).dtype == torch.float64


def test_its_gradient_is_that_of_finite_differences():
    assert torch.autograd.gradcheck(lambda x: bhep(x, chunk_size=2), normal(5, 2).requires_grad_())


def test_total_collapse_grows_with_the_rows():
    assert bhep(torch.zeros(30)).item() == pytest.approx(30 * 0.1631367068, rel=1e-6)


def test_wrong_arguments_are_a_sentence():
    for x in (torch.zeros(0, 2), torch.tensor(1.0)):
        with pytest.raises(ValueError, match="but at least one row is needed; draw more samples"):
            bhep(x)
    with pytest.raises(ValueError, match="chunk_size must be at least 1, got 0"):
        bhep(torch.zeros(2), chunk_size=0)
