"""Chains of linear regressions: squared error of the weights."""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import Tensor

from collapse.data import RegressionData
from collapse.models import LinearRegression
from collapse.oracle.quantity import Fits, Law, Quantity
from collapse.oracle.regime import Accumulate, Fraction, Regime, ReplaceRegime, Setting
from collapse.theory import regression as theory

__all__ = ["regression_quantities"]


def regression_quantities(setting: Setting, regime: Regime | None) -> list[Quantity]:
    """Return the squared distance of the fitted weights from the true ones: the excess test error, as the covariates
    have unit covariance."""
    model, data = setting.model, setting.data
    assert isinstance(model, LinearRegression)
    law = None
    if isinstance(data, RegressionData):
        law = _law(model, data, regime)
    return [Quantity("excess error", excess_error, law)]


def excess_error(fits: Fits, t: int) -> Tensor:
    """Squared distance of the weights from the true ones, (R,)."""
    data = fits.setting.data
    assert isinstance(data, RegressionData)
    return (fits.state(t)["weight"] - data.weight).square().sum(-1)


def _law(model: LinearRegression, data: RegressionData, regime: Regime | None) -> Law | None:
    """Return the law of a chain whose sampled labels are as noisy as the real ones."""
    signal, d = float(data.weight.square().sum()), model.dim
    if regime is None or model.noise != data.noise:
        return None
    if model.ridge > 0:
        orthonormal = (data.design, model.covariates) == ("orthonormal", "same")
        if not (orthonormal and isinstance(regime, ReplaceRegime) and regime.first == regime.n):
            return None
        n, noise = regime.n, max(data.noise**2, 1e-300)
        return lambda t: theory.replace_ridge_excess_error(
            t, n, dim=d, penalty=model.ridge, signal=signal, noise_variance=noise
        )
    if data.design != "normal":
        return None
    if max(regime.n, regime.first) < d:
        forgets = isinstance(regime, ReplaceRegime) and regime.first == regime.n and data.noise == 0
        n = regime.n
        return (lambda t: theory.replace_minimum_norm_excess_error(t, n, dim=d, signal=signal)) if forgets else None
    if min(regime.n, regime.first) < d + 2 or data.noise == 0:
        return None
    family = LAWS.get((type(regime), model.covariates))
    return None if family is None else family(regime, d, data.noise**2)


def _replace(regime: ReplaceRegime, dim: int, noise: float) -> Law:
    return lambda t: theory.replace_excess_error(t, regime.n, dim=dim, n0=regime.first, noise_variance=noise)


def _same_design(regime: Accumulate, dim: int, noise: float) -> Law | None:
    if regime.first != regime.n:
        return None
    return lambda t: theory.accumulate_same_design_excess_error(t, regime.n, dim=dim, noise_variance=noise)


def _fresh_design(regime: Accumulate, dim: int, noise: float) -> Law:
    return lambda t: theory.accumulate_fresh_design_excess_error(
        t, regime.n, dim=dim, n0=regime.first, noise_variance=noise
    )


def _fraction(regime: Fraction, dim: int, noise: float) -> Law | None:
    if regime.dataset != math.inf:
        return None
    return lambda t: theory.real_fraction_excess_error(
        t,
        n_real=regime.real,
        n_synthetic=regime.synthetic,
        dim=dim,
        n_first=regime.first,
        noise_variance=noise,
    )


LAWS: dict[tuple[type, str], Callable[..., Law | None]] = {
    (ReplaceRegime, "fresh"): _replace,
    (ReplaceRegime, "same"): _replace,
    (Accumulate, "same"): _same_design,
    (Accumulate, "fresh"): _fresh_design,
    (Fraction, "fresh"): _fraction,
}
