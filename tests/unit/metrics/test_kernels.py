"""Maximum mean discrepancy against exact expectations (M4), loops over pairs and scikit-learn."""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics.pairwise import rbf_kernel

from collapse.metrics import median_bandwidth, mmd2

M1, S1 = torch.tensor([0.0, 0.0], dtype=torch.float64), torch.tensor([[2.0, 0.5], [0.5, 1.0]], dtype=torch.float64)
M2, S2 = torch.tensor([1.0, -1.0], dtype=torch.float64), torch.tensor([[1.0, -0.3], [-0.3, 1.5]], dtype=torch.float64)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def expected_kernel(mean, covariance, width):
    """E k(X, Y) for X - Y ~ N(mean, covariance)."""
    inverse = torch.linalg.inv(covariance + width**2 * torch.eye(len(mean)))
    determinant = torch.det(torch.eye(len(mean)) + covariance / width**2)
    return float(determinant**-0.5 * torch.exp(-mean @ inverse @ mean / 2))


@pytest.mark.parametrize(
    ("unbiased", "expected", "tolerance"), [(True, 0.1569969, 0.00733), (False, 0.217197, 0.00722)]
)
def test_m4_expectations(unbiased, expected, tolerance):
    runs, n, m = 2000, 20, 30
    x = M1 + normal(runs, n, 2, seed=1) @ torch.linalg.cholesky(S1).T
    y = M2 + normal(runs, m, 2, seed=2) @ torch.linalg.cholesky(S2).T
    values = [mmd2(a, b, 1.0, unbiased=unbiased).item() for a, b in zip(x, y, strict=True)]
    assert np.mean(values) == pytest.approx(expected, abs=tolerance)
    xx, yy, xy = (expected_kernel(d, s, 1) for d, s in ((0 * M1, 2 * S1), (0 * M1, 2 * S2), (M1 - M2, S1 + S2)))
    diagonal = 0 if unbiased else (1 - xx) / n + (1 - yy) / m
    assert xx + yy - 2 * xy + diagonal == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("unbiased", [True, False])
def test_mmd_equals_loops_over_pairs(unbiased):
    x, y, width = normal(9, 3), 0.5 + normal(7, 3, seed=1), 1.3

    def mean(a, b, skip):
        values = [
            math.exp(-float((u - v).square().sum()) / (2 * width**2))
            for i, u in enumerate(a)
            for j, v in enumerate(b)
            if not (skip and i == j)
        ]
        return sum(values) / len(values)

    expected = mean(x, x, unbiased) + mean(y, y, unbiased) - 2 * mean(x, y, False)
    assert mmd2(x, y, width, unbiased=unbiased).item() == pytest.approx(expected, rel=1e-12)


def test_biased_mmd_equals_sklearn():
    x, y = normal(40, 5), normal(30, 5, seed=1)
    xx, yy, xy = (rbf_kernel(a, b, gamma=1 / (2 * 1.7**2)) for a, b in ((x, x), (y, y), (x, y)))
    expected = xx.mean() + yy.mean() - 2 * xy.mean()
    assert mmd2(x, y, 1.7, unbiased=False).item() == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("chunk_size", [1, 7, 1000])
def test_mmd_does_not_depend_on_chunks(chunk_size):
    x, y = normal(64, 4), normal(50, 4, seed=1)
    assert mmd2(x, y, chunk_size=chunk_size).item() == pytest.approx(mmd2(x, y).item(), rel=1e-10)


def test_mmd_does_not_depend_on_where_the_origin_is():
    x, y = normal(40, 3), 1 + normal(30, 3, seed=1)
    assert mmd2(x + 1e6, y + 1e6, 1.0).item() == pytest.approx(mmd2(x, y, 1.0).item(), rel=1e-6)
    rotation = torch.linalg.qr(normal(3, 3, seed=2)).Q
    assert mmd2(x @ rotation, y @ rotation).item() == pytest.approx(mmd2(x, y).item(), rel=1e-10)
    assert mmd2(2 * x, 2 * y, 3.0).item() == pytest.approx(mmd2(x, y, 1.5).item(), rel=1e-12)


def test_limits():
    x = normal(20, 2)
    far, point = x + 100, torch.zeros(5, 2)
    assert mmd2(x, x, unbiased=False).item() == pytest.approx(0, abs=1e-12)
    assert mmd2(x, x) < 0  # the U-statistic leaves out the pairs that the cross term keeps
    assert mmd2(point, point + 1e3, 1.0).item() == pytest.approx(2, rel=1e-12)
    assert mmd2(x, far, 0.01).item() == pytest.approx(0, abs=1e-6)
    assert mmd2(x, x[:1], unbiased=False) > 0
    assert 0 < mmd2(x, far, 1e-12, unbiased=False) <= 2  # no digit is left of these distances


def test_the_bandwidth_is_the_median_distance_of_the_reference():
    x, y = normal(11, 3), normal(9, 3, seed=1)
    distances = sorted(float((a - b).norm()) for i, a in enumerate(x) for b in x[:i])
    assert median_bandwidth(x).item() == pytest.approx(distances[(len(distances) - 1) // 2], rel=1e-12)
    assert mmd2(x, y) == mmd2(x, y, float(median_bandwidth(x)))
    assert median_bandwidth(x[:, :1] * 0 + torch.tensor([[0.0]] * 5 + [[1.0]] * 6)).item() == 1


def test_the_bandwidth_of_many_rows_is_that_of_evenly_spaced_ones():
    x = normal(4001, 2)
    assert median_bandwidth(x) == median_bandwidth(x[::3])


@pytest.mark.parametrize("unbiased", [True, False])
def test_gradients_are_those_of_finite_differences(unbiased):
    x, y = normal(5, 3).requires_grad_(), normal(4, 3, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, y: mmd2(x, y, 1.1, unbiased=unbiased, chunk_size=2), (x, y))


def test_wrong_arguments_are_a_sentence():
    x = normal(5, 2)
    for width in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match=f"bandwidth = {width}, but a positive width is needed"):
            mmd2(x, x, width)
    with pytest.raises(ValueError, match="chunk_size = 0, but at least one row"):
        mmd2(x, x, 1.0, chunk_size=0)
    with pytest.raises(ValueError, match="generated has 1 rows, but at least 2 are needed"):
        mmd2(x, x[:1], 1.0)
    with pytest.raises(ValueError, match="reference has 5 rows, and half of their pairs are equal"):
        mmd2(torch.ones(5, 2), x)
