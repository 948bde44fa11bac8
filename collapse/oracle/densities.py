"""Chains of kernel densities and of mixtures: variance, held-out likelihood, distance from the real law."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from collapse.data import GaussianData, GaussianMixtureData
from collapse.models import KDE, GaussianMixture
from collapse.oracle.quantity import Fits, Law, Quantity
from collapse.oracle.regime import Accumulate, Regime, ReplaceRegime, Setting, Subsample
from collapse.theory import kde as theory

__all__ = ["kernel_quantities", "mixture_quantities"]


def kernel_quantities(setting: Setting, regime: Regime | None) -> list[Quantity]:
    """Return the fitted densities' variance and held-out likelihood; of an empirical distribution (bandwidth 0), its
    distance from the real law and the exponent with which that falls as rows accumulate."""
    model, data = setting.model, setting.data
    assert isinstance(model, KDE)
    if model.bandwidth == 0:
        found = []
        if model.dim == 1 and isinstance(data, GaussianMixtureData):
            found.append(Quantity("W1", w1))
            if setting.generations >= 100:
                found.append(Quantity("slope of log W1", w1_slope, once=True, needs=decades))
        return found
    laws = LAWS.get((type(regime), isinstance(model.bandwidth, str)), _none)
    law = None
    if isinstance(data, GaussianData) and model.dim == 1:
        law = laws(regime, model.bandwidth, float(data.std[0] ** 2))
    spread = Quantity("E Var f", partial(density_variance, model=model), law)
    return [spread, Quantity("held-out NLL", partial(held_out_nll, model=copy.deepcopy(model)))]


def mixture_quantities(setting: Setting, regime: Regime | None) -> list[Quantity]:
    """Return the standard deviation of the living components, of the widest of them, and how many there are."""
    assert isinstance(setting.model, GaussianMixture)
    return [Quantity("component std", usual), Quantity("widest component", widest), Quantity("components", alive)]


# --- laws by regime, and whether the bandwidth follows the rows -------------------------------------------------------


def _none(*unused: Any) -> None:
    return None


def _fixed(regime: ReplaceRegime, bandwidth: float, variance: float) -> Law:
    law = {"bandwidth": bandwidth, "n0": regime.first, "variance": variance}
    return lambda t: theory.replace_expected_variance(t, regime.n, **law)  # type: ignore[arg-type]


def _scaled(regime: ReplaceRegime, rule: str, variance: float) -> Law:
    return lambda t: theory.replace_scaled_expected_variance(t, regime.n, rule=rule, n0=regime.first, variance=variance)


def _pooled(regime: Accumulate | Subsample, bandwidth: float, variance: float) -> Law | None:
    size = regime.size if isinstance(regime, Subsample) else None
    if isinstance(regime, Subsample) and regime.replacement:
        return None
    return lambda t: (
        theory.accumulate_moments(
            t, regime.n, bandwidth=bandwidth, size=size, n0=regime.first, variance=variance
        ).variance
    )


LAWS: dict[tuple[type, bool], Callable[..., Law | None]] = {
    (ReplaceRegime, False): _fixed,
    (ReplaceRegime, True): _scaled,
    (Accumulate, False): _pooled,
    (Subsample, False): _pooled,
}


# --- statistics -------------------------------------------------------------------------------------------------------


def density_variance(fits: Fits, t: int, model: KDE) -> Tensor:
    """Trace of the covariance of the fitted density, (R,)."""
    state = fits.state(t)
    share = state["row_weights"] / state["row_weights"].sum(0)
    mean = (share[..., None] * state["points"]).sum(0)
    spread = (share[..., None] * (state["points"] - mean).square()).sum((0, 2))
    return spread + state["kernel_covariance"].diagonal(dim1=1, dim2=2).sum(1)


def held_out_nll(fits: Fits, t: int, model: KDE) -> Tensor:
    """Mean negative log-density of the reference rows in nats, (R,)."""
    model.load_state_dict(fits.state(t))
    reference = fits.setting.data.reference().tensors()[0]
    return -model.log_density(reference).mean(0)


def w1(fits: Fits, t: int) -> Tensor:
    """1-Wasserstein distance of the rows from the real law, (R,): the area between the distribution functions."""
    data = fits.setting.data
    assert isinstance(data, GaussianMixtureData)
    points = fits.state(t)["points"][..., 0].T.contiguous().sort(1).values  # (R, n)
    reach = 8 * float(data.factors.max())
    grid = torch.linspace(float(data.means.min()) - reach, float(data.means.max()) + reach, 4001, dtype=torch.float64)
    standard = (grid[:, None] - data.means[:, 0]) / data.factors[:, 0, 0]
    real = (torch.special.ndtr(standard) * data.weights).sum(1)
    fitted = torch.searchsorted(points, grid.expand(len(points), -1).contiguous(), right=True) / points.shape[1]
    return torch.trapezoid((fitted - real).abs(), grid, dim=1)


def decades(t: int) -> list[int]:
    """Nine fits from the tenth to t, evenly spaced in the logarithm."""
    return sorted({round(10 * (t / 10) ** (i / 8)) for i in range(9)})


def w1_slope(fits: Fits, t: int) -> Tensor:
    """Least-squares slope of log W1 against the logarithm of the rows, (R,), from the tenth fit on."""
    rows, distances = [], []
    for time in decades(t):
        rows.append(float(len(fits.state(time)["points"])))
        distances.append(w1(fits, time).log())
    x = torch.tensor(rows, dtype=torch.float64).log()
    x = (x - x.mean()) / (x - x.mean()).square().sum()
    return (x[:, None] * torch.stack(distances)).sum(0)


def usual(fits: Fits, t: int) -> Tensor:
    """Mean over the components with any weight of their standard deviation per coordinate, (R,)."""
    return stds(fits, t).sum(1) / alive(fits, t)


def widest(fits: Fits, t: int) -> Tensor:
    """Standard deviation per coordinate of the widest component with any weight, (R,)."""
    return stds(fits, t).amax(1)


def stds(fits: Fits, t: int) -> Tensor:
    """Root mean square standard deviation of each component over the coordinates, (R, K); zero for a dead one."""
    state = fits.state(t)
    deviations = state["covariance"].diagonal(dim1=-2, dim2=-1).mean(-1).sqrt()
    return torch.where(state["weights"] > 0, deviations, 0)


def alive(fits: Fits, t: int) -> Tensor:
    """Components with any weight, (R,)."""
    return (fits.state(t)["weights"] > 0).double().sum(1)
