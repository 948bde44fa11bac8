"""Gaussian chains: moments of the fitted mean and variance."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from collapse.data import GaussianData
from collapse.models import Gaussian
from collapse.oracle.quantity import Fits, Law, Quantity
from collapse.oracle.regime import (
    Accumulate,
    AccumulateFresh,
    Fraction,
    Regime,
    ReplaceRegime,
    Setting,
    Subsample,
    Weighted,
)
from collapse.theory import gaussian as theory

__all__ = ["gaussian_quantities"]

Laws = dict[str, Law]


def gaussian_quantities(setting: Setting, regime: Regime | None) -> list[Quantity]:
    """Return squared error of the mean, variance, its logarithm and median, and Wasserstein distance, in the units of
    the data; in D dimensions the traces of the first two."""
    model, data = setting.model, setting.data
    assert isinstance(model, Gaussian)
    covariance = real_covariance(data)
    variance = float(covariance.trace())
    ddof, lam, dim = model.ddof, model.variance_multiplier, model.dim
    laws: Laws = {}
    if covariance.numel() and model.known_variance is not None:
        laws = KNOWN_VARIANCE.get(type(regime), _none)(regime, variance)
    elif covariance.numel():
        laws = LAWS.get(type(regime), _none)(regime, {"ddof": ddof, "variance": variance}, lam)
    found = [
        Quantity("E|mu-mu0|^2", partial(square_error, data=data), laws.get("E|mu-mu0|^2")),
        Quantity("E var", trace, laws.get("E var")),
        Quantity("E log var", log_trace, laws.get("E log var")),
        Quantity("median var", trace, laws.get("median var"), median=True),
        Quantity("E W2^2", partial(w2, data=data), laws.get("E W2^2")),
    ]
    shown = 1 if model.known_variance is not None else 2 if dim > 1 else len(found)  # the others are of one dimension
    return found[:shown]


# --- laws by regime ---------------------------------------------------------------------------------------------------


def _none(*unused: Any) -> Laws:
    return {}


def _replace(regime: ReplaceRegime, law: dict[str, Any], lam: float) -> Laws:
    if regime.first != regime.n:
        return {}
    n, law = regime.n, {**law, "lam": lam}
    return {
        "E|mu-mu0|^2": lambda t: theory.replace_mean_variance(t, n, **law),
        "E var": lambda t: theory.replace_variance(t, n, **law),
        "E log var": lambda t: theory.replace_expected_log_variance(t, n, **law),
        "median var": lambda t: theory.replace_median_variance(t, n, **law),
        "E W2^2": lambda t: theory.replace_expected_w2(t, n, **law),
    }


def _accumulate(regime: Accumulate, law: dict[str, Any], lam: float) -> Laws:
    n, law = regime.n, {**law, "n0": regime.first}
    if lam != 1:
        return {}
    return {
        "E|mu-mu0|^2": lambda t: theory.accumulate_mean_square_error(t, n, **law),
        "E var": lambda t: theory.accumulate_variance(t, n, **law),
        "E log var": lambda t: theory.accumulate_expected_log_variance(t, n, **law),
        "E W2^2": lambda t: theory.accumulate_expected_w2(t, n, **law),
    }


def _pair(moments: Callable[[int], Any]) -> Laws:
    return {"E|mu-mu0|^2": lambda t: moments(t)[0], "E var": lambda t: moments(t)[1]}


def _subsample(regime: Subsample, law: dict[str, Any], lam: float) -> Laws:
    law = {**law, "size": regime.size, "replacement": regime.replacement, "n0": regime.first}
    return _pair(lambda t: theory.accumulate_subsample_moments(t, regime.n, **law)) if lam == 1 else {}


def _fraction(regime: Fraction, law: dict[str, Any], lam: float) -> Laws:
    parts = {"n_real": regime.real, "n_synthetic": regime.synthetic, "n_first": regime.first}
    return _pair(lambda t: theory.real_fraction_moments(t, **parts, dataset_size=regime.dataset, lam=lam, **law))


def _accumulate_fresh(regime: AccumulateFresh, law: dict[str, Any], lam: float) -> Laws:
    parts = {"n_real": regime.real, "n_synthetic": regime.synthetic, "n0": regime.first}
    return _pair(lambda t: theory.accumulate_fresh_moments(t, **parts, **law)) if lam == 1 else {}


LAWS: dict[type, Callable[..., Laws]] = {
    ReplaceRegime: _replace,
    Accumulate: _accumulate,
    Subsample: _subsample,
    Fraction: _fraction,
    AccumulateFresh: _accumulate_fresh,
}

KNOWN_VARIANCE: dict[type, Callable[..., Laws]] = {
    ReplaceRegime: lambda regime, variance: {
        "E|mu-mu0|^2": lambda t: variance / regime.first + (t - 1) * variance / regime.n
    },
    Accumulate: lambda regime, variance: {
        "E|mu-mu0|^2": lambda t: theory.accumulate_known_variance_mean_square_error(
            t, regime.n, n0=regime.first, variance=variance
        )
    },
    Subsample: lambda regime, variance: {
        "E|mu-mu0|^2": lambda t: theory.accumulate_subsample_known_variance_mean_square_error(
            t, regime.n, size=regime.size, n0=regime.first, replacement=regime.replacement, variance=variance
        )
    },
    Fraction: lambda regime, variance: (
        {
            "E|mu-mu0|^2": lambda t: theory.weighted_mean_square_error(
                t,
                n_real=regime.real,
                n_synthetic=regime.synthetic,
                weight=regime.real / regime.n,
                n_first=regime.first,
                variance=variance,
            )
        }
        if regime.dataset == math.inf
        else {}
    ),
    Weighted: lambda regime, variance: {
        "E|mu-mu0|^2": lambda t: theory.weighted_mean_square_error(
            t,
            n_real=regime.real,
            n_synthetic=regime.synthetic,
            weight=regime.weight,
            n_first=regime.first,
            variance=variance,
        )
    },
}


# --- statistics -------------------------------------------------------------------------------------------------------


def real_covariance(data: Any) -> Tensor:
    """Return the covariance of the real law, (d, d); empty where it is not Gaussian."""
    if not isinstance(data, GaussianData):
        return torch.empty(0, 0, dtype=torch.float64)
    return data.std.square().diag() if data.factor is None else data.factor @ data.factor.T


def square_error(fits: Fits, t: int, data: Any) -> Tensor:
    """Squared distance of the fitted mean from the real one, (R,)."""
    return (fits.state(t)["mean"] - data.mean).square().sum(-1)


def trace(fits: Fits, t: int) -> Tensor:
    """Trace of the fitted covariance, (R,)."""
    return fits.state(t)["covariance"].diagonal(dim1=-2, dim2=-1).sum(-1)


def log_trace(fits: Fits, t: int) -> Tensor:
    """Logarithm of the fitted variance, (R,)."""
    return trace(fits, t).log()


def w2(fits: Fits, t: int, data: Any) -> Tensor:
    """Squared 2-Wasserstein distance from the real law in one dimension, (R,)."""
    return square_error(fits, t, data) + (trace(fits, t).sqrt() - real_covariance(data).trace().sqrt()).square()
