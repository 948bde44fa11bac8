"""Observers: they look at generations and never change one."""

from collapse.callbacks.evaluation import GenerationEvaluation
from collapse.callbacks.gallery import SampleGallery
from collapse.callbacks.incoming import IncomingCheck, IncomingWarning
from collapse.callbacks.progress import ChainProgress

__all__ = ["GenerationEvaluation", "SampleGallery", "IncomingCheck", "IncomingWarning", "ChainProgress"]
