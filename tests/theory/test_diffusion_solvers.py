"""The solvers with the exact prediction for Gaussian rows, where every step of theirs is linear."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch

from collapse.models.noising import PATHS
from collapse.models.solvers import SOLVERS, SPACINGS, Knot, knots
from collapse.seeding import generator
from collapse.theory import diffusion as laws

BETAS = np.linspace(1e-4, 0.2, 50)
MEAN, VARIANCE = 1.0, 0.25
ONE_STEP = ["ddpm_beta", "ddpm_posterior", "ddim"]


def exact(knot, mean=MEAN, variance=VARIANCE):
    """Slope and offset of E[x_0 | x_t] for N(mean, variance)."""
    total = knot.alpha**2 * variance + knot.sigma**2
    return knot.alpha * variance / total, knot.sigma**2 * mean / total


def denoiser(steps, mean=MEAN, variance=VARIANCE):
    rules = {knot.t: exact(knot, mean, variance) for knot in steps}
    return lambda x, t: rules[t][0] * x + rules[t][1]


def discrete(betas):
    """The knots of a list of betas."""
    levels = np.cumprod(np.r_[1.0, 1 - betas])[::-1]
    return [
        Knot(index / len(betas), math.sqrt(level), math.sqrt(1 - level))
        for index, level in zip(range(len(betas), -1, -1), levels, strict=True)
    ]


def moments_of(solver, steps, denoise, *, eta=0.0, start=None):
    """Mean and variance of the output, exactly: the solver is affine in its noises, so one at a time is followed."""
    count = len(steps)
    sources = torch.zeros(count + 1, dtype=torch.float64)
    sources[1] = steps[0].sigma if start is None else start  # row 0 is without noise, row i with the i-th alone
    drawn = iter(range(2, count + 1))

    def draw(x):
        unit = torch.zeros_like(x)
        unit[next(drawn)] = 1
        return unit

    out = SOLVERS[solver].run(denoise, sources, steps, draw=draw, eta=eta)
    return float(out[0]), float((out[1:] - out[0]).square().sum())


# --- D1: a discretized sampler is a bias, exactly the stated one ------------------------------------------------------


@pytest.mark.parametrize(
    ("solver", "law", "eta"),
    [*((solver, solver, 0.0) for solver in ONE_STEP), ("ddim", "ddpm_posterior", 1.0)],
)
def test_output_moments_are_those_of_theory(solver, law, eta):
    steps = discrete(BETAS)
    expected = laws.output_moments(BETAS, law, mean=MEAN, variance=VARIANCE)
    assert moments_of(solver, steps, denoiser(steps), eta=eta, start=1.0) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    ("solver", "mean", "variance"),
    [
        ("ddpm_beta", 0.998842, 0.2625968),
        ("ddpm_posterior", 0.998842, 0.2085494),
        ("ddim", 0.9673596, 0.2307999),
    ],
)
def test_draws_have_the_stated_moments(solver, mean, variance):
    steps, rows, rng = discrete(BETAS), 200_000, generator(3)

    def draw(x):
        return torch.randn(x.shape, generator=rng, dtype=x.dtype)

    x = SOLVERS[solver].run(denoiser(steps), draw(torch.empty(rows, dtype=torch.float64)), steps, draw=draw)
    assert abs(float(x.mean()) - mean) < 4.5 * math.sqrt(variance / rows)
    assert abs(float(x.var()) - variance) < 4.5 * variance * math.sqrt(2 / rows)


# --- the multistep solver ---------------------------------------------------------------------------------------------


def flowed(path, start, mean=0.0, variance=VARIANCE):
    """Where the path's flow takes x = sigma z from a knot to t = 0: slope in z and offset."""
    scale = math.sqrt(variance / (start.alpha**2 * variance + start.sigma**2))
    return scale * start.sigma, mean - scale * start.alpha * mean


def error(path, solver, steps, spacing, variance=VARIANCE):
    """Distance of the output's standard deviation from that of the exact flow out of the same knot."""
    walk = knots(PATHS[path], steps, spacing)
    out = SOLVERS[solver].run(denoiser(walk, 0.0, variance), torch.tensor(walk[0].sigma, dtype=torch.float64), walk)
    return abs(float(out) - flowed(path, walk[0], variance=variance)[0])


@pytest.mark.parametrize("path", PATHS)
def test_its_linear_recursion_on_gaussian_rows(path):
    """The same numbers from the recursion written with exponentials of the step in log(alpha / sigma)."""
    walk = knots(PATHS[path], 7, "log_ratio")
    slopes, offsets, coefficients = [], [], []
    state, shift = walk[0].sigma, 0.0
    for index, (here, after) in enumerate(pairwise(walk)):
        slope, offset = exact(here)
        slopes.append(slope * state)
        offsets.append(slope * shift + offset)
        row, center = slopes[-1], offsets[-1]
        if index and index < len(walk) - 2:
            h, before = after.log_ratio - here.log_ratio, here.log_ratio - walk[index - 1].log_ratio
            coefficients.append(h / (2 * before))
            row += coefficients[-1] * (slopes[-1] - slopes[-2])
            center += coefficients[-1] * (offsets[-1] - offsets[-2])
        gain = after.alpha if not after.sigma else -after.alpha * math.expm1(-(after.log_ratio - here.log_ratio))
        state, shift = after.sigma / here.sigma * state + gain * row, after.sigma / here.sigma * shift + gain * center
    assert coefficients == pytest.approx([0.5] * 5)  # equal steps
    mean, variance = moments_of("multistep", walk, denoiser(walk))
    assert mean == pytest.approx(shift, rel=1e-12)
    assert variance == pytest.approx(state**2, rel=1e-12)


@pytest.mark.parametrize("path", PATHS)
def test_its_error_is_of_second_order_where_that_of_ddim_is_of_first(path):
    def inner(solver, steps):
        """Within the finite part of the walk: the last step, to sigma = 0, is no longer than it ever was."""
        walk = knots(PATHS[path], steps + 1, "log_ratio")[:-1]
        out = SOLVERS[solver].run(denoiser(walk, 0.0), torch.tensor(walk[0].sigma, dtype=torch.float64), walk)
        spread = [math.sqrt(knot.alpha**2 * VARIANCE + knot.sigma**2) for knot in (walk[0], walk[-1])]
        return abs(float(out) - walk[0].sigma * spread[1] / spread[0])

    orders = {solver: math.log2(inner(solver, 100) / inner(solver, 200)) for solver in ("ddim", "multistep")}
    assert orders["ddim"] == pytest.approx(1, abs=0.1)
    assert orders["multistep"] == pytest.approx(2, abs=0.2)


@pytest.mark.parametrize("variance", [0.01, 0.25])
@pytest.mark.parametrize("path", PATHS)
def test_in_twenty_steps_it_is_closer_than_ddim_in_fifty(path, variance):
    ours = error(path, "multistep", 20, "log_ratio", variance)
    assert ours < error(path, "ddim", 50, "time", variance)
    assert ours < 0.02 * math.sqrt(variance)


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("path", PATHS)
def test_many_steps_give_the_law_itself(path, solver, spacing):
    walk = knots(PATHS[path], 1000, spacing)
    mean, variance = moments_of(solver, walk, denoiser(walk))
    assert mean == pytest.approx(MEAN, abs=0.015)
    assert variance == pytest.approx(VARIANCE, rel=0.02)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("path", PATHS)
def test_one_point_is_reached_exactly(path, solver):
    walk = knots(PATHS[path], 4, SOLVERS[solver].spacing)
    mean, variance = moments_of(solver, walk, lambda x, t: torch.full_like(x, 0.7))
    assert (mean, variance) == pytest.approx((0.7, 0.0), abs=1e-12)


@pytest.mark.parametrize("path", PATHS)
def test_knots_are_equally_spaced(path):
    times, ratios = (knots(PATHS[path], 10, spacing) for spacing in ("time", "log_ratio"))
    assert [knot.t for knot in times] == pytest.approx([1 - k / 10 for k in range(11)])
    assert (times[-1].alpha, times[-1].sigma) == (ratios[-1].alpha, ratios[-1].sigma) == (1, 0)
    gaps = np.diff([knot.log_ratio for knot in ratios[:-1]])
    assert gaps == pytest.approx(np.full(9, gaps[0]), rel=1e-6)
    assert ratios[-2].log_ratio == pytest.approx(5)
    assert ratios[0].log_ratio >= -5 - 1e-9
    assert ratios[-1].log_ratio == math.inf
