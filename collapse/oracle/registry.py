"""Which quantities a model's chains are judged by."""

from __future__ import annotations

from collections.abc import Callable

from collapse.models import GenerativeModule
from collapse.oracle.categories import categorical_quantities
from collapse.oracle.densities import kernel_quantities, mixture_quantities
from collapse.oracle.gaussian import gaussian_quantities
from collapse.oracle.quantity import Quantity
from collapse.oracle.regime import Setting, regime_of
from collapse.oracle.regression import regression_quantities

__all__ = ["check_theory", "quantities"]

QUANTITIES: dict[str, Callable[..., list[Quantity]]] = {
    "Gaussian": gaussian_quantities,
    "LinearRegression": regression_quantities,
    "Categorical": categorical_quantities,
    "KDE": kernel_quantities,
    "GaussianMixture": mixture_quantities,
}


def quantities(setting: Setting) -> list[Quantity]:
    """Return the quantities of a setting, with their laws where its regime has any.

    Raises:
        ValueError: If nothing is known about chains of its model.
    """
    check_theory(setting.model)
    return QUANTITIES[type(setting.model).__name__](setting, regime_of(setting))


def check_theory(model: GenerativeModule) -> None:
    """Raise ValueError if nothing is known about chains of a model."""
    name = type(model).__name__
    if name not in QUANTITIES:
        known = ", ".join(sorted(QUANTITIES))
        raise ValueError(f"there is no theory for chains of {name}; there is for {known}")
