"""Models: what a generation trains and harvests."""

from collapse.models.estimators import Gaussian
from collapse.models.generative import GenerativeModule
from collapse.models.vae import VAE

__all__ = ["GenerativeModule", "VAE", "Gaussian"]
