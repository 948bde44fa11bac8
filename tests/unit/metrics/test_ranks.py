"""Effective ranks of matrices with known singular values (M8), their invariances and their limits."""

import math

import pytest
import torch

from collapse.metrics import effective_rank, hill_number, participation_ratio, rankme, stable_rank

RANKS = [rankme, effective_rank, participation_ratio, stable_rank]
M8 = {rankme: 3.363586414, effective_rank: 2.27632152, participation_ratio: 1.766423358, stable_rank: 1.375}


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def with_singular_values(values, rows, seed=0):
    """Draw a matrix of ``rows`` rows and len(values) columns with these singular values."""
    left = torch.linalg.qr(normal(rows, len(values), seed=seed)).Q
    right = torch.linalg.qr(normal(len(values), len(values), seed=seed + 1)).Q
    return left @ torch.diag(torch.tensor(values, dtype=torch.float64)) @ right


def identifier(function):
    return function.__name__


@pytest.fixture(params=RANKS, ids=identifier)
def rank(request):
    return request.param


@pytest.mark.parametrize("rows", [4, 9])
def test_m8(rank, rows):
    x = with_singular_values([4.0, 2.0, 1.0, 1.0], rows)
    assert rank(x).item() == pytest.approx(M8[rank], rel=1e-6)
    assert rank(x.T).item() == pytest.approx(M8[rank], rel=1e-6)


def test_m8_without_eps():
    x = with_singular_values([4.0, 2.0, 1.0, 1.0], 7)
    assert rankme(x, eps=0).item() == pytest.approx(3.363585661, rel=1e-9)
    assert rankme(x).item() - rankme(x, eps=0).item() == pytest.approx(3.363586414 - 3.363585661, rel=1e-2)


def test_ranks_are_hill_numbers_of_two_kinds_of_shares():
    """RankMe is that of the singular values, the others of the eigenvalues of the second moment matrix."""
    x = normal(30, 6) * torch.arange(1, 7)
    spectrum = torch.linalg.eigvalsh(x.T @ x / 30)
    assert rankme(x, eps=0).item() == pytest.approx(hill_number(spectrum.sqrt()).item(), rel=1e-9)
    for function, order in ((effective_rank, 1), (participation_ratio, 2), (stable_rank, math.inf)):
        assert function(x).item() == pytest.approx(hill_number(spectrum, order).item(), rel=1e-9)
    moments = [spectrum.sum() ** 2 / spectrum.square().sum(), spectrum.sum() / spectrum.max()]
    assert participation_ratio(x).item() == pytest.approx(moments[0].item(), rel=1e-9)
    assert stable_rank(x).item() == pytest.approx(moments[1].item(), rel=1e-9)
    assert rankme(x) > effective_rank(x) > participation_ratio(x) > stable_rank(x)


def test_ranks_do_not_see_scale_rotation_or_order(rank):
    x = normal(20, 5) * torch.arange(1, 6)
    rotation, value = torch.linalg.qr(normal(5, 5, seed=1)).Q, rank(x).item()
    for same in (1e-3 * x, 1e6 * x, x @ rotation, x.flip(0), torch.cat([x, x])):
        assert rank(same).item() == pytest.approx(value, rel=1e-9)
    assert rank(x.float()).item() == pytest.approx(value, rel=1e-6)


def test_limits(rank):
    assert rank(torch.zeros(5, 3)) == 0
    assert rank(torch.eye(4)).item() == pytest.approx(4, rel=1e-5)
    assert rank(torch.ones(6, 4)).item() == pytest.approx(1, rel=1e-5)  # collapsed to one point beside the origin
    assert rank(torch.ones(1, 1)).item() == pytest.approx(1, rel=1e-5)
    assert rank(normal(3, 8)) <= 3 + 1e-5


def test_the_mean_counts_until_it_is_taken_off(rank):
    x = normal(4000, 4)
    assert rank(x + 100).item() == pytest.approx(1, abs=0.1)
    assert rank(x + 100 - (x + 100).mean(0)).item() == pytest.approx(4, abs=0.2)


def test_gradients_are_those_of_finite_differences(rank):
    assert torch.autograd.gradcheck(rank, normal(5, 3).requires_grad_())
    assert torch.autograd.gradcheck(rank, normal(3, 5, seed=1).requires_grad_())


@pytest.mark.parametrize("x", [torch.zeros(4, 3), torch.ones(4, 3), torch.eye(3)], ids=["zero", "point", "equal"])
def test_gradients_of_degenerate_matrices_are_finite(rank, x):
    x = x.double().requires_grad_()
    (gradient,) = torch.autograd.grad(rank(x), x)
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.zeros(3), r"x has shape \(3,\)"),
        (torch.zeros(0, 3), "x has 0 rows, but at least 1 are needed"),
        (torch.tensor([[1.0, math.nan], [0.0, 1.0]]), "x has 1 of 2 rows with NaN or infinity; drop"),
    ],
)
def test_wrong_embeddings_are_a_sentence(rank, x, message):
    with pytest.raises(ValueError, match=message):
        rank(x)


def test_eps_is_not_negative():
    with pytest.raises(ValueError, match=r"eps = -1e-07, but shares are not negative; use"):
        rankme(torch.eye(2), eps=-1e-7)
