"""Chains of categories: diversity, support, and what is forgotten."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from collapse.data import CategoricalData
from collapse.models import Categorical
from collapse.oracle.quantity import Fits, Law, Quantity
from collapse.oracle.regime import Accumulate, Coin, Fraction, Regime, ReplaceRegime, Setting, Subsample
from collapse.theory import categorical as theory

__all__ = ["categorical_quantities"]

EXACT = 1000
"""Most rows of a fit for which extinction is computed from the exact chain of counts, n + 1 states of it."""


def categorical_quantities(setting: Setting, regime: Regime | None) -> list[Quantity]:
    """Return heterozygosity, entropy, support, the real mass of what is lost, and the fits to one category."""
    model, data = setting.model, setting.data
    assert isinstance(model, Categorical)
    laws: dict[str, Law] = {}
    unbiased = not model.sampler_settings and isinstance(data, CategoricalData)
    if unbiased:
        real = real_probabilities(data).numpy()
        laws = LAWS.get((type(regime), model.smoothing > 0), _none)(regime, real, model)
    found = [
        Quantity("heterozygosity", heterozygosity, laws.get("heterozygosity")),
        Quantity("entropy", entropy, laws.get("entropy")),
        Quantity("support", support, laws.get("support")),
        Quantity("forgotten mass", forgotten_mass, laws.get("forgotten mass")),
    ]
    if model.smoothing == 0 and isinstance(regime, ReplaceRegime) and setting.generations >= 10 * regime.n:
        found.append(Quantity("fits to one symbol", absorption, laws.get("absorption"), once=True, needs=every))
    return found


# --- laws by regime ---------------------------------------------------------------------------------------------------


def _none(*unused: Any) -> dict[str, Law]:
    return {}


def _replace(regime: ReplaceRegime, p: np.ndarray, model: Categorical) -> dict[str, Law]:
    if regime.first != regime.n:
        return {}
    n = regime.n
    laws: dict[str, Law] = {"heterozygosity": lambda t: theory.replace_expected_heterozygosity(t, n, probabilities=p)}
    if len(p) <= 2 * EXACT and n <= EXACT:
        laws["entropy"] = lambda t: theory.replace_expected_entropy(t, n, probabilities=p)
        laws["support"] = lambda t: theory.replace_expected_support(t, n, probabilities=p)
        laws["forgotten mass"] = lambda t: theory.replace_expected_forgotten_mass(t, n, probabilities=p)
    if len(p) <= 2 * EXACT and n <= EXACT // 4:
        laws["absorption"] = lambda t: theory.replace_expected_absorption_time(n, probabilities=p)
    elif len(p) > 2 * EXACT:  # the first fit alone
        laws["support"] = lambda t: theory.first_fit_expected_support(n, probabilities=p) if t == 1 else float("nan")
        laws["forgotten mass"] = lambda t: (
            theory.first_fit_expected_missing_mass(n, probabilities=p) if t == 1 else float("nan")
        )
    return laws


def _smoothed(regime: ReplaceRegime, p: np.ndarray, model: Categorical) -> dict[str, Law]:
    if regime.first != regime.n:
        return {}
    return {
        "heterozygosity": lambda t: theory.smoothing_expected_heterozygosity(
            t, regime.n, probabilities=p, pseudocount=model.smoothing
        )
    }


def _accumulate(regime: Accumulate, p: np.ndarray, model: Categorical) -> dict[str, Law]:
    law: dict[str, Any] = {"probabilities": p, "n0": regime.first}
    return {
        "heterozygosity": lambda t: theory.accumulate_expected_heterozygosity(t, regime.n, **law),
        "support": lambda t: theory.accumulate_expected_support(t, regime.n, **law),
    }


def _subsample(regime: Subsample, p: np.ndarray, model: Categorical) -> dict[str, Law]:
    law: dict[str, Any] = {"size": regime.size, "replacement": regime.replacement, "n0": regime.first}
    return {
        "heterozygosity": lambda t: theory.accumulate_subsample_expected_heterozygosity(
            t, regime.n, probabilities=p, **law
        )[0],
    }


def _fraction(regime: Fraction, p: np.ndarray, model: Categorical) -> dict[str, Law]:
    law = {"n_real": regime.real, "n_synthetic": regime.synthetic, "n_first": regime.first}
    return {
        "heterozygosity": lambda t: theory.real_fraction_expected_heterozygosity(
            t, **law, probabilities=p, dataset_size=regime.dataset
        )
    }


def _coin(regime: Coin, p: np.ndarray, model: Categorical) -> dict[str, Law]:
    if regime.first != regime.n:
        return {}
    return {
        "heterozygosity": lambda t: theory.independent_mixture_expected_heterozygosity(
            t, regime.n, real_fraction=regime.fraction, probabilities=p
        )
    }


LAWS: dict[tuple[type, bool], Callable[..., dict[str, Law]]] = {  # by regime, and whether counts are smoothed
    (ReplaceRegime, False): _replace,
    (ReplaceRegime, True): _smoothed,
    (Accumulate, False): _accumulate,
    (Subsample, False): _subsample,
    (Fraction, False): _fraction,
    (Coin, False): _coin,
}


# --- statistics -------------------------------------------------------------------------------------------------------


def real_probabilities(data: Any) -> Tensor:
    """Return the real law's probabilities, (K,) float64."""
    return torch.as_tensor(data.probabilities, dtype=torch.float64)


def heterozygosity(fits: Fits, t: int) -> Tensor:
    """Probability that two draws differ, (R,)."""
    return 1 - fits.state(t)["probabilities"].square().sum(1)


def entropy(fits: Fits, t: int) -> Tensor:
    """Entropy in nats, (R,)."""
    return torch.special.entr(fits.state(t)["probabilities"]).sum(1)


def support(fits: Fits, t: int) -> Tensor:
    """Number of categories left, (R,)."""
    return (fits.state(t)["probabilities"] > 0).double().sum(1)


def forgotten_mass(fits: Fits, t: int) -> Tensor:
    """Real probability of the categories that are lost, (R,)."""
    return (fits.state(t)["probabilities"] == 0).double() @ real_probabilities(fits.setting.data)


def every(t: int) -> range:
    """All fits up to t."""
    return range(1, t + 1)


def absorption(fits: Fits, t: int) -> Tensor:
    """First fit with one category, (R,); NaN makes the chain's length show where a replicate has not come to that."""
    first = torch.full_like(support(fits, 1), torch.nan)
    for index in range(1, t + 1):
        first = torch.where(first.isnan() & (support(fits, index) == 1), float(index), first)
    return first
