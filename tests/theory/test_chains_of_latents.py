"""Mixtures, PPCA, diffusion samplers and retraining through ``run_chain`` against the truth table: X1, D1, D2, B1.

As in ``test_chain_laws``: exact expectations, and the standard deviation of each statistic over single chains. Where
the table's value is that of infinitely many rows, a chain of many rows must reach it within its own standard error.
"""

import functools
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from collapse.data import GaussianData
from collapse.data.toy import GaussianMixtureData
from collapse.mitigations import AnchorReplay, DataAccumulation, Mitigation
from collapse.models.estimators.diffusion import GaussianDiffusion
from collapse.models.estimators.gaussian import Gaussian
from collapse.models.estimators.mixture import GaussianMixture
from collapse.models.estimators.ppca import PPCA
from collapse.recursion import run_chain
from collapse.theory import categorical, diffusion, stability

SIGMAS = 4.5


def chain_of(model, data, generations, samples, **options):
    """Run a chain without evaluation."""
    return run_chain(model, data, generations=generations, samples_per_generation=samples, evaluate=False, **options)


def estimate(values):
    """Mean over replicates (R, ...), and its standard error."""
    return float(values.mean()), float(values.std()) / len(values) ** 0.5


# --- X1: the weights of separated components are categories ----------------------------------------------------------

WEIGHTS = (0.5, 0.3, 0.2)
CENTERS = ((0.0,), (100.0,), (200.0,))


@dataclass(frozen=True)
class Mixed:
    """A chain of mixtures that know where their three components are, 30 rows a generation."""

    generations: int = 8
    samples: int = 30
    mitigations: tuple[Mitigation, ...] = ()
    initialization: str = "fresh"
    replicates: int = 2000


@functools.cache
def weights_of(run: Mixed) -> Tensor:
    """Return the last model's weights, (R, 3)."""
    data = GaussianMixtureData(WEIGHTS, CENTERS, rows=run.samples, replicates=run.replicates, reference_rows=1)
    model = GaussianMixture(3, replicates=run.replicates, start=CENTERS)
    options = {"mitigations": run.mitigations, "initialization": run.initialization}
    return chain_of(model, data, run.generations, run.samples, **options).state(-1)["weights"]


MIXTURE = {  # quantity: expectation, standard deviation over single chains
    "E_heterozygosity": (0.4727218, 0.1494),
    "E_support": (2.638206, 0.514),
    "P_extinct_last": (0.2397654, 0.4279),
}


def mixture_z(quantity, weights):
    """Distance from the table's row, in standard errors."""
    found = {
        "E_heterozygosity": 1 - weights.square().sum(1).mean(),
        "E_support": (weights > 0).sum(1).double().mean(),
        "P_extinct_last": (weights[:, 2] == 0).double().mean(),
    }
    expected, deviation = MIXTURE[quantity]
    return float(found[quantity] - expected) / (deviation / len(weights) ** 0.5)


@pytest.mark.parametrize("initialization", ["fresh", "warm"])  # from the centers, from the last generation's model
@pytest.mark.parametrize("quantity", MIXTURE)
def test_components_die_as_categories_do(quantity, initialization):
    weights = weights_of(Mixed(initialization=initialization))
    assert abs(mixture_z(quantity, weights)) < SIGMAS
    torch.testing.assert_close(30 * weights, (30 * weights).round(), rtol=0, atol=1e-9)  # every row has one owner


def test_the_mixture_row_has_the_values_of_the_closed_forms():
    law = {
        "E_heterozygosity": categorical.replace_expected_heterozygosity(8, 30, probabilities=WEIGHTS),
        "E_support": categorical.replace_expected_support(8, 30, probabilities=WEIGHTS),
        "P_extinct_last": categorical.replace_extinction_probabilities(8, 30, probabilities=WEIGHTS)[2],
    }
    assert [law[quantity] for quantity in MIXTURE] == pytest.approx([cell[0] for cell in MIXTURE.values()], rel=1e-6)


@pytest.mark.parametrize(
    ("quantity", "changes"),
    [
        ("E_heterozygosity", {"generations": 9, "replicates": 10_000}),
        ("E_support", {"mitigations": (DataAccumulation(),)}),
        ("E_heterozygosity", {"samples": 20}),
    ],
    ids=["one generation too many", "accumulate for replace", "fewer rows"],
)
def test_a_wrong_chain_of_mixtures_misses_the_row(quantity, changes):
    assert abs(mixture_z(quantity, weights_of(Mixed(**changes)))) > SIGMAS


# --- D1: a sampler of finitely many steps -----------------------------------------------------------------------------


class SamplerRow(NamedTuple):
    """Moments of the samples of a model of N(1, 1/4), and of those of the fifth generation."""

    mean: float
    variance: float
    fifth_mean: float
    fifth_variance: float


SAMPLERS = {
    "ddpm_beta": SamplerRow(0.998842, 0.2625968, 0.9936416864, 0.3132551335),
    "ddpm_posterior": SamplerRow(0.998842, 0.2085494, 0.9959229771, 0.08719375991),
    "ddim": SamplerRow(0.9673596, 0.2307999, 0.858621318, 0.1629687237),
}
BETAS = np.linspace(1e-4, 0.2, 50)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_samplers_have_the_moments_of_the_table(sampler):
    row, n = SAMPLERS[sampler], 200_000
    model = GaussianDiffusion(sampler=sampler)
    state = {"mean": torch.ones(1, 1), "covariance": torch.full((1, 1, 1), 0.25), "count": torch.full((1,), torch.inf)}
    model.load_state_dict(state, strict=False)
    x = model.sample(n, torch.Generator().manual_seed(0))
    assert abs(float(x.mean()) - row.mean) < SIGMAS * (row.variance / n) ** 0.5
    assert abs(float(x.var()) / row.variance - 1) < SIGMAS * (2 / n) ** 0.5


@functools.cache
def chain_of_samplers(sampler):
    """Six diffusion models: the sixth is fitted to the samples of the fifth."""
    data = GaussianData(20_000, mean=1.0, std=0.5, replicates=20, reference_rows=1)
    model = GaussianDiffusion(sampler=sampler, replicates=20)
    return chain_of(model, data, 6, 20_000, chunk_size=20_000)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_five_generations_multiply_the_bias(sampler):
    row, state = SAMPLERS[sampler], chain_of_samplers(sampler).state(-1)
    for buffer, expected in (("mean", row.fifth_mean), ("covariance", row.fifth_variance)):
        found, error = estimate(state[buffer])
        assert abs(found - expected) < SIGMAS * error


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_four_generations_miss_the_row_of_five(sampler):
    found, error = estimate(chain_of_samplers(sampler).state(-2)["covariance"])
    assert abs(found - SAMPLERS[sampler].fifth_variance) > SIGMAS * error


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_sampler_rows_have_the_values_of_the_closed_forms(sampler):
    row = SAMPLERS[sampler]
    once = diffusion.output_moments(BETAS, sampler, mean=1.0, variance=0.25)
    fifth = diffusion.generation_moments(5, BETAS, kind=sampler, mean=1.0, variance=0.25)
    assert [*once, *fifth] == pytest.approx(list(row), rel=1e-6)


# --- D2: PPCA keeps the trace -----------------------------------------------------------------------------------------

SPECTRUM = (3.0, 2.0, 1.0, 0.5)
COMPONENTS = {"E_trace": (4.206981, 3.144), "E_mu_sqerr": (2.293019, 2.313)}


@dataclass(frozen=True)
class Reduced:
    """A chain of PPCA models of a law with the eigenvalues of ``SPECTRUM``, 12 rows a generation."""

    generations: int = 5
    latent_dim: int = 2
    ddof: int = 0
    mitigations: tuple[Mitigation, ...] = ()
    replicates: int = 20_000


@functools.cache
def components_of(run: Reduced) -> dict[str, Tensor]:
    """Return the last model's state."""
    std = [value**0.5 for value in SPECTRUM]
    data = GaussianData(12, 4, std=std, replicates=run.replicates, reference_rows=1)
    model = PPCA(4, run.latent_dim, ddof=run.ddof, replicates=run.replicates)
    return chain_of(model, data, run.generations, 12, mitigations=run.mitigations).state(-1)


def components_z(quantity, state):
    """Distance from the table's row, in standard errors."""
    found = {
        "E_trace": state["covariance"].diagonal(dim1=1, dim2=2).sum(1).mean(),
        "E_mu_sqerr": state["mean"].square().sum(1).mean(),
    }
    expected, deviation = COMPONENTS[quantity]
    return float(found[quantity] - expected) / (deviation / len(state["mean"]) ** 0.5)


@pytest.mark.parametrize("latent_dim", [0, 2, 3])
@pytest.mark.parametrize("quantity", COMPONENTS)
def test_ppca_keeps_the_trace_whatever_its_latent_dimension(quantity, latent_dim):
    assert abs(components_z(quantity, components_of(Reduced(latent_dim=latent_dim)))) < SIGMAS


def test_the_ppca_rows_have_the_values_of_the_closed_forms():
    law = {"covariance": np.diag(SPECTRUM)}
    assert stability.ppca_expected_trace(5, 12, **law) == pytest.approx(4.206981, rel=1e-6)
    assert stability.ppca_mean_square_error(5, 12, **law) == pytest.approx(2.293019, rel=1e-6)
    assert stability.ppca_noise_variance(np.diag(SPECTRUM), 2) == 0.75


@pytest.mark.parametrize(
    ("quantity", "changes"),
    [
        ("E_trace", {"ddof": 1}),
        ("E_trace", {"generations": 6}),
        ("E_mu_sqerr", {"generations": 4}),
        ("E_mu_sqerr", {"mitigations": (DataAccumulation(),)}),
    ],
    ids=["unbiased for maximum likelihood", "one generation too many", "one too few", "accumulate for replace"],
)
def test_a_wrong_chain_of_ppca_misses_the_row(quantity, changes):
    assert abs(components_z(quantity, components_of(Reduced(**changes)))) > SIGMAS


def rows_with(covariance, n=12):
    """Rows whose sample covariance (ddof=0) is exactly this."""
    x = torch.randn(n, len(covariance), dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    white = torch.linalg.qr(x - x.mean(0)).Q * n**0.5
    return white @ torch.linalg.cholesky(covariance).T


def test_the_limit_of_many_rows_is_reached_at_once_and_stays():
    model = PPCA(4, 2)
    model.fit(rows_with(torch.diag(torch.tensor(SPECTRUM, dtype=torch.float64))))
    assert float(model.noise_variance) == pytest.approx(0.75, rel=1e-12)
    first = model.covariance.clone()
    torch.testing.assert_close(first[0], torch.diag(torch.tensor([3.0, 2.0, 0.75, 0.75], dtype=torch.float64)))
    model.fit(rows_with(first[0]))
    torch.testing.assert_close(model.covariance, first, rtol=0, atol=1e-9)


# --- B1: retraining on real and synthetic rows ------------------------------------------------------------------------


class Misled(Gaussian):
    """A Gaussian whose generation 0 is N(1, 4), whatever it saw."""

    def finish(self):
        super().finish()
        if self.clock is not None and self.clock.generation == 0:
            self.mean.fill_(1.0)
            self.covariance.fill_(4.0)


RETRAINING = {  # ratio of synthetic to real rows, retrainings; mean and variance of the last model for the law N(0, 1)
    "B1.1": (0.5, 3, 0.03703703704, 1.146776406),
    "B1.2": (2.0, 10, 0.01734152992, 1.069065391),
}


@functools.cache
def retrained(share, times):
    """Mean and variance after retraining on 6000 rows, a share of them real, with their standard errors."""
    chains, rows = 50, 6000
    data = GaussianData(2 + times * round(share * rows), replicates=chains, reference_rows=1)
    anchors = (AnchorReplay(share, "fresh"),)
    model = Misled(1, replicates=chains)
    state = chain_of(model, data, times + 1, rows, mitigations=anchors, chunk_size=rows).state(-1)
    return estimate(state["mean"]), estimate(state["covariance"])


@pytest.mark.parametrize("name", RETRAINING)
def test_retraining_forgets_a_wrong_start(name):
    lam, times, mean, variance = RETRAINING[name]
    for (found, error), expected in zip(retrained(1 / (1 + lam), times), (mean, variance), strict=True):
        assert abs(found - expected) < SIGMAS * error


@pytest.mark.parametrize(("share", "times"), [(0.5, 3), (2 / 3, 2), (2 / 3, 4)], ids=["lam for share", "few", "many"])
def test_another_share_or_number_of_retrainings_misses_the_row(share, times):
    _, _, _, variance = RETRAINING["B1.1"]
    _, (found, error) = retrained(share, times)
    assert abs(found - variance) > SIGMAS * error


@pytest.mark.parametrize("name", RETRAINING)
def test_the_retraining_rows_have_the_values_of_the_closed_form(name):
    lam, times, mean, variance = RETRAINING[name]
    real, initial = (stability.GaussianLaw(np.array([m]), np.array([[v]])) for m, v in ((0.0, 1.0), (1.0, 4.0)))
    law = stability.retraining_law(real, initial, lam=lam, times=times)
    assert [law.mean[0], law.covariance[0, 0]] == pytest.approx([mean, variance], rel=1e-9)
