"""The Epps-Pulley statistic against its truth table, its closed forms and the laws of its expectation."""

import json
import math
from pathlib import Path
from statistics import NormalDist

import pytest
import scipy.optimize
import torch

from collapse.metrics.normality import epps_pulley, null_mean, random_directions, sliced_epps_pulley

TRUTH = json.loads((Path(__file__).parents[2] / "data" / "sigreg-truth.json").read_text())
SIGMAS = 4.5
PERIOD = 2 * math.pi * 16 / 3  # of the default grid


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def grid(rows, columns):
    """Return the indices i (rows, 1) and j (columns,) of the table's formulas."""
    return torch.arange(rows, dtype=torch.float64)[:, None], torch.arange(columns, dtype=torch.float64)


def sine(rows, columns):
    i, j = grid(rows, columns)
    return torch.sin(7 * i + 3 * j)


def quantiles(rows, law):
    return torch.tensor([law((i + 0.5) / rows) for i in range(rows)], dtype=torch.float64)[:, None]


def normal_quantiles():
    mean, scale = torch.tensor([0, 1, 0, 0, 0]), torch.tensor([1, 1, 0.5, 2, 0.1], dtype=torch.float64)
    return mean + scale * quantiles(256, NormalDist().inv_cdf)


UNIVARIATE = {
    "sin_64x5": lambda: sine(64, 5),
    "zeros_128x1": lambda: torch.zeros(128, 1, dtype=torch.float64),
    "const1_128x1": lambda: torch.ones(128, 1, dtype=torch.float64),
    "normal_quantiles_256x5": normal_quantiles,
    "big_96x3": lambda: 100 * sine(96, 3),
}
SLICED = {
    "sin_64x8": lambda: (1.2 * sine(64, 8) + 0.1 * grid(1, 8)[1])[None],
    "views_2x32x8": lambda: torch.stack(
        [torch.sin(1 + 5 * v + 7 * grid(32, 8)[0] + 3 * grid(32, 8)[1]) for v in (0, 1)]
    ),
}


def closed_form_directions(dimension, slices=16):
    d, k = grid(dimension, slices)
    directions = torch.cos(0.5 + 1.3 * d + 0.7 * k + 0.11 * d * k)
    return directions / directions.norm(dim=0)


def cases(section):
    return [
        pytest.param(case["name"], values, id=f"{case['name']}-{values['t_max']:g}-{values['n_points']}")
        for case in TRUTH[section]
        for values in case["grids"]
    ]


def options(values):
    return {"t_max": values["t_max"], "knots": values["n_points"]}


def close(value, expected, rtol, atol=0.0):
    torch.testing.assert_close(value, torch.as_tensor(expected, dtype=value.dtype), rtol=rtol, atol=atol)


def check_gradient(gradient, values, rtol, atol=0.0):
    close(gradient.flatten()[values["grad_idx"]], values["grad_val"], rtol, atol)
    close(gradient.norm(), values["grad_norm"], rtol, atol)


# The truth table


def test_the_table_has_no_case_without_an_input():
    assert {case["name"] for case in TRUTH["univariate"]} == set(UNIVARIATE)
    assert {case["name"] for case in TRUTH["sliced"]} == set(SLICED)
    for case in TRUTH["univariate"]:
        assert list(UNIVARIATE[case["name"]]().shape) == case["shape"]


@pytest.mark.parametrize(("name", "values"), cases("univariate"))
def test_columns_have_the_values_and_gradients_of_the_table(name, values):
    x = UNIVARIATE[name]().requires_grad_()
    statistic = epps_pulley(x, **options(values))
    close(statistic, values["fp64"], rtol=1e-9, atol=1e-13 * len(x))
    (gradient,) = torch.autograd.grad(statistic.sum(), x)
    check_gradient(gradient, values, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize(("name", "values"), cases("univariate"))
def test_columns_in_single_precision(name, values):
    x = UNIVARIATE[name]().float().requires_grad_()
    statistic = epps_pulley(x, **options(values))
    assert statistic.dtype == torch.float32
    # N (1 - 2 + 1) at the null: what is lost there is a share of N, not of the statistic
    close(statistic, values["fp64"], rtol=2e-5, atol=2e-7 * len(x))
    (gradient,) = torch.autograd.grad(statistic.sum(), x)
    check_gradient(gradient, values, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("name", "values"), cases("sliced"))
@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float64, 1e-9), (torch.float32, 2e-5)])
def test_slices_have_the_values_and_gradients_of_the_table(name, values, dtype, rtol):
    x = SLICED[name]().to(dtype).requires_grad_()
    directions = closed_form_directions(x.shape[-1])
    statistic = torch.stack([sliced_epps_pulley(view, directions, **options(values)) for view in x]).mean()
    close(statistic, values["mean_fp64"], rtol)
    first = epps_pulley(x[0] @ directions[:, :4].to(dtype), **options(values))
    close(first, values["first4_slices_fp64"], rtol)
    (gradient,) = torch.autograd.grad(statistic, x)
    check_gradient(gradient, values, rtol, atol=0 if dtype == torch.float64 else 1e-6)


@pytest.mark.parametrize("case", TRUTH["sliced"], ids=lambda case: case["name"])
def test_directions_are_those_of_the_authors_under_the_same_generator(case):
    upstream, views = case["upstream_rng_cpu_float32"], SLICED[case["name"]]().float()
    for step in (0, 1):
        directions = random_directions(8, upstream["num_slices"], torch.Generator().manual_seed(step))
        close(
            torch.stack([sliced_epps_pulley(x, directions) for x in views]).mean(), upstream[f"step{step}"], rtol=2e-5
        )


def test_unbiased_values_of_the_table():
    sliced, zeros = TRUTH["u_statistic"]["cases"]
    x = SLICED["sin_64x8"]()[0]
    close(sliced_epps_pulley(x, closed_form_directions(8), unbiased=True), sliced["T_U_mean"], rtol=1e-9)
    close(epps_pulley(UNIVARIATE["zeros_128x1"](), unbiased=True), zeros["T_U"], rtol=1e-9)


def test_unbiased_is_the_mean_over_pairs_without_the_diagonal():
    x = normal(7, 2, seed=3)
    step, t = 3 / 16, 3 / 16 * torch.arange(17, dtype=torch.float64)
    phi = torch.exp(-t.square() / 2)
    weights = phi * torch.tensor([step] + [2 * step] * 15 + [step], dtype=torch.float64)
    pairs = (x[:, None] - x[None])[..., None].mul(t).cos()  # (N, N, S, K)
    apart = pairs.sum((0, 1)).sub(len(x)) / (len(x) * (len(x) - 1))
    expected = len(x) * ((apart - 2 * phi * (x[..., None] * t).cos().mean(0) + phi.square()) * weights).sum(-1)
    close(epps_pulley(x, unbiased=True), expected, rtol=1e-12)


@pytest.mark.parametrize("grid", TRUTH["analytic"]["grids"], ids=lambda g: f"{g['t_max']:g}-{g['n_points']}")
def test_analytic_values_of_every_grid(grid):
    knots = {"t_max": grid["t_max"], "knots": grid["n_points"]}
    assert null_mean(**knots) == pytest.approx(grid["null_mean_E_T"], rel=1e-12)
    close(epps_pulley(torch.zeros(10, 1).double(), **knots), [10 * grid["collapse0_T_over_N"]], rtol=1e-12)
    x = normal(64, 1, seed=1)
    moved = x.clone()
    moved[::2] += grid["alias_period_in_x"]
    close(epps_pulley(moved, **knots), epps_pulley(x, **knots), rtol=1e-9)
    assert epps_pulley(x + 0.5 * grid["alias_period_in_x"], **knots) > 10 * epps_pulley(x, **knots)


# Its expectation


def moments(statistic):
    """Mean over independent columns and its standard error."""
    return statistic.mean().item(), statistic.std().item() / math.sqrt(len(statistic))


@pytest.mark.parametrize("rows", [2, 8, 64])
def test_expectations_under_the_standard_normal(rows):
    x = normal(rows, 20_000, seed=rows)
    plain = torch.cat([epps_pulley(part) for part in x.split(2000, dim=1)])
    unbiased = torch.cat([epps_pulley(part, unbiased=True) for part in x.split(2000, dim=1)])
    mean, error = moments(plain)
    assert null_mean() == pytest.approx(1.0525, abs=5e-5)
    assert abs(mean - null_mean()) < SIGMAS * error
    assert error < 0.01
    mean, error = moments(unbiased)
    assert abs(mean) < SIGMAS * error
    assert error < 0.02


def expectation(sigma, rows, *, unbiased):
    """E T of ``rows`` draws of N(0, sigma^2) on the default grid, from E|ecf|^2 = 1/N + (1 - 1/N) exp(-sigma^2 t^2)."""
    step, total = 3 / 16, 0.0
    for k in range(17):
        t = k * step
        apart = math.exp(-((sigma * t) ** 2))
        power = apart if unbiased else 1 / rows + (1 - 1 / rows) * apart
        bracket = power - 2 * math.exp(-(t**2) / 2) * math.exp(-((sigma * t) ** 2) / 2) + math.exp(-(t**2))
        total += (step if k in (0, 16) else 2 * step) * math.exp(-(t**2) / 2) * bracket
    return rows * total


def least(rows, *, unbiased):
    return scipy.optimize.minimize_scalar(
        lambda sigma: expectation(sigma, rows, unbiased=unbiased), bounds=(0.5, 1.5), options={"xatol": 1e-9}
    ).x


@pytest.mark.parametrize(("rows", "best"), [(8, 0.8744), (32, 0.96874), (128, 0.99219), (512, 0.99805)])
def test_the_plain_expectation_shrinks_by_1_over_n_and_the_unbiased_one_does_not(rows, best):
    assert least(rows, unbiased=False) == pytest.approx(best, abs=1e-4)
    assert least(rows, unbiased=False) == pytest.approx(1 - 1 / rows, abs=1e-3)
    assert least(rows, unbiased=True) == pytest.approx(1, abs=1e-6)
    assert expectation(1, rows, unbiased=False) == pytest.approx(null_mean(), rel=1e-12)
    assert expectation(1, rows, unbiased=True) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("unbiased", [False, True])
def test_values_and_slopes_in_the_scale_are_those_of_the_closed_form(unbiased):
    rows, z = 8, normal(8, 40_000, seed=4)
    for scale in (0.6, least(rows, unbiased=unbiased), 1.0, 1.5):
        # One scale per column: the gradient holds a slope for each of them.
        sigma = torch.full((z.shape[1],), float(scale), dtype=z.dtype, requires_grad=True)
        parts = zip(sigma.split(4000), z.split(4000, dim=1), strict=True)
        values = torch.cat([epps_pulley(s * x, unbiased=unbiased) for s, x in parts])
        (slopes,) = torch.autograd.grad(values.sum(), sigma)
        mean, error = moments(values.detach())
        assert abs(mean - expectation(scale, rows, unbiased=unbiased)) < SIGMAS * error
        slope, error = moments(slopes)
        above, below = (expectation(scale + h, rows, unbiased=unbiased) for h in (1e-5, -1e-5))
        assert abs(slope - (above - below) / 2e-5) < SIGMAS * error
        assert error < 0.03
        if scale == 1.0 and not unbiased:
            assert slope > 10 * error  # it still wants to shrink


# Shape, symmetry, limits


def test_total_collapse_has_a_value_and_no_gradient():
    for n in (2, 100):
        x = torch.zeros(n, 3, dtype=torch.float64, requires_grad=True)
        for unbiased in (False, True):
            value = epps_pulley(x, unbiased=unbiased)
            close(value, [0.4020475797316646 * n] * 3, rtol=1e-12)
            assert torch.autograd.grad(value.sum(), x)[0].abs().max() == 0


def test_half_a_sample_a_period_away_is_unnoticed_and_half_a_period_is_not():
    x = normal(200, 3, seed=5)
    moved, visible = x.clone(), x.clone()
    moved[::2] -= PERIOD
    visible[::2] -= PERIOD / 2
    close(epps_pulley(moved), epps_pulley(x), rtol=1e-9)
    assert (epps_pulley(visible) > 20).all()


@pytest.mark.parametrize("unbiased", [False, True])
def test_symmetries(unbiased):
    x = normal(50, 4, seed=6) + 0.3
    value = epps_pulley(x, unbiased=unbiased)
    order = torch.randperm(50, generator=torch.Generator().manual_seed(1))
    close(epps_pulley(x[order], unbiased=unbiased), value, rtol=1e-12)
    close(epps_pulley(-x, unbiased=unbiased), value, rtol=1e-12)  # the normal law is symmetric
    close(epps_pulley(x[:, [2, 0]], unbiased=unbiased), value[[2, 0]], rtol=1e-12)
    q = torch.linalg.qr(normal(4, 4, seed=7)).Q  # rotated rows along rotated directions are the same projections
    a = closed_form_directions(4)
    close(sliced_epps_pulley(x @ q, q.T @ a, unbiased=unbiased), sliced_epps_pulley(x, a, unbiased=unbiased), 1e-12)


@pytest.mark.parametrize(("dimension", "collapsed"), [(64, 48.5), (4096, 51.4)])
def test_rows_of_unit_length_look_collapsed_and_rescaled_ones_normal(dimension, collapsed):
    directions = random_directions(dimension, 256, torch.Generator().manual_seed(0))
    values = []
    for seed in range(12):
        x = normal(128, dimension, seed=seed, dtype=torch.float32)
        x /= x.norm(dim=1, keepdim=True)
        assert sliced_epps_pulley(x, directions).item() == pytest.approx(collapsed, abs=0.1)
        values.append(sliced_epps_pulley(x * math.sqrt(dimension), directions))
    mean, error = moments(torch.stack(values))
    assert abs(mean - null_mean()) < SIGMAS * error
    assert error < 0.05


@pytest.mark.parametrize("unbiased", [False, True])
def test_gradients_are_those_of_finite_differences(unbiased):
    x = (1.5 * normal(5, 2, seed=8) + 0.2).requires_grad_()
    a = closed_form_directions(2, 3)
    assert torch.autograd.gradcheck(lambda x: epps_pulley(x, unbiased=unbiased), x)
    assert torch.autograd.gradcheck(lambda x: sliced_epps_pulley(x, a, unbiased=unbiased), x)
    assert torch.autograd.gradgradcheck(lambda x: epps_pulley(x, unbiased=unbiased, knots=3), x)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_and_half_precision_rows_are_computed_in_single_precision(dtype):
    x = normal(512, 128, seed=9, dtype=torch.float32)
    a = random_directions(128, 64, torch.Generator().manual_seed(0))
    plain, columns = sliced_epps_pulley(x, a), epps_pulley(x)
    with torch.autocast("cpu", dtype):
        assert torch.equal(sliced_epps_pulley(x, a), plain)
        assert torch.equal(epps_pulley(x), columns)
        narrow = (x @ torch.eye(128)).requires_grad_()  # what a layer under autocast returns
        assert narrow.dtype == dtype
        value = sliced_epps_pulley(narrow, a)
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(plain.item(), rel=0.01)
    (gradient,) = torch.autograd.grad(value, narrow)
    x = x.requires_grad_()
    (expected,) = torch.autograd.grad(sliced_epps_pulley(x, a), x)
    assert (gradient.float() - expected).norm() < 0.01 * expected.norm()


# Directions


def test_directions_are_uniform_unit_vectors():
    a = random_directions(5, 40_000, torch.Generator().manual_seed(2))
    assert a.shape == (5, 40_000)
    close(a.norm(dim=0), torch.ones(40_000), rtol=1e-6)
    assert (a.mean(1).abs() < SIGMAS * math.sqrt(1 / 5 / 40_000)).all()
    # the variance of a squared coordinate on the sphere is 2 (D - 1) / (D^2 (D + 2))
    assert ((a.square().mean(1) - 1 / 5).abs() < SIGMAS * math.sqrt(8 / 175 / 40_000)).all()


def test_one_dimension_has_two_directions():
    a = random_directions(1, 1000, torch.Generator().manual_seed(3))
    assert set(a.flatten().tolist()) == {-1.0, 1.0}


@pytest.mark.parametrize("dimension", [1, 64])
def test_directions_are_of_single_precision_whatever_the_default(dimension):
    wanted = random_directions(dimension, 1000, torch.Generator().manual_seed(4))
    torch.set_default_dtype(torch.bfloat16)
    try:
        directions = random_directions(dimension, 1000, torch.Generator().manual_seed(4))
        value = sliced_epps_pulley(normal(64, dimension, seed=1, dtype=torch.bfloat16), directions)
    finally:
        torch.set_default_dtype(torch.float32)
    assert directions.dtype == value.dtype == torch.float32
    assert torch.equal(directions, wanted)
    assert torch.isfinite(value)


def test_a_direction_without_length_is_no_nan(monkeypatch):
    monkeypatch.setattr(torch, "randn", lambda *shape, **kwargs: torch.zeros(shape))
    directions = random_directions(1, 4, torch.Generator())
    assert directions.abs().max() == 0


def test_global_randomness_is_left_alone():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    sliced_epps_pulley(torch.ones(4, 3), random_directions(3, 8, torch.Generator().manual_seed(5)), unbiased=True)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("rows", "arguments", "sentence"),
    [
        (3, {"knots": 1}, "knots must be at least 2, got 1"),
        (1, {"unbiased": True}, "unbiased statistic needs at least 2 rows, got 1; use a larger batch"),
    ],
)
def test_wrong_arguments_are_a_sentence(rows, arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        epps_pulley(torch.zeros(rows, 2), **arguments)
