"""Measure every generation: the trained model and what it deposited, against held-out real rows."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor

from collapse.callbacks.likelihood import row_likelihood, text_likelihood
from collapse.callbacks.profiles import SHORTEST_TEXT, profile, text_profile
from collapse.data.cache import cache_folder
from collapse.data.generation import Generation, GenerationCallback
from collapse.data.module import RecursiveDataModule
from collapse.data.rows import Samples, decode, encode
from collapse.metrics import ClassifierFeatures, FeatureExtractor, IdentityFeatures
from collapse.seeding import Stream, numpy_generator

__all__ = ["GenerationEvaluation", "cache_folder"]

CLASSIFIER_ROWS = 20_000


@dataclass(frozen=True)
class Yardstick:
    """What a run's samples are measured by.

    Attributes:
        reference: Held-out real rows, (N, *S).
        profile: Compares samples with them.
        floor: The profile of other real rows, N of them.
        likelihood: Asks a model, given the reference rows and its own, what rows cost it.
        extractor: Id of the feature space of the profile; None for text.
    """

    reference: Tensor
    profile: Callable[[Tensor], dict[str, float]]
    floor: Mapping[str, float]
    likelihood: Callable[[Any, Tensor, Tensor], dict[str, float]]
    extractor: str | None = None


class GenerationEvaluation(GenerationCallback):
    """Record a collapse profile of every generation, with its floor: the same profile of other real rows.

    Rows of the trained model are drawn for the occasion, from a stream of their own: no metric sees a row that a later
    generation trains on. What was deposited for that generation, after curation, is measured beside it, as
    ``deposit/...``. Sets have the same size, as the metrics are biased by size; a deposit smaller than the reference is
    measured as it is, and without a floor.

    Labeled data are measured in the features of a small classifier trained once on gold and kept in the user's cache;
    others in their own space; text (data with a ``vocabulary``) by its n-grams. A model with a likelihood is asked what
    the reference rows cost it: ``heldout_nll`` in nats per row, for a model with ``elbo`` an upper bound of it, or
    ``heldout_cross_entropy`` in nats per token of text, with ``self_perplexity`` and ``entropy_rate``. These have no
    floor, as none of them compares two sets of rows. Passed over are data with replicates, as every replicate is an
    experiment of its own, and text in rows of fewer than 4 tokens.

    Args:
        extractor: Another feature space.
        neighbors: k of precision, recall, density, coverage and tail recall.
        max_rows: Most rows per set.
    """

    def __init__(self, extractor: FeatureExtractor | None = None, neighbors: int = 5, max_rows: int = 2000) -> None:
        if neighbors < 1 or max_rows < 2:
            raise ValueError(f"neighbors must be at least 1 and max_rows at least 2, got {neighbors} and {max_rows}")
        self.extractor, self.neighbors, self.max_rows = extractor, neighbors, max_rows
        self._yardstick: Yardstick | None = None

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Forget the data of another chain."""
        self._yardstick = None

    def on_generation_end(self, trainer: pl.Trainer, module: Any, generation: Generation) -> None:
        """Measure on the first process; the others draw their share of what it samples."""
        data = getattr(trainer, "datamodule", None)
        if not trainer.is_global_zero or not isinstance(data, RecursiveDataModule) or data.replicates is not None:
            return
        self._yardstick = real = self._yardstick or self._prepare(data)
        if real is None or generation.sample is None or generation.deposit is None:
            return
        rows = len(real.reference)
        drawn = decode(torch.from_numpy(encode(generation.sample(rows, Stream.EVALUATE), generation.pool.dtype)))
        deposit = generation.deposit.gather(torch.arange(min(rows, len(generation.deposit)))).x
        _record(generation, "", drawn, real)
        _record(generation, "deposit/", deposit, real)
        for name, value in real.likelihood(module, real.reference, drawn).items():
            generation.record(name, value, n=rows)

    def _prepare(self, data: RecursiveDataModule) -> Yardstick | None:
        """Take the reference rows, as many gold rows, and what they are compared by; once per run."""
        gold, held_out = data.gold(), data.reference()
        rows = min(len(gold), len(held_out), self.max_rows)
        if rows < 2:
            return None
        text = data.vocabulary is not None and held_out.x.shape[-1] >= SHORTEST_TEXT  # shorter ones are plain rows
        (reference, labels), (others, _) = _some(held_out, rows, 0).tensors(), _some(gold, rows, 1).tensors()
        if text:
            compare = functools.partial(text_profile, reference)
            return Yardstick(reference, compare, compare(others), text_likelihood)
        space = self.extractor or default_extractor(gold, data.classes)
        compare = functools.partial(profile, reference, extractor=space, classes=data.classes, neighbors=self.neighbors)
        likelihood = functools.partial(row_likelihood, labels=labels)
        return Yardstick(reference, compare, compare(others), likelihood, space.id)


def _record(generation: Generation, prefix: str, rows: Tensor, real: Yardstick) -> None:
    if len(rows) < 2:
        return
    for name, value in real.profile(rows).items():
        space = None if name == "variance_ratio" else real.extractor
        floor = real.floor[name] if len(rows) == len(real.reference) else None  # of sets of these sizes
        generation.record(prefix + name, value, n=len(rows), extractor=space, floor=floor)


def default_extractor(gold: Samples, classes: int | None) -> FeatureExtractor:
    """Return the feature space of a data set: a classifier's where there are labels, else the rows themselves."""
    if classes is None or gold.y is None:
        return IdentityFeatures(tuple(gold.x.shape[1:]))
    x, y = _some(gold, min(len(gold), CLASSIFIER_ROWS), 2).tensors()
    if y is None:
        raise ValueError("the gold set lost its labels on the way to the classifier; report this")
    return ClassifierFeatures.fit(x.float(), y, classes, cache=cache_folder())


def _some(samples: Samples, rows: int, slot: int) -> Samples:
    """Return ``rows`` rows of a set, the same ones in every run."""
    if rows == len(samples):
        return samples
    chosen = np.sort(numpy_generator(0, Stream.EVALUATE, slot).permutation(len(samples))[:rows])
    return samples[chosen]
