"""Measure every generation: the trained model and what it deposited, against held-out real rows."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor

from collapse.data.generation import Generation, GenerationCallback
from collapse.data.module import RecursiveDataModule
from collapse.data.rows import Samples, decode, encode
from collapse.metrics import (
    ClassifierFeatures,
    FeatureExtractor,
    IdentityFeatures,
    class_histogram,
    frechet_distance,
    neighborhood_profile,
    tail_mass,
    total_variation,
    variance_ratio,
)
from collapse.seeding import Stream, numpy_generator

__all__ = ["GenerationEvaluation", "cache_folder", "profile"]

CLASSIFIER_ROWS = 20_000


def cache_folder() -> Path:
    """Return where trained feature extractors are kept: $COLLAPSE_CACHE, or ``collapse`` in the user's cache folder."""
    own = os.environ.get("COLLAPSE_CACHE")
    return Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "collapse"


def profile(
    reference: Tensor, generated: Tensor, extractor: FeatureExtractor, *, classes: int | None = None, neighbors: int = 5
) -> dict[str, float]:
    """Return the collapse profile of one set of samples: no single number sees every way to collapse.

    Args:
        reference: Held-out real rows, (N, *S).
        generated: Samples, (M, *S).
        extractor: Feature space of the Fréchet distance and of the neighborhood metrics.
        classes: Number of classes, if the extractor classifies.
        neighbors: k of precision, recall, density and coverage.

    Returns:
        ``fd_<extractor>``, ``precision``, ``recall``, ``density``, ``coverage``, ``tail_mass`` (if there are more
        reference rows than features), ``variance_ratio`` (in the rows' own space) and, with classes,
        ``class_total_variation`` and ``class_share/<k>``.
    """
    features, others = extractor(reference), extractor(generated)
    kind = extractor.id.rsplit("-", 1)[0]
    values = {f"fd_{kind}": float(frechet_distance(features, others))}
    near = min(neighbors, len(features) - 1, len(others) - 1)
    values.update({name: float(value) for name, value in neighborhood_profile(features, others, k=near).items()})
    if len(features) > features.shape[1] + 1:
        values["tail_mass"] = float(tail_mass(features, others))
    values["variance_ratio"] = float(variance_ratio(*(rows.reshape(len(rows), -1) for rows in (reference, generated))))
    if classes is not None and isinstance(extractor, ClassifierFeatures):
        wanted, found = (class_histogram(extractor.classify(rows), classes) for rows in (reference, generated))
        values["class_total_variation"] = float(total_variation(wanted, found))
        values.update({f"class_share/{index}": float(share) for index, share in enumerate(found)})
    return values


class GenerationEvaluation(GenerationCallback):
    """Record a collapse profile of every generation, with its floor: the same profile of other real rows.

    Rows of the trained model are drawn for the occasion, from a stream of their own: no metric sees a row that a later
    generation trains on. What was deposited for that generation, after curation, is measured beside it, as
    ``deposit/...``. Sets have the same size, as the metrics are biased by size; a deposit smaller than the reference is
    measured as it is, and without a floor.

    Labeled data are measured in the features of a small classifier trained once on gold and kept in the user's cache;
    others in their own space. Data with replicates are passed over: every replicate is an experiment of its own.

    Args:
        extractor: Another feature space.
        neighbors: k of precision, recall, density and coverage.
        max_rows: Most rows per set.
    """

    def __init__(self, extractor: FeatureExtractor | None = None, neighbors: int = 5, max_rows: int = 2000) -> None:
        if neighbors < 1 or max_rows < 2:
            raise ValueError(f"neighbors must be at least 1 and max_rows at least 2, got {neighbors} and {max_rows}")
        self.given, self.neighbors, self.max_rows = extractor, neighbors, max_rows
        self.extractor = extractor
        self._reference: Tensor | None = None
        self._floor: dict[str, float] = {}
        self._classes: int | None = None

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Forget the data of another chain."""
        self.extractor, self._reference, self._floor = self.given, None, {}

    def on_generation_end(self, trainer: pl.Trainer, module: Any, generation: Generation) -> None:
        """Measure on the first process; the others draw their share of what it samples."""
        data = getattr(trainer, "datamodule", None)
        if not trainer.is_global_zero or not isinstance(data, RecursiveDataModule) or data.replicates is not None:
            return
        if self._reference is None:
            self._prepare(data)
        if self._reference is None or generation.sample is None or generation.deposit is None:
            return
        rows = len(self._reference)
        drawn = torch.from_numpy(encode(generation.sample(rows, Stream.EVALUATE), generation.pool.dtype))
        deposit = generation.deposit.gather(torch.arange(min(rows, len(generation.deposit)))).x
        self._record(generation, "", decode(drawn))
        self._record(generation, "deposit/", deposit)

    def _prepare(self, data: RecursiveDataModule) -> None:
        """Take the reference rows, as many gold rows, and the extractor; once per run."""
        gold, reference = data.gold(), data.reference()
        rows = min(len(gold), len(reference), self.max_rows)
        if rows < 2:
            return
        if self.extractor is None:
            self.extractor = default_extractor(gold, data.classes)
        self._classes = data.classes
        self._reference = _some(reference, rows, 0).tensors()[0]
        self._floor = self._profile(_some(gold, rows, 1).tensors()[0])

    def _profile(self, rows: Tensor) -> dict[str, float]:
        if self.extractor is None or self._reference is None:
            return {}
        return profile(self._reference, rows, self.extractor, classes=self._classes, neighbors=self.neighbors)

    def _record(self, generation: Generation, prefix: str, rows: Tensor) -> None:
        if self.extractor is None or self._reference is None or len(rows) < 2:
            return
        for name, value in self._profile(rows).items():
            space = None if name == "variance_ratio" else self.extractor.id
            floor = self._floor.get(name) if len(rows) == len(self._reference) else None  # of sets of these sizes
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
