"""Estimators with closed-form theory: the oracle of the recursion."""

from collapse.models.estimators.estimator import Estimator
from collapse.models.estimators.gaussian import Gaussian

__all__ = ["Estimator", "Gaussian"]
