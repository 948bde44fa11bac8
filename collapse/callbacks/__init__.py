"""Observers: they look at generations and never change one."""

from collapse.callbacks.evaluation import GenerationEvaluation
from collapse.callbacks.gallery import SampleGallery
from collapse.callbacks.progress import ChainProgress

__all__ = ["GenerationEvaluation", "SampleGallery", "ChainProgress"]
