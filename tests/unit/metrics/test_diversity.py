"""Diversity against naive loops, known histograms and controlled loss of modes and variance."""

import numpy as np
import pytest
import torch

from collapse.metrics import METRICS, class_histogram, coverage, precision, recall, total_variation, variance_ratio


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def two_modes(n, share, seed):
    """Draw n rows, the given share of them around (8, 8) and the others around the origin."""
    x = normal(n, 2, seed=seed)
    x[: round(share * n)] += 8
    return x


def test_recall_and_coverage_equal_loops():
    x, y, k = normal(25, 3), normal(35, 3, seed=1), 2

    def radii(points):
        return [
            sorted(float((a - b).norm()) for j, b in enumerate(points) if j != i)[k - 1] for i, a in enumerate(points)
        ]

    d = [[float((a - b).norm()) for b in y] for a in x]
    in_generated = [any(v <= r for v, r in zip(row, radii(y), strict=True)) for row in d]
    covered = [any(v <= r for v in row) for row, r in zip(d, radii(x), strict=True)]
    assert recall(x, y, k).item() == pytest.approx(np.mean(in_generated), rel=1e-12)
    assert coverage(x, y, k).item() == pytest.approx(np.mean(covered), rel=1e-12)


def test_recall_is_precision_with_the_sets_exchanged():
    x, y = normal(40, 2), 0.5 * normal(30, 2, seed=1)
    assert recall(x, y) == precision(y, x)
    assert coverage(x, y) != coverage(y, x)


def test_losing_a_mode_halves_diversity_and_keeps_fidelity():
    x = two_modes(600, 0.5, seed=0)
    full, lost = two_modes(600, 0.5, seed=1), two_modes(600, 0.0, seed=1)
    assert recall(x, full) > 0.9
    assert coverage(x, full) > 0.9
    assert recall(x, lost).item() == pytest.approx(0.5, abs=0.03)
    assert coverage(x, lost).item() == pytest.approx(0.5, abs=0.03)
    assert precision(x, lost) > 0.9


def test_diversity_falls_with_the_variance():
    x, y = normal(500, 4), normal(500, 4, seed=1)
    for metric in METRICS:
        if metric.detects == "diversity":
            values = [metric.compute(x, s * y).item() for s in (1.0, 0.6, 0.3, 0.05)]
            assert metric.higher_is_better, metric.name
            assert values == sorted(values, reverse=True), metric.name
            assert values[-1] < 0.1 * values[0], metric.name


def test_variance_ratio_is_exact():
    x = normal(50, 6) * torch.arange(1, 7)
    assert variance_ratio(x, x).item() == pytest.approx(1.0, rel=1e-12)
    assert variance_ratio(x, 0.5 * x + 3).item() == pytest.approx(0.25, rel=1e-12)
    assert variance_ratio(x, x[:1].expand(20, -1)).item() == pytest.approx(0.0, abs=1e-25)
    covariances = [np.trace(np.cov(v.numpy().T)) for v in (x[:20], x)]
    assert variance_ratio(x, x[:20]).item() == pytest.approx(covariances[0] / covariances[1], rel=1e-12)


def test_variance_ratio_needs_a_reference_that_varies():
    with pytest.raises(ValueError, match="reference has 4 equal rows, so its variance is 0; pass"):
        variance_ratio(torch.ones(4, 2), torch.ones(4, 2))


def test_class_histogram_counts_missing_classes():
    shares = class_histogram(torch.tensor([0, 2, 2, 0, 2]), 5)
    assert shares.tolist() == pytest.approx([0.4, 0.0, 0.6, 0.0, 0.0], rel=1e-12)
    assert shares.dtype == torch.float64


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.tensor([0, 3]), r"labels range over \[0, 3\], outside \[0, 3\); check classes = 3"),
        (torch.tensor([-1, 2]), r"labels range over \[-1, 2\]"),
        (torch.tensor([0.0, 1.0]), "dtype torch.float32, but a non-empty vector of integers is needed; pass"),
        (torch.zeros(2, 2, dtype=torch.long), r"labels has shape \(2, 2\)"),
        (torch.zeros(0, dtype=torch.long), r"labels has shape \(0,\)"),
    ],
)
def test_class_histogram_explains_wrong_labels(labels, message):
    with pytest.raises(ValueError, match=message):
        class_histogram(labels, 3)


def test_total_variation_is_the_mass_that_moves():
    p, q = torch.tensor([0.5, 0.5, 0.0]), torch.tensor([0.25, 0.5, 0.25])
    assert total_variation(p, q).item() == total_variation(q, p).item() == 0.25
    assert total_variation(p, p).item() == 0.0
    assert total_variation(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])).item() == 1.0


@pytest.mark.parametrize(
    ("p", "q", "message"),
    [
        ([0.5, 0.5], [1.0], r"p has shape \(2,\) and q has shape \(1,\), but two vectors of one length"),
        ([2.0, 3.0], [0.5, 0.5], "p sums to 5 or has negative entries; pass shares"),
        ([0.5, 0.5], [1.5, -0.5], "q sums to 1 or has negative entries"),
        ([0.5, 0.5], [torch.nan, 0.5], "q sums to nan"),
    ],
)
def test_total_variation_explains_wrong_histograms(p, q, message):
    with pytest.raises(ValueError, match=message):
        total_variation(torch.tensor(p), torch.tensor(q))
