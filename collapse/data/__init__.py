"""Data: rows with their provenance, the pool and the mixture over it, the store, and the data sets."""

from collapse.data.contaminated import Contaminated
from collapse.data.discrete import CategoricalData, MarkovData, ZipfData
from collapse.data.ingested import Ingested
from collapse.data.mixture import Mixture
from collapse.data.module import RecursiveDataModule
from collapse.data.plane import GridOfGaussians, RingOfGaussians, TwoMoons
from collapse.data.pool import DataPool
from collapse.data.regression import RegressionData
from collapse.data.rows import Batch, Origin, Samples
from collapse.data.store import GenerationStore
from collapse.data.text import PydocText, TextFile
from collapse.data.toy import GaussianData, GaussianMixtureData
from collapse.data.vision import CIFAR10, MNIST, Digits, FashionMNIST

__all__ = [
    "Batch",
    "DataPool",
    "GenerationStore",
    "Mixture",
    "Origin",
    "RecursiveDataModule",
    "Samples",
    "Digits",
    "MNIST",
    "FashionMNIST",
    "CIFAR10",
    "GaussianData",
    "GaussianMixtureData",
    "RegressionData",
    "CategoricalData",
    "ZipfData",
    "MarkovData",
    "RingOfGaussians",
    "GridOfGaussians",
    "TwoMoons",
    "PydocText",
    "TextFile",
    "Ingested",
    "Contaminated",
]
