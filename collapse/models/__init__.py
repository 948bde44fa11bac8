"""Models: what a generation trains and harvests."""

from collapse.models.diffusion import Diffusion
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
from collapse.models.gpt import GPT
from collapse.models.pretrained import PretrainedLM
from collapse.models.vae import VAE

__all__ = [
    "GenerativeModule",
    "VAE",
    "Diffusion",
    "GPT",
    "PretrainedLM",
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
