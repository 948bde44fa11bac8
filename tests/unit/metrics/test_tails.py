"""Tail mass against exact values (M12), scipy's laws and rows placed on both sides of a radius."""

import math

import numpy as np
import pytest
import scipy.stats
import torch

from collapse.metrics import gaussian_tail_mass, recall, tail_mass, tail_recall

SIGMAS = 4.5


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# Exact


@pytest.mark.parametrize(
    ("q", "std", "dim", "two_sided", "expected"),
    [
        pytest.param(0.05, 0.8, 1, True, 0.0142874077, id="M12.radius.1"),
        pytest.param(0.05, 0.8, 1, False, 0.01988802766, id="M12.onesided.1"),
        pytest.param(0.01, 0.9, 1, True, 0.004209336621, id="M12.radius.2"),
        pytest.param(0.01, 0.9, 1, False, 0.004871337347, id="M12.onesided.2"),
        pytest.param(0.05, 0.9, 10, True, 0.01231794652, id="M12.radius.10d"),
    ],
)
def test_m12(q, std, dim, two_sided, expected):
    assert gaussian_tail_mass(q, std, dim=dim, two_sided=two_sided).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("q", [1e-6, 0.05, 0.5, 0.9])
@pytest.mark.parametrize("std", [0.3, 1.0, 2.0])
def test_masses_equal_scipy(q, std):
    for dim in (1, 2, 7, 100):
        law = scipy.stats.chi2(dim)
        expected = law.sf(law.isf(q) / std**2)
        assert gaussian_tail_mass(q, std, dim=dim).item() == pytest.approx(expected, rel=1e-6)
    for mean in (-0.7, 0.4):
        law, edge = scipy.stats.norm(mean, std), scipy.stats.norm.isf(q)
        both = law.sf(scipy.stats.norm.isf(q / 2)) + law.cdf(-scipy.stats.norm.isf(q / 2))
        assert gaussian_tail_mass(q, std, mean=mean).item() == pytest.approx(both, rel=1e-9)
        assert gaussian_tail_mass(q, std, mean=mean, two_sided=False).item() == pytest.approx(law.sf(edge), rel=1e-9)


@pytest.mark.parametrize(("ddof", "expected", "tolerance"), [(1, 0.06443617, 0.00532), (0, 0.05379199, 0.00475)])
def test_m12_first_fit_has_more_tail_than_the_data(ddof, expected, tolerance):
    x = normal(2000, 10, seed=4)
    masses = gaussian_tail_mass(0.05, x.std(1, correction=ddof), mean=x.mean(1))
    assert masses.shape == (2000,)
    assert masses.mean().item() == pytest.approx(expected, abs=tolerance)
    # The mean's error in closed form, that of the scale by quadrature over a chi-square law.
    points = (np.arange(200_000) + 0.5) / 200_000
    std = torch.tensor(np.sqrt(1 / 10 + scipy.stats.chi2(9).ppf(points) / (10 - ddof)))
    assert gaussian_tail_mass(0.05, std).mean().item() == pytest.approx(expected, rel=1e-5)


def test_a_collapsed_law_has_no_tail():
    assert gaussian_tail_mass(0.05, torch.tensor([0.0, 1.0])).tolist() == pytest.approx([0, 0.05], rel=1e-12)
    assert gaussian_tail_mass(0.05, 0.0, dim=4) == 0
    assert gaussian_tail_mass(0.05, 0.0, mean=torch.tensor([-3.0, 1.0, 3.0])).tolist() == [1, 0, 1]


def test_its_gradient_is_that_of_finite_differences():
    std, mean = (
        torch.tensor([0.5, 1.2], dtype=torch.float64).requires_grad_(),
        torch.tensor(0.3, dtype=torch.float64).requires_grad_(),
    )
    assert torch.autograd.gradcheck(lambda s, m: gaussian_tail_mass(0.05, s, mean=m), (std, mean))
    assert torch.autograd.gradcheck(lambda s: gaussian_tail_mass(0.05, s, dim=3), std)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((0.0, 1.0), {}, "q = 0.0, but the share of a tail lies between 0 and 1"),
        ((1.0, 1.0), {}, "q = 1.0, but"),
        ((0.05, -1.0), {}, "std reaches -1.0, but a standard deviation is not negative"),
        ((0.05, math.nan), {}, "std reaches nan"),
        ((0.05, 1.0), {"dim": 0}, "dim = 0, but one dimension"),
        (
            (0.05, 1.0),
            {"dim": 2, "two_sided": False},
            "dim = 2, but one dimension is needed for a mean",
        ),
        ((0.05, 1.0), {"dim": 2, "mean": 0.1}, "dim = 2, but one dimension is needed"),
    ],
)
def test_wrong_arguments_are_a_sentence(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        gaussian_tail_mass(*arguments, **options)


# Of sets


@pytest.mark.parametrize(("q", "n"), [(0.05, 400), (0.29, 100), (0.5, 41), (0.001, 50)])
def test_the_reference_itself_has_its_share_rounded_down(q, n):
    x = normal(n, 3)
    assert tail_mass(x, x, q).item() == pytest.approx(math.floor(q * n + 1e-9) / n, abs=1e-12)


def test_rows_beside_the_radius_fall_on_their_sides():
    """Two circles around the origin: beyond half of the rows is beyond the inner one."""
    angles = torch.arange(8).double() * math.pi / 4
    circle = torch.stack([angles.cos(), angles.sin()], 1)
    reference = torch.cat([circle, 2 * circle])
    generated = torch.tensor([[0.0, 0.9], [0.6, 0.7], [1.1, 0.0], [0.0, -1.9], [2.1, 0.0]])
    assert tail_mass(reference, generated, 0.5).item() == pytest.approx(3 / 5)
    assert tail_mass(reference, generated, 0.01).item() == pytest.approx(1 / 5)


def test_it_equals_mahalanobis_distances_of_numpy():
    x, y = normal(200, 4) @ normal(4, 4, seed=1) + 5, normal(150, 4, seed=2) @ normal(4, 4, seed=1) + 5
    inverse, mean = np.linalg.inv(np.cov(x.numpy().T)), x.numpy().mean(0)
    inner, outer = (np.einsum("nd,de,ne->n", s - mean, inverse, s - mean) for s in (x.numpy(), y.numpy()))
    expected = (outer > np.sort(inner)[199 - 20]).mean()
    assert tail_mass(x, y, 0.1).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("width", [1, 5])
@pytest.mark.parametrize("scale", [1.0, 0.8, 0.5])
def test_large_samples_have_the_mass_of_the_law(width, scale):
    n = 40_000
    value = tail_mass(normal(n, width), scale * normal(n, width, seed=1)).item()
    expected = gaussian_tail_mass(0.05, scale, dim=width).item()
    slope = (gaussian_tail_mass(0.051, scale, dim=width).item() - expected) / 0.001  # the radius is estimated, too
    error = math.sqrt(expected / n + slope**2 * 0.05 * 0.95 / n)
    assert value == pytest.approx(expected, abs=SIGMAS * error)


def test_it_does_not_see_an_affine_map():
    x, y, a = normal(100, 3), 1.3 * normal(90, 3, seed=1), normal(3, 3, seed=2)
    assert tail_mass(x @ a + 7, y @ a + 7) == tail_mass(x, y)


def test_directions_without_variance_are_left_out():
    x, y = normal(60, 3), 1.5 * normal(50, 3, seed=1)
    rotation = torch.linalg.qr(normal(5, 5, seed=2)).Q
    wide = [torch.cat([s, torch.full((len(s), 2), constant)], 1) for s, constant in ((x, 4.0), (y, 7.0))]
    assert tail_mass(*wide) == tail_mass(*(s @ rotation for s in wide)) == tail_mass(x, y) > 0.05


def test_collapse_empties_the_tail_and_noise_fills_it():
    x, y = normal(500, 3), normal(500, 3, seed=1)
    values = [tail_mass(x, scale * y).item() for scale in (2.0, 1.0, 0.7, 0.0)]
    assert values == sorted(values, reverse=True)
    assert values[-1] == 0
    assert values[0] > 5 * 0.05


@pytest.mark.parametrize(
    ("reference", "q", "message"),
    [
        (torch.ones(9, 2), 0.05, "reference has 9 rows that span 0 dimensions, so that no row is farther out"),
        (normal(4, 3), 0.05, "reference has 4 rows that span 3 dimensions, .* more rows or fewer features"),
        (normal(4, 8), 0.05, "reference has 4 rows that span 3 dimensions"),
        (normal(9, 2), 0.0, "q = 0.0, but"),
    ],
)
def test_a_reference_without_tail_is_a_sentence(reference, q, message):
    with pytest.raises(ValueError, match=message):
        tail_mass(reference, torch.zeros(9, reference.shape[1]), q)


# Recall of the rarest rows


def test_the_rarest_rows_are_those_with_far_neighbors():
    crowd = torch.arange(9, dtype=torch.float64)[:, None] / 100
    reference = torch.cat([crowd, torch.tensor([[5.0]])])  # the last of ten rows is alone: the tail of a tenth
    near, far = (torch.cat([crowd, torch.tensor([[place]])]) for place in (5.1, 1.0))
    assert tail_recall(reference, near, k=1, q=0.1) == 1  # 5.1's ball reaches down to 0.08
    assert tail_recall(reference, far, k=1, q=0.1) == 0  # 1.0's ball ends at 1.92
    assert recall(reference, far, k=1) == 0.9


@pytest.mark.parametrize(("q", "rows"), [(0.001, 1), (0.1, 20), (0.5, 100), (0.999, 199)])
@pytest.mark.parametrize("k", [1, 3])
def test_tail_recall_is_counting(q, rows, k):
    x, y = normal(200, 3, seed=1), 0.7 * normal(150, 3, seed=2)
    radii, balls = (torch.cdist(s, s).sort(dim=1).values[:, k] for s in (x, y))
    rare = radii.argsort(descending=True)[:rows]
    inside = [bool((torch.cdist(x[i][None], y)[0] <= balls).any()) for i in rare]
    assert tail_recall(x, y, k, q=q, chunk_size=37).item() == pytest.approx(sum(inside) / rows, abs=1e-12)


def test_tail_recall_sees_what_recall_does_not():
    x, y = normal(500, 2, seed=1), normal(500, 2, seed=2)
    kept = y[y.norm(dim=1).argsort()[:450]]  # the model has lost its outermost tenth
    assert recall(x, y) - recall(x, kept) < 0.08
    assert tail_recall(x, y) - tail_recall(x, kept) > 0.4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"k": 0}, "k = 0, but a ball needs at least one neighbor"),
        ({"q": 1.0}, "q = 1.0, but the share of a tail lies between 0 and 1"),
        ({"k": 5}, "reference has 5 rows, but at least 6 are needed"),
    ],
)
def test_a_tail_recall_that_cannot_be_is_a_sentence(arguments, message):
    with pytest.raises(ValueError, match=message):
        tail_recall(normal(5, 2), normal(5, 2), **arguments)
