"""The recursion against the truth table: every row of the Gaussian regimes, through ``run_chain``.

The table's values are exact expectations. Each comes with the standard deviation of the statistic over single chains,
so R independent replicates must agree within 4.5 standard errors, and the closed form of ``collapse.theory`` must
agree to the seven digits printed. Row names and t, which counts model fits, are those of the table; fit t is
generation t - 1. Rows with heavy-tailed statistics have R = 20000; the variance of the variance is left out there, as
no feasible number of replicates estimates it.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from collapse import theory
from collapse.data import GaussianData, Origin, RecursiveDataModule, Samples
from collapse.mitigations import AnchorReplay, DataAccumulation, Mitigation, RealOnly
from collapse.models import Gaussian
from collapse.models.estimators import Estimator
from collapse.recursion import run_chain
from collapse.theory import ADDITIVE, Probe

SIGMAS = 4.5
MANY = 20_000
HALF = Probe(real=1.0, factor=0.5, shift=0.0)
POOL = (DataAccumulation(),)


# --- R0, R1: a model without variance ---------------------------------------------------------------------------------


class ProbeModule(Estimator):
    """Fits the mean of its rows, samples ``probe.emit(mean)``, and counts the real rows, replicate by replicate."""

    def __init__(self, probe: Probe, replicates: int | None = None) -> None:
        super().__init__((1,), replicates)
        self.probe = probe
        chains = () if replicates is None else (replicates,)
        self.register_buffer("total", torch.zeros(*chains, 1, dtype=torch.float64))
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))
        self.register_buffer("real", torch.zeros(chains, dtype=torch.float64))

    def begin(self):
        for buffer in self.buffers():
            buffer.zero_()

    def update(self, batch, weights=None):
        self.total += batch.x.sum(0).reshape(self.total.shape)
        self.count += len(batch.x)

    def training_step(self, batch, batch_idx):
        super().training_step(batch, batch_idx)
        self.real += (batch.origin == Origin.REAL).sum(0)  # (R,) where every replicate drew its own rows, else ()

    def loss(self, batch):
        raise NotImplementedError

    def sample(self, n, generator, y=None):
        return self.probe.emit(self.total / self.count).repeat(n, *[1] * self.total.ndim)


class ConstantData(RecursiveDataModule):
    """Gold rows that all have one value."""

    def __init__(self, rows: int, value: float, replicates: int | None = None) -> None:
        super().__init__(batch_size=None)
        self.rows, self.value, self.replicates = rows, value, replicates

    def gold(self):
        chains = () if self.replicates is None else (self.replicates,)
        return Samples(torch.full((self.rows, *chains, 1), self.value, dtype=torch.float64))

    def reference(self):
        return self.gold()


def run_probe(probe, t, *, rows, samples, mitigations, replicates=None):
    """Return the chain's last record and last state."""
    chain = run_chain(
        ProbeModule(probe, replicates),
        ConstantData(rows, probe.real, replicates),
        generations=t,
        samples_per_generation=samples,
        mitigations=mitigations,
        evaluate=False,
    )
    return chain.records[-1], chain.state(-1)


ANCHORED = functools.partial(theory.real_fraction_probe, n_real=5, n_synthetic=15)
ALL_REAL = functools.partial(theory.real_fraction_probe, n_real=10, n_synthetic=0)
POOLED = functools.partial(theory.accumulate_probe, n=10)
POOLED_30 = functools.partial(theory.accumulate_probe, n=10, n0=30)
REFRESHED = functools.partial(theory.accumulate_fresh_probe, n_real=2, n_synthetic=8, n0=10)
PROBES = {  # gold rows, n, mitigations; law; sixth fit of the additive probe and of the halving one; rows, real rows
    "replace": (10, 10, (), theory.replace_probe, 5, 0.03125, 10, 0),
    "accumulate": (10, 10, POOL, POOLED, 1.45, 0.451171875, 60, 10),
    "accumulate.n0": (30, 10, POOL, POOLED_30, 0.8845238095, 0.6284179688, 80, 30),
    "mix.fixed": (20, 20, (AnchorReplay(0.25, "fixed"),), ANCHORED, 2.288085938, 0.4044494629, 20, 5),
    "mix.redrawn": (20, 20, (AnchorReplay(0.25, "redrawn"),), ANCHORED, 2.288085938, 0.4044494629, 20, 5),
    "mix.fresh": (20 + 5 * 5, 20, (AnchorReplay(0.25, "fresh"),), ANCHORED, 2.288085938, 0.4044494629, 20, 5),
    "acc_fresh": (10 + 5 * 2, 10, (AnchorReplay(0.2, "fresh"), *POOL), REFRESHED, 1.037824, 0.5846613333, 60, 20),
    "fresh": (10 + 5 * 10, 10, (AnchorReplay(1.0, "fresh"),), ALL_REAL, 0, 1, 10, 10),
    "real_only": (10, 10, (RealOnly(),), ALL_REAL, 0, 1, 10, 10),
}


@pytest.mark.parametrize("row", PROBES)
@pytest.mark.parametrize("probe", [ADDITIVE, HALF], ids=["add", "mult"])
def test_probe_rows(row, probe):  # R0
    gold, samples, mitigations, law, added, halved, rows, real = PROBES[row]
    record, state = run_probe(probe, 6, rows=gold, samples=samples, mitigations=mitigations)
    fit = float(state["total"] / state["count"])
    assert fit == pytest.approx(added if probe is ADDITIVE else halved, rel=1e-9, abs=1e-12)
    assert fit == pytest.approx(law(6, probe), rel=1e-12, abs=1e-12)
    assert (record.counts["trained"], record.counts["real"]) == (rows, real)
    assert (state["count"], state["real"]) == (rows, real)


def real_counts(replacement):
    """Real rows in the eighth subsample of every replicate, (R,), and the share of them on record."""
    mitigations = (DataAccumulation(subsample=10, replacement=replacement),)
    record, state = run_probe(ADDITIVE, 8, rows=10, samples=10, mitigations=mitigations, replicates=MANY)
    return state["real"], record.real_fraction


def test_provenance_row():  # R1
    counts, share = real_counts(replacement=False)
    assert theory.subsample_real_count(8, n=10, size=10) == pytest.approx((1.25, 0.9691456), rel=1e-6)
    assert float(counts.mean()) == pytest.approx(1.25, abs=SIGMAS * 0.9836 / MANY**0.5)
    assert float(counts.var()) == pytest.approx(0.9691456, abs=SIGMAS * 1.388 / MANY**0.5)
    assert share == pytest.approx(float(counts.mean()) / 10)


def test_subsample_with_replacement_misses_the_provenance_row():
    counts, _ = real_counts(replacement=True)
    assert float(counts.mean()) == pytest.approx(1.25, abs=SIGMAS * (10 / 8 * 7 / 8 / MANY) ** 0.5)  # binomial
    assert abs(float(counts.var()) - 0.9691456) > SIGMAS * 1.388 / MANY**0.5


# --- the chains -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """A chain of R replicates. Real law N(mean, covariance); ``rows`` of gold, by default as many as samples."""

    samples: int
    generations: int
    ddof: int
    rows: int = 0
    mitigations: tuple[Mitigation, ...] = ()
    lam: float = 1.0
    mean: float = 0.0
    covariance: tuple[tuple[float, ...], ...] = ((1.0,),)
    replicates: int | None = 2000
    batch_size: int | None = None

    @property
    def gold(self):
        return self.rows or self.samples


class Fits(NamedTuple):
    """What a chain leaves behind."""

    mean: Tensor  # (T, R, d)
    covariance: Tensor  # (T, R, d, d)
    pool: Tensor | None  # (N, R, d) or (N, d), all rows up to the last fit; only of runs that accumulate
    draw: Tensor  # (R, d) or (d,), a new draw of the last model, at its own variance


def execute(run: Run) -> Fits:
    dim = len(run.covariance)
    data = GaussianData(
        *(run.gold, dim),
        mean=run.mean,
        covariance=run.covariance,
        replicates=run.replicates,
        reference_rows=1,
        batch_size=run.batch_size,
    )
    chain = run_chain(
        Gaussian(dim, run.ddof, run.replicates, variance_multiplier=run.lam),
        data,
        generations=run.generations,
        samples_per_generation=run.samples,
        mitigations=run.mitigations,
        evaluate=False,
    )
    states = [chain.state(generation) for generation in range(run.generations)]
    pool = chain.store.pool([chain.store.manifest(generation) for generation in range(run.generations)])
    accumulates = any(isinstance(mitigation, DataAccumulation) for mitigation in run.mitigations)
    rows = pool.gather(torch.arange(len(pool))).x if accumulates else None
    model = Gaussian(dim, run.ddof, run.replicates)
    model.load_state_dict(states[-1])
    draw = model.sample(1, torch.Generator().manual_seed(0))[0]
    return Fits(*(torch.stack([state[key] for state in states]) for key in ("mean", "covariance")), rows, draw)


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
    s: int = 1  # an earlier fit

    mean = property(lambda fit: fit.fits.mean[fit.t - 1])
    error = property(lambda fit: fit.mean - fit.run.mean)
    earlier_error = property(lambda fit: fit.fits.mean[fit.s - 1] - fit.run.mean)
    covariance = property(lambda fit: fit.fits.covariance[fit.t - 1])
    variance = property(lambda fit: fit.covariance[:, 0, 0])
    trace = property(lambda fit: fit.covariance.diagonal(dim1=-2, dim2=-1).sum(-1))
    real_covariance = property(lambda fit: torch.tensor(fit.run.covariance, dtype=torch.float64))
    pool_error = property(lambda fit: fit.fits.pool.mean(0) - fit.run.mean)


def square_distance(fit):
    """Squared error of the mean, (R,)."""
    return fit.error.square().sum(-1)


def wasserstein(fit):
    """W_2^2 to the real law, (R,): |error|^2 + tr S + tr S_0 - 2 tr (L' S L)^(1/2), where S_0 = L L'."""
    factor = torch.linalg.cholesky(fit.real_covariance)
    roots = torch.linalg.eigvalsh(factor.T @ fit.covariance @ factor).clamp_min(0).sqrt().sum(-1)
    return square_distance(fit) + fit.trace + fit.real_covariance.trace() - 2 * roots


def log_loss(fit):
    """Negative log-likelihood of the real law under each model, (R,)."""
    scatter = (fit.real_covariance[0, 0] + square_distance(fit)) / fit.variance
    return (math.log(2 * math.pi) + fit.variance.log() + scatter) / 2


STATISTICS: dict[str, Callable[[Fit], Tensor]] = {
    "E_mu": lambda fit: fit.mean.mean(),
    "Var_mu": lambda fit: fit.mean.var(),
    "E_var": lambda fit: fit.variance.mean(),
    "Var_var": lambda fit: fit.variance.var(),
    "E_sd": lambda fit: fit.variance.sqrt().mean(),
    "E_logvar": lambda fit: fit.variance.log().mean(),
    "Var_logvar": lambda fit: fit.variance.log().var(),
    "median_var": lambda fit: fit.variance.quantile(0.5),
    "E_W2sq": lambda fit: wasserstein(fit).mean(),
    "marginal_var": lambda fit: fit.fits.draw.var(),
    "E_test_nll": lambda fit: log_loss(fit).mean(),
    "E_mu_sqerr": lambda fit: square_distance(fit).mean(),
    "E_trace": lambda fit: fit.trace.mean(),
    "E_trace_sq": lambda fit: fit.trace.square().mean(),
    "E_trace_of_sq": lambda fit: fit.covariance.square().sum((-2, -1)).mean(),
    "E_logdet": lambda fit: torch.logdet(fit.covariance).mean(),
    "E_det": lambda fit: torch.det(fit.covariance).mean(),
    "Cov_mu_s_mu_t": lambda fit: torch.cov(torch.cat([fit.earlier_error, fit.error], 1).T)[0, 1],
    "E_pool_var": lambda fit: fit.fits.pool.var(0, correction=0).mean(),
    "E_poolmean_sqerr": lambda fit: fit.pool_error.square().mean(),
}


# --- the closed forms of collapse.theory, regime by regime ------------------------------------------------------------


def replace_laws(run, t, s):
    law = {"ddof": run.ddof, "variance": run.covariance[0][0], "lam": run.lam}
    n = run.samples
    return {
        "E_mu": run.mean,
        "Var_mu": theory.gaussian.replace_mean_variance(t, n, **law),
        "E_var": theory.gaussian.replace_variance(t, n, **law),
        "E_sd": theory.gaussian.replace_expected_std(t, n, **law),
        "E_logvar": theory.gaussian.replace_expected_log_variance(t, n, **law),
        "Var_logvar": theory.gaussian.replace_log_variance_variance(t, n),
        "median_var": theory.gaussian.replace_median_variance(t, n, **law),
        "E_W2sq": theory.gaussian.replace_expected_w2(t, n, **law),
        "marginal_var": theory.gaussian.replace_marginal_variance(t, n, **law),
        "E_test_nll": theory.gaussian.replace_expected_test_nll(t, n, **law),
        "Cov_mu_s_mu_t": theory.gaussian.replace_mean_covariance(s, t, n=n, **law),
    }


def multivariate_laws(run, t, s):
    law = {"covariance": run.covariance, "ddof": run.ddof}
    names = ("E_trace", "E_trace_sq", "E_trace_of_sq")
    return dict(zip(names, theory.gaussian.replace_trace_moments(t, run.samples, **law), strict=True)) | {
        "E_mu_sqerr": theory.gaussian.replace_mean_square_error(t, run.samples, **law),
        "E_logdet": theory.gaussian.replace_expected_logdet(t, run.samples, **law),
        "E_det": theory.gaussian.replace_expected_det(t, run.samples, **law),
    }


def plane_laws(run, t, s):
    assert t == 1, "beyond the first fit the distance has no closed form in two dimensions"
    return {"E_W2sq": theory.gaussian.replace_expected_w2_bivariate_first_fit(run.samples, ddof=run.ddof)}


def accumulate_laws(run, t, s):
    law = {"n0": run.gold, "ddof": run.ddof, "variance": sum(run.covariance[i][i] for i in range(len(run.covariance)))}
    expected = theory.gaussian.accumulate_variance(t, run.samples, **law)
    return {
        "E_mu_sqerr": theory.gaussian.accumulate_mean_square_error(t, run.samples, **law),
        "E_var": expected,
        "E_trace": expected,  # linear in the variance of the real law
        "Var_var": theory.gaussian.accumulate_variance_of_variance(t, run.samples, **law),
        "E_logvar": theory.gaussian.accumulate_expected_log_variance(t, run.samples, **law),
        "E_sd": theory.gaussian.accumulate_expected_std(t, run.samples, **law),
        "E_W2sq": theory.gaussian.accumulate_expected_w2(t, run.samples, **law),
    }


def subsample_laws(run, t, s):
    (regime,) = run.mitigations
    moments = theory.gaussian.accumulate_subsample_moments(
        t, run.samples, size=regime.subsample, replacement=regime.replacement, n0=run.gold, ddof=run.ddof
    )
    return dict(zip(("E_mu_sqerr", "E_var", "E_poolmean_sqerr", "E_pool_var"), moments, strict=True))


def fraction_split(run):
    """Real and synthetic rows of a fit, real rows of the first fit, and real rows there are to draw from."""
    anchors = run.mitigations[0]
    real = round(anchors.fraction * run.samples)
    first = run.gold - (run.generations - 1) * real if anchors.rows == "fresh" else run.gold
    return real, run.samples - real, first, {"fresh": math.inf, "fixed": real, "redrawn": run.gold}[anchors.rows]


def fraction_laws(run, t, s):
    real, synthetic, first, size = fraction_split(run)
    law = {"n_real": real, "n_synthetic": synthetic, "ddof": run.ddof, "dataset_size": size, "lam": run.lam}
    moments = theory.gaussian.real_fraction_moments(t, n_first=first, **law)
    return {"E_mu_sqerr": moments[0], "E_var": moments[1], "Cov_mu_s_mu_t": 0.0 if synthetic == 0 else None}


def stationary_laws(run, t, s):
    real, synthetic, _, size = fraction_split(run)
    moments = theory.gaussian.real_fraction_stationary_moments(
        n_real=real, n_synthetic=synthetic, ddof=run.ddof, dataset_size=size, lam=run.lam
    )
    return dict(zip(("E_mu_sqerr", "E_var"), moments, strict=True))


def accumulate_fresh_laws(run, t, s):
    real, synthetic, first, _ = fraction_split(run)
    moments = theory.gaussian.accumulate_fresh_moments(t, n_real=real, n_synthetic=synthetic, n0=first, ddof=run.ddof)
    return dict(zip(("E_mu_sqerr", "E_var"), moments, strict=True))


# --- the table --------------------------------------------------------------------------------------------------------


class Row(NamedTuple):
    """A row of the truth table: fit t of a chain."""

    run: Run
    t: int
    laws: Callable[[Run, int, int], dict[str, float]]
    quantities: tuple[str, ...]
    expected: tuple[float, ...]
    deviation: tuple[float, ...]  # standard deviation over single chains
    s: int = 1

    def z(self, quantity, fits, t):
        """Distance of fit t from the expectation, in standard errors."""
        column, replicates = self.quantities.index(quantity), fits.mean.shape[1]
        error = float(STATISTICS[quantity](Fit(self.run, fits, t, self.s))) - self.expected[column]
        return error / (self.deviation[column] / replicates**0.5)


ELLIPSE = ((2.0, 0.6), (0.6, 1.0))
DISC = ((1.0, 0.0), (0.0, 1.0))


def subsampled(ddof, replacement):
    return Run(10, 15, ddof, 0, (DataAccumulation(subsample=10, replacement=replacement),))


def mixed(kind, first, *, ddof, lam=1.0):
    """5 real and 15 synthetic rows, for the 60 fits after which the law is stationary; ``first`` rows in the first."""
    gold = first + 59 * 5 if kind == "fresh" else first
    return Run(20, 60, ddof, gold, (AnchorReplay(0.25, kind),), lam)


def grown(ddof):
    return Run(10, 12, ddof, 10 + 11 * 3, (AnchorReplay(0.3, "fresh"), DataAccumulation()))


LOGS = ("E_logvar", "Var_logvar", "median_var")
REPLACE = ("E_mu", "Var_mu", "E_var", "E_sd", *LOGS, "E_W2sq", "marginal_var", "E_test_nll")
SHAPE = ("E_mu_sqerr", "E_trace", "E_trace_sq", "E_trace_of_sq", "E_logdet", "E_det")
PAIR = ("E_mu_sqerr", "E_var")
ACCUMULATE = (*PAIR, "E_logvar", "E_sd", "E_W2sq")
SUBSAMPLE = (*PAIR, "E_pool_var", "E_poolmean_sqerr")

ROWS = {
    "G1.1": Row(
        Run(10, 5, 1, mean=1.5, covariance=((4.0,),), replicates=MANY),
        5,
        replace_laws,
        REPLACE,
        (1.5, 2.0, 4.0, 1.74114, 0.810262, 1.243626, 2.342225, 3.035441, 6.0, 3.646254),
        (1.414, 3.429, 5.276, 0.9842, 1.114, 1.797, 3.267, 4.279, 13.64, 4.134),
    ),
    "G1.2": Row(
        Run(50, 20, 1, replicates=MANY),
        20,
        replace_laws,
        REPLACE,
        (0.0, 0.4, 1.0, 0.9029991, -0.4109394, 0.8332128, 0.6676441, 0.5940018, 1.4, 2.182903),
        (0.631, 0.6794, 1.112, 0.4311, 0.9137, 1.178, 0.8297, 0.8478, 3.048, 1.336),
    ),
    "G2.1": Row(
        Run(10, 5, 0, mean=1.5, covariance=((4.0,),), replicates=MANY),
        5,
        replace_laws,
        REPLACE,
        (1.5, 1.63804, 2.36196, 1.33795, 0.2834594, 1.243626, 1.38306, 2.648199, 4.0, 4.860603),
        (1.279, 2.719, 3.113, 0.7578, 1.117, 1.807, 1.98, 2.93, 8.575, 7.516),
    ),
    "G2.2": Row(
        Run(50, 20, 0, replicates=MANY),
        20,
        replace_laws,
        REPLACE,
        (0.0, 0.332392, 0.667608, 0.737816, -0.8149936, 0.8332128, 0.4457245, 0.524368, 1.0, 2.642784),
        (0.5754, 0.5502, 0.7195, 0.3473, 0.9084, 1.166, 0.4955, 0.5989, 2.088, 2.063),
    ),
    "G3.1": Row(
        Run(12, 4, 1, covariance=ELLIPSE, replicates=MANY),
        4,
        multivariate_laws,
        SHAPE,
        (1.0, 3.0, 14.78466, 12.54438, -0.6744452, 1.120142),
        (1.289, 2.421, 36.04, 33.84, 1.298, 1.965),
    ),
    "G3.2": Row(
        Run(12, 4, 0, covariance=ELLIPSE, replicates=MANY),
        4,
        multivariate_laws,
        SHAPE,
        (0.8817998, 2.1182, 7.370603, 6.253753, -1.370536, 0.5584247),
        (1.121, 1.7, 17.87, 16.79, 1.298, 0.9708),
    ),
    "G4.1": Row(
        Run(20, 10, 1, lam=0.9, replicates=MANY),
        10,
        replace_laws,
        REPLACE,
        (0.0, 0.3256608, 0.3874205, 0.5457247, -1.483784, 1.109973, 0.2309979, 0.621632, 0.7130813, 4.994214),
        (0.571, 0.5443, 0.5072, 0.2992, 1.054, 1.575, 0.2982, 0.5627, 1.505, 6.849),
    ),
    "G5.1": Row(Run(10, 3, 1, covariance=DISC), 1, plane_laws, ("E_W2sq",), (0.3676717,), (0.2393,)),
    "G5.2": Row(Run(10, 3, 1, covariance=DISC), 3, plane_laws, ("E_W2sq",), (1.072782,), (0.8415,)),
    "G8.cov": Row(Run(10, 5, 1), 5, replace_laws, ("Cov_mu_s_mu_t",), (0.2,), (0.3914,), s=2),
    "A0.fresh": Row(
        Run(10, 5, 1, 10 + 4 * 10, (AnchorReplay(1.0, "fresh"),)),
        5,
        fraction_laws,
        (*PAIR, "Cov_mu_s_mu_t"),
        (0.1, 1.0, 0.0),
        (0.1413, 0.4711, 0.1001),
        s=4,
    ),
    "A1.1": Row(
        Run(10, 20, 0, 0, POOL, replicates=MANY),
        20,
        accumulate_laws,
        ACCUMULATE,
        (0.1524404, 0.8475596, -0.3358741, 0.8830604, 0.2338791),
        (0.2209, 0.5152, 0.597, 0.26, 0.2443),
    ),
    "A1.2": Row(
        Run(20, 10, 0, 40, POOL),
        10,
        accumulate_laws,
        (*ACCUMULATE, "Var_var"),
        (0.03992512, 0.9600749, -0.08145806, 0.9699484, 0.06010313, 0.07704591),
        (0.05674, 0.2775, 0.2865, 0.1388, 0.06332, 0.1371),
    ),
    "A2.1": Row(
        Run(10, 20, 1, 0, POOL, replicates=MANY),
        20,
        accumulate_laws,
        ACCUMULATE,
        (0.1582089, 0.9397239, -0.2366593, 0.9288968, 0.2401393),
        (0.2291, 0.5803, 0.6038, 0.2771, 0.2616),
    ),
    "A3.1": Row(
        subsampled(ddof=0, replacement=False),
        15,
        subsample_laws,
        SUBSAMPLE,
        (0.247009, 0.752991, 0.8310789, 0.1689211),
        (0.3835, 0.6628, 0.5433, 0.2486),
    ),
    "A3.2": Row(
        subsampled(ddof=1, replacement=False),
        15,
        subsample_laws,
        SUBSAMPLE,
        (0.2789646, 1.05844, 1.051384, 0.1801768),
        (0.4391, 0.951, 0.7179, 0.2631),
    ),
    "A3.3": Row(
        subsampled(ddof=1, replacement=True),
        15,
        subsample_laws,
        SUBSAMPLE,
        (0.3071189, 1.009879, 1.009879, 0.206131),
        (0.5002, 0.991, 0.7555, 0.3141),
    ),
    "A4.1": Row(mixed("fresh", 5, ddof=1), 10, fraction_laws, PAIR, (0.1223921, 1.093869), (0.1942, 0.6172)),
    "A4.1.stat": Row(mixed("fresh", 5, ddof=1), 60, stationary_laws, PAIR, (0.1225806, 1.096774), (0.193, 0.6162)),
    "A4.2": Row(mixed("fresh", 5, ddof=0), 10, fraction_laws, PAIR, (0.1055502, 0.8944498), (0.1629, 0.4621)),
    "A4.2.stat": Row(mixed("fresh", 5, ddof=0), 60, stationary_laws, PAIR, (0.1052632, 0.8947368), (0.1628, 0.463)),
    "A4.3": Row(mixed("fresh", 20, ddof=1, lam=0.8), 10, fraction_laws, PAIR, (0.0750846, 0.6660928), (0.1108, 0.3007)),
    "A4.3.stat": Row(
        mixed("fresh", 20, ddof=1, lam=0.8), 60, stationary_laws, PAIR, (0.07392996, 0.6614786), (0.107, 0.2967)
    ),
    "A5.1": Row(mixed("fixed", 5, ddof=1), 10, fraction_laws, PAIR, (0.2776079, 0.9061314), (0.4147, 0.8345)),
    "A5.1.stat": Row(mixed("fixed", 5, ddof=1), 60, stationary_laws, PAIR, (0.2774194, 0.9032258), (0.4134, 0.842)),
    "A5.2": Row(mixed("fixed", 5, ddof=0), 10, fraction_laws, PAIR, (0.2629665, 0.7370335), (0.384, 0.6489)),
    "A5.2.stat": Row(mixed("fixed", 5, ddof=0), 60, stationary_laws, PAIR, (0.2631579, 0.7368421), (0.3856, 0.6473)),
    "A6.1": Row(mixed("redrawn", 20, ddof=1), 10, fraction_laws, PAIR, (0.1585772, 1.034369), (0.2459, 0.666)),
    "A6.1.stat": Row(mixed("redrawn", 20, ddof=1), 60, stationary_laws, PAIR, (0.1612903, 1.048387), (0.2524, 0.6832)),
    "A8.1": Row(
        Run(10, 8, 0, 0, POOL, covariance=ELLIPSE),
        8,
        accumulate_laws,
        ("E_mu_sqerr", "E_trace"),
        (0.439776, 2.560224),
        (0.5082, 1.225),
    ),
    "A9.1": Row(grown(ddof=0), 12, accumulate_fresh_laws, PAIR, (0.0532468, 0.9467532), (0.07707, 0.3183)),
    "A9.2": Row(grown(ddof=1), 12, accumulate_fresh_laws, PAIR, (0.05480509, 0.9966802), (0.07962, 0.3462)),
}
CELLS = [(name, quantity) for name, row in ROWS.items() for quantity in row.quantities]


@pytest.mark.parametrize(("name", "quantity"), CELLS)
def test_chains_have_the_moments_of_the_table(name, quantity, fits_of):
    row = ROWS[name]
    assert abs(row.z(quantity, fits_of(row.run), row.t)) < SIGMAS


@pytest.mark.parametrize("name", sorted(ROWS.keys() - {"G5.2"}))
def test_table_has_the_values_of_the_closed_forms(name):
    row = ROWS[name]
    laws = row.laws(row.run, row.t, row.s)
    assert [laws[quantity] for quantity in row.quantities] == pytest.approx(row.expected, rel=1e-6, abs=0)


# --- the table can fail -----------------------------------------------------------------------------------------------

FIXED, FRESH = (AnchorReplay(0.25, "fixed"),), (AnchorReplay(0.25, "fresh"),)
WRONG = {  # what is wrong: a row, the statistic that tells, and the chain that is run in place of the row's
    "maximum likelihood for unbiased": ("G1.1", "E_logvar", {"ddof": 0}),
    "unbiased for maximum likelihood": ("A1.1", "E_var", {"ddof": 1}),
    "one generation too many": ("G1.1", "E_logvar", {"generations": 6}),
    "one generation too few": ("G1.1", "E_logvar", {"generations": 4}),
    "multiplier on the standard deviation": ("G4.1", "E_logvar", {"lam": 0.9**2}),
    "multiplier on the real rows": ("G4.1", "E_logvar", {"covariance": ((0.9,),)}),
    "replace for accumulate": ("A1.1", "E_var", {"mitigations": (), "replicates": 2000}),
    "subsample for accumulate": ("A1.1", "E_mu_sqerr", {"mitigations": (DataAccumulation(10),), "replicates": 2000}),
    "anchors for fresh rows": ("A4.1", "E_mu_sqerr", {"generations": 10, "rows": 5, "mitigations": FIXED}),
    "fresh rows for redrawn ones": (
        "A6.1",
        "E_mu_sqerr",
        {"generations": 10, "rows": 20 + 9 * 5, "mitigations": FRESH},
    ),
}


@pytest.mark.parametrize("fault", WRONG)
def test_a_wrong_chain_misses_the_row(fault):
    name, quantity, changes = WRONG[fault]
    row = ROWS[name]
    fits = execute(dataclasses.replace(row.run, **changes))
    assert abs(row.z(quantity, fits, changes.get("generations", row.t))) > SIGMAS


# --- what must not matter ---------------------------------------------------------------------------------------------

SMALL = Run(10, 5, 1, 12, POOL, mean=2.0, covariance=ELLIPSE, replicates=7)


def assert_same_fits(one, other):
    torch.testing.assert_close(one.mean, other.mean, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(one.covariance, other.covariance, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("mitigations", [(), POOL, (AnchorReplay(0.3, "redrawn"),)], ids=["replace", "pool", "mixed"])
@pytest.mark.parametrize("ddof", [0, 1])
def test_batch_size_does_not_matter(ddof, mitigations):
    run = dataclasses.replace(SMALL, ddof=ddof, mitigations=mitigations)
    assert_same_fits(execute(run), execute(dataclasses.replace(run, batch_size=3)))


@pytest.mark.parametrize("mitigations", [(), POOL], ids=["replace", "pool"])
def test_one_experiment_needs_no_replicate_axis(mitigations):
    run = dataclasses.replace(SMALL, mitigations=mitigations, replicates=None)
    fits = execute(run)
    assert fits.mean.shape == (5, 1, 2)
    assert fits.covariance.shape == (5, 1, 2, 2)
    assert fits.draw.shape == (2,)
    assert_same_fits(fits, execute(dataclasses.replace(run, replicates=1)))


@pytest.mark.parametrize("anchors", [AnchorReplay(0.3, "redrawn"), AnchorReplay(0.3, "fixed")], ids=repr)
def test_one_experiment_can_draw_its_rows_by_chance(anchors):
    fits = execute(dataclasses.replace(SMALL, mitigations=(anchors,), replicates=None))
    assert torch.linalg.eigvalsh(fits.covariance).min() > 0
