"""Models: what a generation trains and harvests."""

from collapse.models.estimators import (
    KDE,
    PPCA,
    Categorical,
    Gaussian,
    GaussianDiffusion,
    GaussianMixture,
    Histogram,
    LinearRegression,
    NGram,
)
from collapse.models.generative import GenerativeModule
from collapse.models.vae import VAE

__all__ = [
    "GenerativeModule",
    "VAE",
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
