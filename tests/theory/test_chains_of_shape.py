"""The shape of a covariance under replace: its eigenvalues fall at rates of their own, so that it becomes a needle."""

import pytest
import torch

from collapse.data import GaussianData
from collapse.models import Gaussian
from collapse.recursion import run_chain
from collapse.theory import gaussian

SIGMAS = 4.5
REPLICATES = 2000
EXPECTED = {"top": -0.09365494, "bottom": -0.1986304}  # per generation, of the logarithm; asymptotic in t
# The windows, in fits. From fit 100 on the needle of some chains is thinner than the rounding of its length,
# so that the smaller eigenvalue cannot be read off a covariance any more; sampling, by eigenvalues, goes on.
WINDOWS = {"top": (100, 200), "bottom": (50, 100)}


@pytest.fixture(scope="module")
def slopes():
    """Slopes of the logarithms of the eigenvalues over their windows, by name, (R,) each."""
    fits = {fit for window in WINDOWS.values() for fit in window}
    chain = run_chain(
        Gaussian(2, ddof=1, replicates=REPLICATES),
        GaussianData(12, 2, replicates=REPLICATES, reference_rows=1),
        generations=200,
        samples_per_generation=12,
        keep_weights={fit - 1 for fit in fits},
        evaluate=False,
    )
    values = {fit: torch.linalg.eigvalsh(chain.state(fit - 1)["covariance"]).log() for fit in fits}
    place = {"bottom": 0, "top": 1}
    return {
        end: (values[late] - values[early])[:, place[end]] / (late - early) for end, (early, late) in WINDOWS.items()
    }


def distance(found, rate):
    """Of the mean slope from a rate, in standard errors."""
    return abs(float(found.mean()) - rate) / (float(found.std()) / REPLICATES**0.5)


@pytest.mark.parametrize("end", EXPECTED)
def test_eigenvalues_fall_at_the_rates_of_the_table(end, slopes):  # G6.1
    assert distance(slopes[end], EXPECTED[end]) < SIGMAS


def test_the_rates_are_those_of_the_closed_form():
    rates = gaussian.replace_log_eigenvalue_rates(12, 2, ddof=1)
    assert list(rates) == pytest.approx(list(EXPECTED.values()), rel=1e-6)


def test_another_divisor_has_other_rates(slopes):
    for end, rate in zip(EXPECTED, gaussian.replace_log_eigenvalue_rates(12, 2, ddof=0), strict=True):
        assert distance(slopes[end], rate) > SIGMAS
