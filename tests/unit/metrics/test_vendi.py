"""The Vendi score of kernels with known eigenvalues (M5), and of features in either dimension."""

import math

import pytest
import torch

from collapse.metrics import cosine_vendi_score, hill_number, vendi_score


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def blocks(*sizes):
    """Return a kernel that is 1 inside clusters and 0 across."""
    return torch.block_diag(*(torch.ones(size, size) for size in sizes))


@pytest.mark.parametrize(
    ("kernel", "q", "expected"),
    [
        pytest.param(blocks(4, 4, 4), 1, 3, id="M5.eq"),
        pytest.param(blocks(5, 3, 2), 1, 2.800094073, id="M5.uneq"),
        pytest.param(blocks(5, 3, 2), 2, 2.631578947, id="M5.uneq.2"),
        pytest.param(torch.eye(6), 1, 6, id="M5.orth"),
        pytest.param(blocks(7), 1, 1, id="M5.ident"),
        pytest.param(0.5 + 0.5 * torch.eye(5), 1, 3.412787518, id="M5.rho"),
        pytest.param(blocks(5, 3, 2), 0, 3, id="kinds"),
        pytest.param(blocks(5, 3, 2), math.inf, 2, id="largest"),
        pytest.param(torch.ones(1, 1), 1, 1, id="single"),
    ],
)
def test_exact_values(kernel, q, expected):
    assert vendi_score(kernel, q).item() == pytest.approx(expected, rel=1e-6)
    order = torch.randperm(len(kernel), generator=torch.Generator().manual_seed(1))
    assert vendi_score(kernel[order][:, order].double(), q).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("q", [0.5, 1, 2, 7, math.inf])
@pytest.mark.parametrize("rho", [-0.2, 0.0, 0.3, 0.9])
def test_equal_similarities_have_two_eigenvalues(q, rho):
    n = 5
    spectrum = torch.tensor([(1 + (n - 1) * rho) / n] + [(1 - rho) / n] * (n - 1))
    kernel = rho + (1 - rho) * torch.eye(n, dtype=torch.float64)
    assert vendi_score(kernel, q).item() == pytest.approx(hill_number(spectrum, q).item(), rel=1e-6)


@pytest.mark.parametrize("q", [0.5, 1, 2, math.inf])
@pytest.mark.parametrize(("rows", "width"), [(40, 6), (6, 40), (8, 8)])
def test_features_and_their_cosines_have_one_score(q, rows, width):
    """Both sides of the duality: the small matrix has the positive eigenvalues of the large one."""
    x = normal(rows, width) * torch.arange(1, width + 1)
    u = x / x.norm(dim=1, keepdim=True)
    expected = vendi_score(u @ u.T, q).item()
    assert cosine_vendi_score(x, q).item() == pytest.approx(expected, rel=1e-9)
    assert cosine_vendi_score(7 * x, q).item() == pytest.approx(expected, rel=1e-9)


def test_clusters_of_features_are_counted():
    x = torch.eye(10).repeat(100, 1)  # ten kinds
    assert cosine_vendi_score(x).item() == pytest.approx(10, rel=1e-9)
    assert cosine_vendi_score(x[x[:, :3].sum(1) > 0]).item() == pytest.approx(3, rel=1e-9)
    assert cosine_vendi_score(x[:1].expand(50, -1), 0.5).item() == pytest.approx(1, rel=1e-9)


def test_gradients_are_those_of_finite_differences():
    for shape in ((5, 3), (3, 5)):
        assert torch.autograd.gradcheck(cosine_vendi_score, normal(*shape).requires_grad_())
    root = normal(4, 6)
    root = (root / root.norm(dim=1, keepdim=True)).requires_grad_()

    def of_rows(a):
        u = a / a.norm(dim=1, keepdim=True)
        return vendi_score(u @ u.T, 2)

    assert torch.autograd.gradcheck(of_rows, root)
    collapsed = torch.ones(6, 3, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(cosine_vendi_score(collapsed), collapsed)
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize(
    ("kernel", "message"),
    [
        (torch.ones(3, 2), r"kernel has shape \(3, 2\), but a symmetric matrix .* use cosine_vendi_score for features"),
        (torch.tensor([[1.0, 0.5], [0.1, 1.0]]), "a symmetric matrix of similarities"),
        (2 * torch.eye(3), "with a diagonal of ones is needed; divide it"),
        (torch.tensor([[1.0, 3.0], [3.0, 1.0]]), "kernel has the eigenvalue -2, but similarities must be positive"),
        (torch.zeros(0, 0), r"kernel has shape \(0, 0\)"),
        (torch.full((2, 2), math.nan), "kernel has 2 of 2 rows with NaN"),
    ],
)
def test_wrong_kernels_are_a_sentence(kernel, message):
    with pytest.raises(ValueError, match=message):
        vendi_score(kernel)


def test_rows_of_zeros_have_no_cosine():
    with pytest.raises(ValueError, match="features has 2 rows of zeros, which have no direction; drop them"):
        cosine_vendi_score(torch.tensor([[1.0, 0.0], [0.0, 0.0], [0.0, 0.0]]))


def test_a_negative_order_is_a_sentence():
    with pytest.raises(ValueError, match="order = -1, but an order is at least 0"):
        vendi_score(torch.eye(2), -1)
