"""Kernel density estimates through ``run_chain`` against the truth table, rows K1 to K4.

As in ``test_chain_laws``: exact expectations, and the standard deviation of each statistic over single chains. A fixed
kernel does not collapse, it diffuses; one that follows the data grows exponentially.
"""

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from collapse.data import GaussianData
from collapse.mitigations import DataAccumulation, Mitigation
from collapse.models.estimators.kde import KDE
from collapse.models.estimators.mixture import GaussianMixture
from collapse.recursion import run_chain
from collapse.theory import kde

SIGMAS = 4.5
POOL = (DataAccumulation(),)
SUBSAMPLE = (DataAccumulation(subsample=20),)


@dataclass(frozen=True)
class Run:
    """A chain of R replicates with 20 rows a generation; the real law is N(0, 1)."""

    generations: int
    bandwidth: float | str
    mitigations: tuple[Mitigation, ...] = ()
    replicates: int = 20_000


def execute(run: Run) -> KDE:
    """Return the last model of the chain."""
    model = KDE(1, run.bandwidth, run.replicates)
    chain = run_chain(
        model.twin(),
        GaussianData(20, replicates=run.replicates, reference_rows=1),
        generations=run.generations,
        samples_per_generation=20,
        mitigations=run.mitigations,
        evaluate=False,
    )
    model.load_state_dict(chain.state(-1))
    return model


def centered(model: KDE) -> Tensor:
    """Variance of each fitted density, (R,): that of its points, plus the kernel's."""
    return model.points[..., 0].var(0, correction=0) + model.kernel_covariance[:, 0, 0]


def second_moment(model: KDE) -> Tensor:
    """Second moment of each fitted density about zero, (R,)."""
    return model.points[..., 0].square().mean(0) + model.kernel_covariance[:, 0, 0]


def density_at(model: KDE, place: float) -> Tensor:
    """Each fitted density at one point, (R,)."""
    return model.log_density(torch.full((1, model.chains, 1), place)).exp()[0]


STATISTICS: dict[str, Callable[[KDE], Tensor]] = {
    "E_density_var": lambda model: centered(model).mean(),
    "E_density_second_moment": lambda model: second_moment(model).mean(),
    "marginal_var": lambda model: second_moment(model).mean(),  # over chains, as their mean is zero
    "draw_var": lambda model: model.sample(1, torch.Generator().manual_seed(0)).var(),
    "E_density_at_0.0": lambda model: density_at(model, 0.0).mean(),
    "E_density_at_2.0": lambda model: density_at(model, 2.0).mean(),
}


def replace_laws(t):
    at_0, at_2 = kde.replace_expected_density(t, [0.0, 2.0], bandwidth=0.3)
    return {
        "E_density_var": kde.replace_expected_variance(t, 20, bandwidth=0.3),
        "marginal_var": kde.replace_marginal_variance(t, bandwidth=0.3),
        "draw_var": kde.replace_marginal_variance(t, bandwidth=0.3),
        "E_density_at_0.0": at_0,
        "E_density_at_2.0": at_2,
    }


def accumulate_laws(t, size=None):
    at_0, at_2 = kde.accumulate_expected_density(t, [0.0, 2.0], n=20, bandwidth=0.3)
    moments = kde.accumulate_moments(t, 20, bandwidth=0.3, size=size)
    return {
        "E_density_var": moments.variance,
        "E_density_second_moment": moments.second_moment,
        "E_density_at_0.0": at_0,
        "E_density_at_2.0": at_2,
    }


def scott_laws(t):
    return {"E_density_var": kde.replace_scaled_expected_variance(t, 20, rule="scott")}


class Row(NamedTuple):
    """A row of the truth table: the last fit of a chain."""

    run: Run
    laws: Callable[[int], dict[str, float]]
    cells: dict[str, tuple[float, float]]  # quantity: expectation, standard deviation over single chains

    def z(self, quantity, model):
        """Distance from the expectation, in standard errors."""
        expected, deviation = self.cells[quantity]
        return (float(STATISTICS[quantity](model)) - expected) / (deviation / model.chains**0.5)


ROWS = {
    "K1.replace": Row(
        Run(10, 0.3),
        replace_laws,
        {
            "E_density_var": (1.32101, 0.9145),
            "marginal_var": (1.9, 1.312),
            "draw_var": (1.9, 1.9 * 2**0.5),  # a draw is exactly normal
            "E_density_at_0.0": (0.2894231, 0.1651),
            "E_density_at_2.0": (0.1010139, 0.1216),
        },
    ),
    "K2.accumulate": Row(
        Run(10, 0.3, POOL),
        accumulate_laws,
        {
            "E_density_var": (1.184047, 0.3845),
            "E_density_second_moment": (1.263607, 0.4094),
            "E_density_at_0.0": (0.3558156, 0.08858),
            "E_density_at_2.0": (0.07252267, 0.05142),
        },
    ),
    "K3.subsample": Row(
        Run(10, 0.3, SUBSAMPLE),
        functools.partial(accumulate_laws, size=20),
        {
            "E_density_var": (1.125266, 0.496),
            "E_density_second_moment": (1.263607, 0.5545),
            "E_density_at_0.0": (0.3558156, 0.1338),
            "E_density_at_2.0": (0.07252267, 0.07433),
        },
    ),
    "K4.scott": Row(Run(6, "scott"), scott_laws, {"E_density_var": (3.846094, 3.267)}),
}
CELLS = [(name, quantity) for name, row in ROWS.items() for quantity in row.cells]


@pytest.fixture(scope="module")
def model_of():
    """The last model of every chain of this file, trained once."""
    return functools.cache(execute)


@pytest.mark.parametrize(("name", "quantity"), CELLS)
def test_chains_have_the_moments_of_the_table(name, quantity, model_of):
    row = ROWS[name]
    assert abs(row.z(quantity, model_of(row.run))) < SIGMAS


@pytest.mark.parametrize("name", ROWS)
def test_table_has_the_values_of_the_closed_forms(name):
    row = ROWS[name]
    laws = row.laws(row.run.generations)
    assert [laws[quantity] for quantity in row.cells] == pytest.approx(
        [cell[0] for cell in row.cells.values()], rel=1e-6
    )


WRONG = {  # what is wrong: a row, the statistic that tells, and the chain that is run in place of the row's
    "one generation too many": ("K1.replace", "E_density_at_0.0", {"generations": 11}),
    "one generation too few": ("K4.scott", "E_density_var", {"generations": 5}),
    "variance for standard deviation": ("K1.replace", "E_density_var", {"bandwidth": 0.3**2}),
    "empirical distribution for kernels": ("K1.replace", "draw_var", {"bandwidth": 0.0}),
    "accumulate for replace": ("K1.replace", "E_density_var", {"mitigations": POOL}),
    "replace for accumulate": ("K2.accumulate", "E_density_at_2.0", {"mitigations": ()}),
    "subsample for accumulate": ("K2.accumulate", "E_density_var", {"mitigations": SUBSAMPLE}),
    "smaller subsample": ("K3.subsample", "E_density_var", {"mitigations": (DataAccumulation(subsample=10),)}),
    "another rule": ("K4.scott", "E_density_var", {"bandwidth": "silverman"}),
}


@pytest.mark.parametrize("fault", WRONG)
def test_a_wrong_chain_misses_the_row(fault, model_of):
    name, quantity, changes = WRONG[fault]
    row = ROWS[name]
    assert abs(row.z(quantity, model_of(dataclasses.replace(row.run, **changes)))) > SIGMAS


@pytest.mark.parametrize(
    "model",
    [KDE(1, "scott", 7), GaussianMixture(2, replicates=7, start=((-1.0,), (1.0,)))],
    ids=lambda model: type(model).__name__,
)
def test_batch_size_does_not_matter(model):
    def log_density(batch_size):
        data = GaussianData(40, replicates=7, reference_rows=1, batch_size=batch_size)
        chain = run_chain(model.twin(), data, generations=1, samples_per_generation=1, evaluate=False)
        model.load_state_dict(chain.state(0))
        return model.log_density(torch.linspace(-4, 4, 9).double()[:, None, None].expand(-1, 7, -1))

    torch.testing.assert_close(log_density(7), log_density(None), rtol=1e-9, atol=0)
