"""Model collapse, generation by generation, in PyTorch Lightning.

Names are imported when they are first used: ``collapse --help`` must not wait for torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "collapse.recursion": (
        "RecursiveTrainer",
        "run_chain",
        "Chain",
        "Record",
        "GenerationEarlyStopping",
        "EpochCheckpoint",
        "StepCheckpoint",
        "StopForRequeue",
        "StoppedForRequeue",
        "AtomicCheckpointIO",
        "newest_checkpoint",
    ),
    "collapse.callbacks": ("GenerationEvaluation", "SampleGallery", "IncomingCheck", "ChainProgress"),
    "collapse.mitigations": (
        "Mitigation",
        "MitigationStack",
        "Replace",
        "DataAccumulation",
        "SlidingWindow",
        "RealOnly",
        "AnchorReplay",
        "Admit",
        "ProtectedStrata",
        "WeightedLikelihood",
        "SIGReg",
        "EMA",
        "OutlierFilter",
        "PoolGate",
    ),
    "collapse.models": (
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
    ),
    "collapse.data": (
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
    ),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [*_HOME_OF, "__version__"]

if TYPE_CHECKING:
    from collapse.callbacks import *  # noqa: F403
    from collapse.data import *  # noqa: F403
    from collapse.mitigations import *  # noqa: F403
    from collapse.models import *  # noqa: F403
    from collapse.recursion import *  # noqa: F403


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'collapse' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME_OF])
