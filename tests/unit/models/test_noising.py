"""Paths, predictions and their weights against the equations they come from."""

import math

import numpy as np
import pytest
import torch

from collapse.models.noising import PATHS, PREDICTIONS, min_snr_weight
from collapse.seeding import generator

TIMES = torch.linspace(0, 1, 101, dtype=torch.float64)
PRESERVING = ["linear", "cosine"]


@pytest.mark.parametrize("path", PATHS)
def test_a_path_leads_from_the_row_to_noise(path):
    level = PATHS[path](TIMES)
    assert (float(level.alpha[0]), float(level.sigma[0])) == (1, 0)
    assert float(level.alpha[-1]) < 0.0125
    assert float(level.sigma[-1]) > 0.9999
    assert bool((level.alpha.diff() < 0).all())
    assert bool((level.sigma.diff() > 0).all())
    torch.testing.assert_close(level.a * level.alpha + level.b * level.sigma, torch.ones_like(TIMES))  # equation 2


@pytest.mark.parametrize("path", PRESERVING)
def test_variance_is_preserved_in_single_precision_close_to_the_row(path):
    times = torch.tensor([1e-6, 1e-4, 1e-2, 0.5])
    single, double = PATHS[path](times), PATHS[path](times.double())
    torch.testing.assert_close(double.alpha**2 + double.sigma**2, torch.ones(4, dtype=torch.float64))
    torch.testing.assert_close(single.sigma.double(), double.sigma, rtol=1e-5, atol=0)


def test_linear_is_the_limit_of_a_thousand_betas():
    betas = np.linspace(1e-4, 0.02, 1000)
    levels = torch.from_numpy(np.cumprod(1 - betas)).sqrt()[[9, 99, 499, 999]]
    ours = PATHS["linear"](torch.tensor([0.01, 0.1, 0.5, 1.0], dtype=torch.float64)).alpha
    torch.testing.assert_close(ours, levels, rtol=0.035, atol=0)
    fine = np.linspace(0.1, 20, 100_000) / 100_000
    torch.testing.assert_close(ours[-1], torch.tensor(np.prod(np.sqrt(1 - fine))), rtol=1e-3, atol=0)


def test_cosine_is_one():
    angles = (TIMES[:-1] + 0.008) / 1.016 * math.pi / 2
    torch.testing.assert_close(PATHS["cosine"](TIMES[:-1]).alpha, angles.cos() / angles[0].cos())


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("path", PATHS)
def test_a_right_output_stands_for_the_row_and_a_wrong_one_is_off_by_the_gain(path, prediction):
    x, noise = torch.randn(2, 99, generator=generator(1), dtype=torch.float64)
    level, kind = PATHS[path](TIMES[1:-1]), PREDICTIONS[prediction]
    mixed, target = level.mix(x, noise), kind.target(level, x, noise)
    torch.testing.assert_close(mixed, level.alpha * x + level.sigma * noise)  # equation 1
    torch.testing.assert_close(kind.row(level, mixed, target), x)
    off = kind.row(level, mixed, target + 0.1) - x
    torch.testing.assert_close(off.abs(), 0.1 * kind.gain(level))


@pytest.mark.parametrize("path", PRESERVING)
def test_v_is_the_direction_across_a_preserving_path(path):
    """x_t and v are the row and the noise, rotated: alpha eps - sigma x_0."""
    level = PATHS[path](TIMES)
    x, noise = torch.tensor(0.4, dtype=torch.float64), torch.tensor(-1.1, dtype=torch.float64)
    v = PREDICTIONS["v"].target(level, x, noise)
    torch.testing.assert_close(v, level.alpha * noise - level.sigma * x)
    torch.testing.assert_close(v**2 + level.mix(x, noise) ** 2, torch.full_like(TIMES, 0.4**2 + 1.1**2))


def test_v_is_the_velocity_of_the_straight_path():
    x, noise = torch.tensor(0.4, dtype=torch.float64), torch.tensor(-1.1, dtype=torch.float64)
    level = PATHS["flow"](TIMES)
    slope = level.mix(x, noise).diff() / TIMES.diff()
    torch.testing.assert_close(PREDICTIONS["v"].target(level, x, noise)[1:], slope)


@pytest.mark.parametrize("gamma", [0.5, 5.0])
@pytest.mark.parametrize("path", PRESERVING)
def test_min_snr_weights_are_those_of_the_paper(path, gamma):
    level = PATHS[path](TIMES[1:])
    ratio = (level.alpha / level.sigma) ** 2
    capped = torch.minimum(ratio, torch.tensor(gamma))
    for prediction, expected in (("x0", capped), ("epsilon", capped / ratio), ("v", capped / (ratio + 1))):
        torch.testing.assert_close(min_snr_weight(level, PREDICTIONS[prediction], gamma), expected)


@pytest.mark.parametrize("path", PATHS)
def test_min_snr_weighs_the_row_alike_whatever_is_predicted(path):
    """The weighted error of an output is the capped ratio times the error of the row it stands for."""
    level = PATHS[path](TIMES[1:-1])
    x, noise, off = torch.randn(3, 99, generator=generator(2), dtype=torch.float64)
    for kind in PREDICTIONS.values():
        target = kind.target(level, x, noise)
        error = (kind.row(level, level.mix(x, noise), target + off) - x).square()
        weighted = min_snr_weight(level, kind, 5.0) * off.square()
        torch.testing.assert_close(weighted, (level.alpha / level.sigma).square().clamp(max=5) * error)
