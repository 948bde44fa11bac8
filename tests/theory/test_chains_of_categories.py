"""The recursion against the truth table: categories and bins, which drift as the genes of a small population do.

The table's values are exact expectations. Each comes with the standard deviation of the statistic over single chains,
so R independent replicates must agree within 4.5 standard errors, and the closed form of ``collapse.theory`` must
agree to the seven digits printed. Row names and t, which counts model fits, are those of the table; fit t is
generation t - 1.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from collapse import theory
from collapse.data import GaussianData
from collapse.data.discrete import CategoricalData, ZipfData
from collapse.mitigations import AnchorReplay, DataAccumulation, Mitigation
from collapse.models.estimators.categorical import Categorical
from collapse.models.estimators.histogram import Histogram
from collapse.recursion import run_chain
from collapse.theory import categorical

SIGMAS = 4.5
MANY = 20_000
FOUR = (0.4, 0.3, 0.2, 0.1)
POOL = (DataAccumulation(),)


# --- the chains -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """A chain of R replicates; ``rows`` of gold, by default as many as samples."""

    samples: int
    generations: int
    probabilities: tuple[float, ...] = FOUR
    rows: int = 0
    mitigations: tuple[Mitigation, ...] = ()
    smoothing: float = 0.0
    temperature: float = 1.0
    replicates: int = 2000

    @property
    def gold(self):
        return self.rows or self.samples


class Fits(NamedTuple):
    """What a chain leaves behind."""

    probabilities: Tensor  # (T, R, K)
    pool: Tensor | None  # (R, K), frequencies among all rows up to the last fit; only of runs that accumulate


def execute(run: Run) -> Fits:
    chain = run_chain(
        Categorical(len(run.probabilities), run.smoothing, run.replicates, temperature=run.temperature),
        CategoricalData(run.gold, run.probabilities, replicates=run.replicates, reference_rows=1),
        generations=run.generations,
        samples_per_generation=run.samples,
        mitigations=run.mitigations,
        evaluate=False,
    )
    probabilities = torch.stack([chain.state(index)["probabilities"] for index in range(run.generations)])
    if not any(isinstance(mitigation, DataAccumulation) for mitigation in run.mitigations):
        return Fits(probabilities, None)
    pool = chain.store.pool([chain.store.manifest(index) for index in range(run.generations)])
    rows = pool.gather(torch.arange(len(pool))).x
    counts = torch.stack([(rows == category).double().mean(0) for category in range(len(run.probabilities))], dim=1)
    return Fits(probabilities, counts)


@pytest.fixture(scope="module")
def fits_of():
    """Every chain of this file, run once."""
    return functools.cache(execute)


# --- the statistics ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fit:
    """Fit t of every replicate, with what a statistic compares it to."""

    run: Run
    fits: Fits
    t: int

    p = property(lambda fit: fit.fits.probabilities[fit.t - 1])
    real = property(lambda fit: torch.tensor(fit.run.probabilities, dtype=torch.float64))
    dead = property(lambda fit: (fit.p == 0).double())


def heterozygosity(p):
    """Probability that two draws differ, averaged over replicates."""
    return (1 - p.square().sum(1)).mean()


def fixation_times(probabilities):
    """Number of fits until one category is left, (R,); the number of all fits and one more where that never comes."""
    return 1 + ((probabilities > 0).sum(2) > 1).double().sum(0)


def absorption_time(fit):
    """Mean number of fits until one category is left."""
    assert ((fit.fits.probabilities[-1] > 0).sum(1) == 1).all(), "the chain ended before it was absorbed"
    return fixation_times(fit.fits.probabilities).mean()


STATISTICS: dict[str, Callable[[Fit], Tensor]] = {
    "E_heterozygosity": lambda fit: heterozygosity(fit.p),
    "E_heterozygosity_model": lambda fit: heterozygosity(fit.p),
    "E_heterozygosity_pool": lambda fit: heterozygosity(fit.fits.pool),
    "E_sum_p2": lambda fit: fit.p.square().sum(1).mean(),
    "E_L2sq": lambda fit: (fit.p - fit.real).square().sum(1).mean(),
    "E_p_first": lambda fit: fit.p[:, 0].mean(),
    "Var_p_first": lambda fit: fit.p[:, 0].var(),
    "E_support": lambda fit: (1 - fit.dead).sum(1).mean(),
    "E_forgotten_mass": lambda fit: (fit.dead @ fit.real).mean(),
    "P_extinct_last": lambda fit: fit.dead[:, -1].mean(),
    "E_entropy": lambda fit: torch.special.entr(fit.p).sum(1).mean(),
    "E_revKL": lambda fit: (torch.xlogy(fit.p, fit.p / fit.real)).sum(1).mean(),
    "E_absorption_time": absorption_time,
}


# --- the closed forms of collapse.theory, regime by regime ------------------------------------------------------------


def replace_laws(run, t):
    law = {"probabilities": run.probabilities}
    expected = categorical.replace_expected_heterozygosity(t, run.samples, **law)
    return {
        "E_heterozygosity": expected,
        "E_sum_p2": 1 - expected,
        "E_L2sq": categorical.replace_expected_l2(t, run.samples, **law),
        "Var_p_first": categorical.replace_probability_variance(t, run.samples, **law)[0],
        "E_support": categorical.replace_expected_support(t, run.samples, **law),
        "E_forgotten_mass": categorical.replace_expected_forgotten_mass(t, run.samples, **law),
        "P_extinct_last": categorical.replace_extinction_probabilities(t, run.samples, **law)[-1],
        "E_entropy": categorical.replace_expected_entropy(t, run.samples, **law),
        "E_revKL": categorical.replace_expected_reverse_kl(t, run.samples, **law),
    }


def absorption_laws(run, t):
    return {
        "E_absorption_time": categorical.replace_expected_absorption_time(run.samples, probabilities=run.probabilities)
    }


def smoothing_laws(run, t):
    law = {"probabilities": run.probabilities, "pseudocount": run.smoothing}
    return {
        "E_heterozygosity": categorical.smoothing_expected_heterozygosity(t, run.samples, **law),
        "E_p_first": categorical.smoothing_expected_probabilities(t, run.samples, **law)[0],
    }


def smoothing_stationary_laws(run, t):
    law = {"categories": len(run.probabilities), "pseudocount": run.smoothing}
    return {"E_heterozygosity": categorical.smoothing_stationary_heterozygosity(run.samples, **law)}


def real_fraction(run):
    """The arguments that the laws of fresh rows and of anchors share."""
    anchors = run.mitigations[0]
    real = round(anchors.fraction * run.samples)
    law = {"n_real": real, "n_synthetic": run.samples - real, "probabilities": run.probabilities}
    return law if anchors.rows == "fresh" else law | {"dataset_size": real}


def mixed_laws(run, t):
    law = real_fraction(run)
    return {"E_heterozygosity": categorical.real_fraction_expected_heterozygosity(t, n_first=law["n_real"], **law)}


def mixed_stationary_laws(run, t):
    return {"E_heterozygosity": categorical.real_fraction_stationary_heterozygosity(**real_fraction(run))}


def coin_laws(run, t):
    law = {"real_fraction": run.mitigations[0].fraction, "probabilities": run.probabilities}
    return {"E_heterozygosity": categorical.independent_mixture_expected_heterozygosity(t, run.samples, **law)}


def coin_stationary_laws(run, t):
    law = {"real_fraction": run.mitigations[0].fraction, "probabilities": run.probabilities}
    return {"E_heterozygosity": categorical.independent_mixture_stationary_heterozygosity(run.samples, **law)}


def accumulate_laws(run, t):
    law = {"probabilities": run.probabilities}
    return {
        "E_heterozygosity": categorical.accumulate_expected_heterozygosity(t, run.samples, **law),
        "Var_p_first": categorical.accumulate_probability_variance(t, run.samples, **law)[0],
        "E_support": categorical.accumulate_expected_support(t, run.samples, **law),
        "E_L2sq": categorical.accumulate_expected_l2(t, run.samples, **law),
    }


def subsample_laws(run, t):
    law = {"size": run.mitigations[0].subsample, "probabilities": run.probabilities}
    moments = categorical.accumulate_subsample_expected_heterozygosity(t, run.samples, **law)
    return dict(zip(("E_heterozygosity_model", "E_heterozygosity_pool"), moments, strict=True))


# --- the table --------------------------------------------------------------------------------------------------------


class Row(NamedTuple):
    """A row of the truth table: fit t of a chain."""

    run: Run
    t: int
    laws: Callable[[Run, int], dict[str, float]]
    quantities: tuple[str, ...]
    expected: tuple[float, ...]
    deviation: tuple[float, ...]  # standard deviation over single chains

    def z(self, quantity, fits, t):
        """Distance of fit t from the expectation, in standard errors."""
        column, replicates = self.quantities.index(quantity), fits.probabilities.shape[1]
        error = float(STATISTICS[quantity](Fit(self.run, fits, t))) - self.expected[column]
        return error / (self.deviation[column] / replicates**0.5)


def mixed(kind, gold):
    """5 real and 15 synthetic rows, for the 60 fits after which the law is stationary."""
    return Run(20, 60, rows=gold, mitigations=(AnchorReplay(0.25, kind),))


H = ("E_heterozygosity",)
FRESH = mixed("fresh", 5 + 59 * 5)  # the first fit has 5 rows
ANCHORS = mixed("fixed", 5)
COINS = mixed("coin", 20 + 59 * 20)  # as many real rows as a fit has are dealt to each
SMOOTHED = Run(20, 60, smoothing=0.5, replicates=10_000)  # stationary to six digits

ROWS = {
    "C1": Row(
        Run(20, 10, replicates=MANY),
        10,
        replace_laws,
        (
            *H,
            "E_sum_p2",
            "E_L2sq",
            "Var_p_first",
            "E_support",
            "E_forgotten_mass",
            "P_extinct_last",
            "E_entropy",
            "E_revKL",
        ),
        (0.4191159, 0.5808841, 0.2808841, 0.09630313, 2.438989, 0.3055328, 0.6757925, 0.6761011, 0.6037531),
        (0.1893, 0.1893, 0.1901, 0.09442, 0.7213, 0.1869, 0.4685, 0.3153, 0.3381),
    ),
    "C2": Row(SMOOTHED, 10, smoothing_laws, (*H, "E_p_first"), (0.6141556, 0.3078315), (0.09697, 0.1972)),
    "C2.stat": Row(SMOOTHED, 60, smoothing_stationary_laws, H, (0.6057692,), (0.1026,)),
    "C3.fresh": Row(FRESH, 10, mixed_laws, H, (0.6261149,), (0.0813,)),
    "C3.fresh.stat": Row(FRESH, 60, mixed_stationary_laws, H, (0.6263158,), (0.08146,)),
    "C3.anchor": Row(ANCHORS, 10, mixed_laws, H, (0.5159234,), (0.1463,)),
    "C3.anchor.stat": Row(ANCHORS, 60, mixed_stationary_laws, H, (0.5157895,), (0.1458,)),
    "C3.iid": Row(COINS, 10, coin_laws, H, (0.6249749,), (0.08336,)),
    "C3.iid.stat": Row(COINS, 60, coin_stationary_laws, H, (0.6248322,), (0.08317,)),
    "C4": Row(
        Run(20, 10, mitigations=POOL, replicates=MANY),
        10,
        accumulate_laws,
        (*H, "Var_p_first", "E_support", "E_L2sq"),
        (0.6469024, 0.0182049, 3.86606, 0.05309763),
        (0.06622, 0.02413, 0.3436, 0.04423),
    ),
    "C5": Row(
        Run(20, 10, mitigations=(DataAccumulation(subsample=20),)),
        10,
        subsample_laws,
        ("E_heterozygosity_model", "E_heterozygosity_pool"),
        (0.6117074, 0.640683),
        (0.09273, 0.07075),
    ),
    "C6.1": Row(
        Run(20, 250, (0.5, 0.5), replicates=5000), 250, absorption_laws, ("E_absorption_time",), (26.22949,), (19.76,)
    ),
    "C6.2": Row(
        Run(20, 250, (0.1, 0.9), replicates=5000), 250, absorption_laws, ("E_absorption_time",), (11.98066,), (16.18,)
    ),
}
CELLS = [(name, quantity) for name, row in ROWS.items() for quantity in row.quantities]


@pytest.mark.parametrize(("name", "quantity"), CELLS)
def test_chains_have_the_moments_of_the_table(name, quantity, fits_of):
    row = ROWS[name]
    assert abs(row.z(quantity, fits_of(row.run), row.t)) < SIGMAS


@pytest.mark.parametrize("name", ROWS)
def test_table_has_the_values_of_the_closed_forms(name):
    row = ROWS[name]
    laws = row.laws(row.run, row.t)
    assert [laws[quantity] for quantity in row.quantities] == pytest.approx(row.expected, rel=1e-6, abs=0)


# --- the table can fail -----------------------------------------------------------------------------------------------

WRONG = {  # what is wrong: a row, the statistic that tells, and the chain that is run in place of the row's
    "one generation too many": ("C1", "E_heterozygosity", {"generations": 11}),
    "one generation too few": ("C1", "E_heterozygosity", {"generations": 9}),
    "a sampler that sharpens": ("C1", "E_heterozygosity", {"temperature": 0.95}),
    "smoothing where there is none": ("C1", "E_support", {"smoothing": 0.01}),
    "no smoothing": ("C2", "E_heterozygosity", {"generations": 10, "smoothing": 0.0}),
    "one row of smoothing for all categories": ("C2", "E_heterozygosity", {"generations": 10, "smoothing": 0.5 / 4}),
    "anchors for fresh rows": (
        "C3.fresh",
        "E_heterozygosity",
        {"generations": 10, "rows": 5, "mitigations": ANCHORS.mitigations},
    ),
    "fresh rows for anchors": (
        "C3.anchor",
        "E_heterozygosity",
        {"generations": 10, "rows": 5 + 9 * 5, "mitigations": FRESH.mitigations},
    ),
    "replace for accumulate": ("C4", "E_heterozygosity", {"mitigations": (), "replicates": 2000}),
    "a subsample for the pool": (
        "C4",
        "E_heterozygosity",
        {"mitigations": (DataAccumulation(20),), "replicates": 2000},
    ),
}


@pytest.mark.parametrize("fault", WRONG)
def test_a_wrong_chain_misses_the_row(fault):
    name, quantity, changes = WRONG[fault]
    row = ROWS[name]
    fits = execute(dataclasses.replace(row.run, **changes))
    assert abs(row.z(quantity, fits, changes.get("generations", row.t))) > SIGMAS


# --- C7, D3, T7: one chain each ---------------------------------------------------------------------------------------


def test_zipf_row():  # C7
    replicates = 400
    chain = run_chain(
        Categorical(20_000, replicates=replicates),
        ZipfData(1000, 20_000, exponent=1.5, replicates=replicates, reference_rows=1),
        generations=1,
        samples_per_generation=1,
        evaluate=False,
    )
    dead, p = chain.state(0)["probabilities"] == 0, categorical.zipf_probabilities(20_000, exponent=1.5)
    missing = dead.double() @ torch.from_numpy(p)
    assert float((~dead).sum(1).double().mean()) == pytest.approx(135.8189, abs=SIGMAS * 8.335 / replicates**0.5)
    assert float(missing.mean()) == pytest.approx(0.08903358, abs=SIGMAS * 0.004235 / replicates**0.5)
    assert categorical.first_fit_expected_support(1000, probabilities=p) == pytest.approx(135.8189, rel=1e-6)
    assert categorical.first_fit_expected_missing_mass(1000, probabilities=p) == pytest.approx(0.08903358, rel=1e-6)


def test_a_sharpened_chain_takes_the_power_of_the_law():  # D3: gold is not sharpened, so the power is that of t - 1
    run = Run(100_000, 5, (0.5, 0.3, 0.2), temperature=0.8, replicates=25)
    p = execute(run).probabilities[-1]
    error = p.mean(0) - torch.tensor([0.7173077665, 0.2061021913, 0.0765900422], dtype=torch.float64)
    assert (error.abs() < SIGMAS * p.std(0) / 25**0.5).all()
    assert (p.std(0) < 0.01).all()


def capped_time(n, categories, fits):
    """E min(T, fits) for the number of fits T until one of K equal categories is left, by the binomial chain."""
    counts = np.arange(n + 1)
    step, first = (stats.binom.pmf(counts, n, np.atleast_1d(p)[:, None]) for p in (counts / n, 1 / categories))
    fixed, total = (counts == n).astype(float), 1.0
    for _ in range(1, fits):
        total += 1 - categories * float(first[0] @ fixed)
        fixed = step @ fixed
    return total


def test_time_to_one_symbol():  # T7
    replicates, fits, law = 3000, 300, {"probabilities": [0.1] * 10}
    assert capped_time(100, 10, 5000) == pytest.approx(
        categorical.replace_expected_absorption_time(100, **law), rel=1e-9
    )
    assert categorical.replace_diffusion_absorption_time(100, **law) == pytest.approx(189.6, abs=0.05)
    assert capped_time(100, 10, 5000) == pytest.approx(189.6, abs=3)
    probabilities = execute(Run(100, fits, (0.1,) * 10, replicates=replicates)).probabilities
    times = fixation_times(probabilities[:-1])  # of those not absorbed before the last fit, its number
    assert float(times.mean()) == pytest.approx(
        capped_time(100, 10, fits), abs=SIGMAS * float(times.std()) / replicates**0.5
    )
    diversity = 1 - probabilities[99].square().sum(1)
    assert categorical.replace_expected_heterozygosity(100, 100, **law) == pytest.approx(0.3294, abs=5e-5)
    assert float(diversity.mean()) == pytest.approx(0.3294, abs=SIGMAS * float(diversity.std()) / replicates**0.5)


# --- K5: bins ---------------------------------------------------------------------------------------------------------


@functools.cache
def shares_of_bins():
    """Shares after 1 and 10 fits of 20 normal rows to bins of width 1/2, (2, R, 24)."""
    chain = run_chain(
        Histogram(-6.0, 6.0, 24, replicates=MANY),
        GaussianData(20, replicates=MANY, reference_rows=1),
        generations=10,
        samples_per_generation=20,
        evaluate=False,
    )
    return torch.stack([chain.state(index)["probabilities"] for index in (0, 9)])


def test_histogram_row():  # K5
    centers = torch.arange(-5.75, 6, 0.5, dtype=torch.float64)
    moments = shares_of_bins() @ (centers.square() + 0.5**2 / 12)
    assert theory.kde.histogram_second_moment(width=0.5) == pytest.approx(1.041667, rel=1e-6)
    assert float(moments[1].mean()) == pytest.approx(1.041667, abs=SIGMAS * 0.9125 / MANY**0.5)
    assert float(moments[0].mean()) == pytest.approx(1.041667, abs=SIGMAS * float(moments[0].std()) / MANY**0.5)


def test_bins_drift_as_categories_do():
    edges = stats.norm.cdf(np.arange(-6, 6.25, 0.5))
    for shares, t in zip(shares_of_bins(), (1, 10), strict=True):
        expected = categorical.replace_expected_heterozygosity(
            t, 20, probabilities=np.diff(edges) / np.diff(edges).sum()
        )
        diversity = 1 - shares.square().sum(1)
        assert float(diversity.mean()) == pytest.approx(expected, abs=SIGMAS * float(diversity.std()) / MANY**0.5)


# --- what must not matter ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mitigations", [(), POOL, (AnchorReplay(0.3, "redrawn"),)], ids=["replace", "pool", "mixed"])
def test_batch_size_does_not_matter(mitigations):
    states = []
    for batch_size in (None, 3):
        data = CategoricalData(10, FOUR, replicates=7, reference_rows=1, batch_size=batch_size)
        options = {"generations": 5, "samples_per_generation": 10, "mitigations": mitigations, "evaluate": False}
        chain = run_chain(Categorical(4, replicates=7), data, **options)
        states.append([chain.state(index)["counts"] for index in range(5)])
    assert all(torch.equal(one, other) for one, other in zip(*states, strict=True))


def test_the_dead_do_not_return(fits_of):
    for name in ("C1", "C6.1"):
        fits = fits_of(ROWS[name].run)
        for before, after in itertools.pairwise(fits.probabilities):
            assert not ((before == 0) & (after > 0)).any()
