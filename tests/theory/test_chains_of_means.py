"""Chains that fit a mean of known variance: weighted likelihood, and the three pathways at a glance."""

import functools
import warnings
from typing import NamedTuple

import pytest
import torch

from collapse import theory
from collapse.data import GaussianData
from collapse.mitigations import AnchorReplay, DataAccumulation, Mitigation, NoEffectWarning, WeightedLikelihood
from collapse.models import Gaussian
from collapse.recursion import run_chain

SIGMAS = 4.5
REPLICATES = 2000
GOLDEN = (5**0.5 - 1) / 2


class Run(NamedTuple):
    """A chain of means; ``rows`` of gold."""

    rows: int
    samples: int
    fits: int
    mitigations: tuple[Mitigation, ...] = ()


@functools.cache
def square_errors(run: Run) -> torch.Tensor:
    """Squared errors of the mean of N(0, 1), (T, R)."""
    chain = run_chain(
        Gaussian(known_variance=1.0, replicates=REPLICATES),
        GaussianData(run.rows, replicates=REPLICATES, reference_rows=1),
        generations=run.fits,
        samples_per_generation=run.samples,
        mitigations=run.mitigations,
        evaluate=False,
    )
    return torch.stack([chain.state(index)["mean"][:, 0].square() for index in range(run.fits)])


def assert_mean(found: torch.Tensor, expected: float):
    """A squared normal variable of variance v has standard deviation sqrt(2) v."""
    assert abs(float(found.mean()) - expected) < SIGMAS * 2**0.5 * expected / len(found) ** 0.5


def weighted(share: float | None, fits: int = 15) -> Run:
    mitigations = (AnchorReplay(0.5, "fresh"), *([] if share is None else [WeightedLikelihood(share)]))
    return Run(20 + (fits - 1) * 20, 40, fits, mitigations)


def test_golden_ratio_row():  # A7.1
    found = square_errors(weighted(GOLDEN))[14]
    assert abs(float(found.mean()) - 0.0309017) < SIGMAS * 0.04364 / REPLICATES**0.5


@pytest.mark.parametrize("share", [0.3, GOLDEN, 0.9, 1.0])
def test_every_weight_has_its_error(share):  # A7
    law = theory.gaussian.weighted_mean_square_error(15, n_real=20, n_synthetic=20, weight=share)
    assert_mean(square_errors(weighted(share))[14], law)


def test_half_the_weight_on_half_the_rows_is_no_weighting():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NoEffectWarning)  # rightly
        found = square_errors(weighted(0.5))
    torch.testing.assert_close(found, square_errors(weighted(None)), rtol=1e-9, atol=0)


PATHWAYS = {
    "replace": ((), lambda t, n: t / n),
    "accumulate": ((DataAccumulation(),), lambda t, n: sum(1 / i**2 for i in range(1, t + 1)) / n),
}


@pytest.mark.parametrize("t", [10, 50])
@pytest.mark.parametrize("pathway", PATHWAYS)
def test_the_pathways_have_their_errors(pathway, t):
    mitigations, law = PATHWAYS[pathway]
    assert_mean(square_errors(Run(50, 50, 50, mitigations))[t - 1], law(t, 50))


def test_a_subsample_costs_three_halves_of_what_it_looks_like():
    """Three times the sum of 1/i^2, less two, up to O(1/n): 2.649 / n at t = 10."""
    found = square_errors(Run(50, 50, 10, (DataAccumulation(subsample=50),)))[9]
    assert float(found.mean()) * 50 == pytest.approx(2.649, rel=0.1)
