"""Fidelity against exact values (M6, M7), scipy, naive loops and controlled degradations."""

import numpy as np
import pytest
import scipy.linalg
import torch

from collapse.metrics import (
    METRICS,
    density,
    frechet_distance,
    gaussian_frechet,
    neighborhood_profile,
    precision,
    recall,
)
from collapse.metrics.neighbors import neighbor_radii

A = ([1.0, 1.5, 2.5, 8.0, 11.0], [3.0, 4.8, 5.9, 8.7, 8.8])
B = ([0.5, 3.0, 4.5, 5.5, 6.0, 6.5], [5.2, 8.4, 8.9, 9.0, 12.5])
TIE = ([0.0, 1.0, 2.0, 3.0], [0.0, 1.0, 4.0])
TWO_D = (
    [[7.0, 6.0], [2.0, 4.0], [3.0, 2.0], [3.0, 3.0], [7.0, 1.0]],
    [[5.2, 3.1], [2.0, 0.2], [5.1, 3.9], [7.1, 4.8], [1.7, 6.6]],
)
M6 = [  # reference, generated, k, strict, precision, recall, density, coverage
    pytest.param(*A, 1, False, 0.8, 0.4, 1.2, 0.6, id="M6.a"),
    pytest.param(*A, 1, True, 0.8, 0.4, 1.2, 0.6, id="M6.a.strict"),
    pytest.param(*B, 2, False, 0.2, 5 / 6, 0.3, 0.5, id="M6.b"),
    pytest.param(*B, 2, True, 0.2, 5 / 6, 0.3, 0.5, id="M6.b.strict"),
    pytest.param(*TIE, 1, False, 1.0, 1.0, 2.0, 1.0, id="M6.tie"),
    pytest.param(*TIE, 1, True, 2 / 3, 1.0, 2 / 3, 0.5, id="M6.tie.strict"),
    pytest.param(*TWO_D, 1, False, 0.6, 0.8, 1.2, 0.4, id="M6.two_d"),
    pytest.param(*TWO_D, 1, True, 0.6, 0.8, 1.2, 0.4, id="M6.two_d.strict"),
]


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def rows(points):
    return torch.tensor(points, dtype=torch.float64).reshape(len(points), -1)


def with_moments(mean, covariance, n=40):
    """Draw rows whose sample mean and covariance are exactly the given ones."""
    z = normal(n, len(mean), seed=n)
    z = z - z.mean(0)
    white = z @ torch.linalg.inv(torch.linalg.cholesky(z.T @ z / (n - 1))).T
    return mean + white @ torch.linalg.cholesky(covariance).T


# Fréchet


def test_frechet_is_that_of_the_sample_moments():
    mean, covariance = (
        torch.tensor([1.0, -1.0], dtype=torch.float64),
        torch.tensor([[1.0, -0.3], [-0.3, 1.5]], dtype=torch.float64),
    )
    x, y = normal(40, 2), with_moments(mean, covariance, n=55)
    centered = x - x.mean(0)
    expected = gaussian_frechet(x.mean(0), centered.T @ centered / 39, mean, covariance)
    assert frechet_distance(x, y).item() == pytest.approx(expected.item(), rel=1e-12)
    assert frechet_distance(x, 0.5 * (x - x.mean(0)) + x.mean(0)).item() == pytest.approx(
        0.25 * x.var(0).sum().item(), rel=1e-12
    )


@pytest.mark.parametrize("seed", range(3))
def test_frechet_equals_scipy(seed):
    x, y = normal(90, 7, seed=seed), normal(60, 7, seed=100 + seed) @ normal(7, 7, seed=200 + seed)
    (m1, s1), (m2, s2) = ((v.numpy().mean(0), np.cov(v.numpy().T)) for v in (x, y))
    expected = ((m1 - m2) ** 2).sum() + np.trace(s1 + s2 - 2 * scipy.linalg.sqrtm(s1 @ s2).real)
    assert frechet_distance(x, y).item() == pytest.approx(expected, rel=1e-9)


def test_frechet_with_singular_covariances():
    """Twelve rows in 30 dimensions: an orthogonal flip of a null direction changes nothing, a shift is exact."""
    x, y = normal(12, 30), normal(9, 30, seed=1)
    assert frechet_distance(x, x).item() == pytest.approx(0, abs=1e-12)
    assert frechet_distance(x, x + 0.5).item() == pytest.approx(0.25 * 30, rel=1e-12)
    q = torch.linalg.qr(normal(30, 30, seed=2)).Q
    assert frechet_distance(x @ q, y @ q).item() == pytest.approx(frechet_distance(x, y).item(), rel=1e-9)
    collapsed = x[:1].expand(12, -1)  # one image repeated: covariance 0
    expected = (x.mean(0) - x[0]).square().sum() + x.var(0).sum()
    assert frechet_distance(x, collapsed).item() == pytest.approx(expected.item(), rel=1e-12)


def test_frechet_accumulates_in_float64():
    x, y = normal(500, 3, dtype=torch.float32) + 1000, normal(500, 3, seed=1, dtype=torch.float32) + 1000
    value = frechet_distance(x, y)
    assert value.dtype == torch.float64
    assert value.item() == pytest.approx(frechet_distance(x.double(), y.double()).item(), rel=1e-12)


def test_frechet_orders_degradations():
    x, y = normal(2000, 5), normal(2000, 5, seed=1)
    shrunk = [frechet_distance(x, s * y).item() for s in (1.0, 0.8, 0.5, 0.1)]
    assert shrunk == sorted(shrunk)
    assert shrunk[-1] > 100 * shrunk[0]


@pytest.mark.parametrize(("rows", "width"), [(8, 3), (4, 6)], ids=["regular", "singular"])
def test_frechet_has_the_gradient_of_finite_differences(rows, width):
    """Four rows in six dimensions: both covariances are singular, and the distance of the sets is smooth."""
    x, y = normal(rows, width), normal(rows + 1, width, seed=1)
    assert torch.autograd.gradcheck(frechet_distance, (x.requires_grad_(), y.requires_grad_()))


def test_frechet_of_a_collapsed_set_pulls_it_to_the_mean():
    x, y = normal(9, 3), torch.zeros(7, 3, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(frechet_distance(x, y), y)
    torch.testing.assert_close(gradient, (-2 / 7 * x.mean(0)).expand(7, 3))


# Balls


@pytest.mark.parametrize(("reference", "generated", "k", "strict", "p", "r", "d", "c"), M6)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_m6(reference, generated, k, strict, p, r, d, c, dtype):
    profile = neighborhood_profile(rows(reference).to(dtype), rows(generated).to(dtype), k, strict=strict)
    expected = {"precision": p, "recall": r, "density": d, "coverage": c}
    assert {name: value.item() for name, value in profile.items()} == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("strict", [False, True])
def test_views_equal_profile(strict):
    x, y = normal(40, 2), normal(30, 2, seed=1) * 0.7
    profile = neighborhood_profile(x, y, 3, strict=strict)
    for metric in METRICS:
        if metric.name in profile:
            assert metric.compute(x, y, 3, strict=strict) == profile[metric.name], metric.name


def test_profile_equals_loops():
    x, y, k = normal(25, 3).round(decimals=1), normal(35, 3, seed=1).round(decimals=1), 2
    radius = [sorted(float((a - b).norm()) for j, b in enumerate(x) if j != i)[k - 1] for i, a in enumerate(x)]
    hits = [[float((a - b).norm()) <= r for b in y] for a, r in zip(x, radius, strict=True)]
    assert neighbor_radii(x, k).tolist() == pytest.approx(radius, rel=1e-12)
    assert precision(x, y, k).item() == pytest.approx(np.mean(np.any(hits, axis=0)), rel=1e-12)
    assert density(x, y, k).item() == pytest.approx(np.sum(hits) / (k * len(y)), rel=1e-12)


@pytest.mark.parametrize("chunk_size", [1, 7, 64, 1000])
def test_profile_does_not_depend_on_chunks(chunk_size):
    x, y = normal(64, 4, dtype=torch.float32), normal(50, 4, seed=1, dtype=torch.float32)
    assert neighborhood_profile(x, y, chunk_size=chunk_size) == neighborhood_profile(x, y)


def test_metrics_do_not_depend_on_order():
    x, y = normal(64, 4), normal(50, 4, seed=1) * 0.8
    p, q = torch.randperm(64, generator=torch.Generator().manual_seed(3)), torch.arange(49, -1, -1)
    for metric in METRICS:
        assert metric.compute(x[p], y[q]).item() == pytest.approx(metric.compute(x, y).item(), rel=1e-10), metric.name


def test_m7_identical_laws():
    runs, n, m, k = 2000, 20, 30, 5
    x, y = normal(runs, n, 2, seed=3), normal(runs, m, 2, seed=4)
    profiles = [neighborhood_profile(a, b, k) for a, b in zip(x, y, strict=True)]
    assert np.mean([p["coverage"].item() for p in profiles]) == pytest.approx(0.9939021, abs=0.00256)
    assert np.mean([p["density"].item() for p in profiles]) == pytest.approx(1.0, abs=0.0154)


def test_set_against_itself():
    """All shares are 1; each point lies in its own ball and in k others."""
    x = normal(60, 3, dtype=torch.float32)
    profile = {name: value.item() for name, value in neighborhood_profile(x, x).items()}
    assert profile["precision"] == profile["recall"] == profile["coverage"] == 1.0
    assert profile["density"] == pytest.approx(6 / 5, rel=1e-12)  # every ball holds its center and its 5 neighbors


def test_duplicates_have_radius_zero_and_only_closed_balls():
    x = rows([0.1, 0.7, 0.9]).float().repeat_interleave(3, dim=0)
    assert neighbor_radii(x, 2).tolist() == [0.0] * 9
    closed = {name: value.item() for name, value in neighborhood_profile(x, x, 2).items()}
    assert closed == {"precision": 1.0, "recall": 1.0, "density": 1.5, "coverage": 1.0}
    assert all(value == 0 for value in neighborhood_profile(x, x, 2, strict=True).values())


def test_fidelity_sees_noise_where_recall_does_not():
    x, y = normal(400, 2), normal(400, 2, seed=1)
    noise = 4 * normal(400, 2, seed=2)
    values = [(precision(x, y + s * noise).item(), recall(x, y + s * noise).item()) for s in (0.0, 0.5, 1.0)]
    assert values[0][0] > values[1][0] > values[2][0]
    assert values[2][1] > 0.9


def test_counts_have_no_gradient_and_hold_no_graph():
    x = normal(12, 2).requires_grad_()
    assert not any(value.requires_grad for value in neighborhood_profile(x, 0.9 * x).values())


# Errors


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (torch.zeros(9), torch.zeros(9, 1), r"reference has shape \(9,\), .* shape \(N, D\); pass"),
        (torch.zeros(9, 2), torch.zeros(9, 2, 2), r"generated has shape \(9, 2, 2\)"),
        (torch.zeros(9, 2), torch.zeros(9, 3), "reference has 2 features and generated has 3; use the same"),
        (torch.zeros(9, 2), torch.zeros(0, 2), r"generated has 0 rows, but at least \d are needed; draw more"),
        (torch.zeros(9, 0), torch.zeros(9, 0), r"reference has shape \(9, 0\)"),
        (torch.zeros(9, 2), torch.full((9, 2), torch.nan), "generated has 9 of 9 rows with NaN or infinity; drop"),
    ],
)
def test_every_metric_explains_wrong_sets(metric, x, y, message):
    with pytest.raises(ValueError, match=message):
        metric.compute(x, y)


def test_neighbor_counts_are_checked():
    x = normal(5, 2)
    with pytest.raises(ValueError, match="k = 0, but a ball needs at least one neighbor"):
        precision(x, x, k=0)
    with pytest.raises(ValueError, match="reference has 5 rows, but at least 6 are needed"):
        density(x, x, k=5)
    with pytest.raises(ValueError, match="chunk_size = 0"):
        neighborhood_profile(x, x, 1, chunk_size=0)
