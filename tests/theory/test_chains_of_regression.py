"""Linear regression through ``run_chain`` against the laws of label recursion, row by row of the table."""

import functools
from typing import Any, NamedTuple

import pytest
import torch

from collapse.data import RegressionData
from collapse.mitigations import AnchorReplay, DataAccumulation, Mitigation
from collapse.models import LinearRegression
from collapse.recursion import run_chain
from collapse.theory import regression

SIGMAS = 4.5
POOL = (DataAccumulation(),)


class Run(NamedTuple):
    """A chain of regressions; ``rows`` of gold, n samples, T fits."""

    rows: int
    samples: int
    fits: int
    dim: int = 4
    covariates: str = "fresh"
    mitigations: tuple[Mitigation, ...] = ()
    ridge: float = 0.0
    noise: float = 1.0
    weight: float = 0.5
    design: str = "normal"
    replicates: int = 2000


@functools.cache
def errors(run: Run) -> torch.Tensor:
    """Squared distance of the weights from the true ones, (T, R)."""
    data = RegressionData(
        *(run.rows, run.dim),
        weight=run.weight,
        noise=run.noise,
        design=run.design,
        replicates=run.replicates,
        reference_rows=1,
    )
    model = LinearRegression(run.dim, run.noise, ridge=run.ridge, covariates=run.covariates, replicates=run.replicates)
    chain = run_chain(
        model,
        data,
        generations=run.fits,
        samples_per_generation=run.samples,
        mitigations=run.mitigations,
        evaluate=False,
    )
    states = torch.stack([chain.state(index)["weight"] for index in range(run.fits)])
    return (states - run.weight).square().sum(-1)


class Row(NamedTuple):
    """A row of the table: fit t, the expected squared error, its deviation over single chains."""

    run: Run
    t: int
    expected: float
    deviation: float
    law: Any

    def z(self, found: torch.Tensor) -> float:
        return (float(found[self.t - 1].mean()) - self.expected) / (self.deviation / found.shape[1] ** 0.5)


MIXED = Run(30 + 24 * 10, 30, 25, mitigations=(AnchorReplay(1 / 3, "fresh"),))
ROWS = {
    "L1.fresh": Row(Run(20, 20, 10), 10, 2.666667, 1.929, lambda: regression.replace_expected_error(10, 20, 4)),
    "L1.same": Row(
        Run(20, 20, 10, covariates="same"), 10, 2.666667, 2.287, lambda: regression.replace_expected_error(10, 20, 4)
    ),
    "L2.same": Row(Run(20, 20, 10, covariates="same", mitigations=POOL), 10, 0.4132714, 0.3509, None),
    "L3.fresh": Row(Run(20, 20, 10, mitigations=POOL), 10, 0.387653, 0.3173, None),
    "L4.mismatch": Row(Run(40, 20, 6), 6, 1.447619, 1.063, None),
    "L5.mix": Row(MIXED, 10, 0.3104903, 0.2386, None),
    "L5.stationary": Row(MIXED, 25, 0.3107143, 0.2409, None),
    "L6.ridge": Row(
        Run(20, 20, 5, covariates="same", ridge=5.0, weight=1.0, design="orthonormal"), 5, 2.125435, 0.7903, None
    ),
    "L7.minnorm": Row(Run(10, 10, 3, dim=25, noise=0.0, weight=0.2), 3, 0.936, 0.0877, None),
}


@pytest.mark.parametrize("name", ROWS)
def test_chains_have_the_errors_of_the_table(name):
    row = ROWS[name]
    assert abs(row.z(errors(row.run))) < SIGMAS


WRONG = {
    "one generation too many": ("L1.fresh", {"fits": 11}),
    "replace for accumulate": ("L2.same", {"mitigations": ()}),
    "fresh covariates in ridge": ("L6.ridge", {"covariates": "fresh"}),
    "no ridge": ("L6.ridge", {"ridge": 0.0}),
    "anchors for fresh rows": ("L5.mix", {"rows": 30, "fits": 10, "mitigations": (AnchorReplay(1 / 3, "fixed"),)}),
    "noise on labels without any": ("L7.minnorm", {"noise": 0.1}),
}


@pytest.mark.parametrize("fault", WRONG)
def test_a_wrong_chain_misses_the_row(fault):
    name, changes = WRONG[fault]
    row = ROWS[name]
    run = row.run._replace(**changes)
    row = row._replace(t=changes.get("fits", row.t))
    assert abs(row.z(errors(run))) > SIGMAS


def test_the_same_covariates_are_the_same_bytes():
    data = RegressionData(12, 3, replicates=2)
    model = LinearRegression(3, covariates="same", replicates=2)
    for mitigations in ((), POOL):
        chain = run_chain(
            *(model, data), generations=3, samples_per_generation=12, mitigations=mitigations, evaluate=False
        )
        x = chain.pool().gather(torch.arange(48)).x
        for start in (12, 24, 36):
            assert torch.equal(x[start : start + 12, :, :-1], x[:12, :, :-1])
            assert not torch.equal(x[start : start + 12, :, -1], x[:12, :, -1])


def test_fresh_covariates_are_new():
    chain = run_chain(
        LinearRegression(3), RegressionData(12, 3), generations=2, samples_per_generation=12, evaluate=False
    )
    x = chain.pool().gather(torch.arange(36)).x[:, :-1]
    assert len(torch.unique(x, dim=0)) == 36
