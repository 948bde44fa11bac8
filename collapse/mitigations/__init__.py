"""Mitigations: callbacks that return terms. This namespace is the registry: what it exports is configurable by name."""

from collapse.mitigations.admission import Admit
from collapse.mitigations.anchor import AnchorReplay
from collapse.mitigations.ema import EMA
from collapse.mitigations.gate import OutlierFilter, PoolGate, PoolRefusedError
from collapse.mitigations.mitigation import Claim, ConflictError, Mitigation, NoEffectWarning, Stage
from collapse.mitigations.retention import DataAccumulation, RealOnly, Replace, SlidingWindow
from collapse.mitigations.sigreg import SIGReg
from collapse.mitigations.stack import MitigationStack
from collapse.mitigations.strata import ProtectedStrata
from collapse.mitigations.weighting import WeightedLikelihood

__all__ = [
    "Mitigation",
    "MitigationStack",
    "Stage",
    "Claim",
    "ConflictError",
    "NoEffectWarning",
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
    "PoolRefusedError",
]
