"""Estimators with closed-form theory: the oracle of the recursion."""

from collapse.models.estimators.categorical import Categorical
from collapse.models.estimators.diffusion import GaussianDiffusion
from collapse.models.estimators.estimator import Estimator
from collapse.models.estimators.gaussian import Gaussian
from collapse.models.estimators.histogram import Histogram
from collapse.models.estimators.kde import KDE
from collapse.models.estimators.mixture import GaussianMixture
from collapse.models.estimators.ngram import NGram
from collapse.models.estimators.ppca import PPCA
from collapse.models.estimators.regression import LinearRegression

__all__ = [
    "Estimator",
    "Gaussian",
    "GaussianMixture",
    "GaussianDiffusion",
    "PPCA",
    "KDE",
    "Histogram",
    "Categorical",
    "NGram",
    "LinearRegression",
]
