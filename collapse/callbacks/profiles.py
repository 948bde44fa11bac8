"""The collapse profile of a set of samples: no single number sees every way to collapse."""

from __future__ import annotations

from torch import Tensor

from collapse.metrics import (
    TEXT_METRICS,
    ClassifierFeatures,
    FeatureExtractor,
    class_histogram,
    frechet_distance,
    neighborhood_profile,
    tail_mass,
    tail_recall,
    total_variation,
    variance_ratio,
)

__all__ = ["SHORTEST_TEXT", "profile", "text_profile"]

SHORTEST_TEXT = 4
"""Fewest tokens of a row of text: the longest n-grams that are counted."""


def profile(
    reference: Tensor, generated: Tensor, extractor: FeatureExtractor, *, classes: int | None = None, neighbors: int = 5
) -> dict[str, float]:
    """Return the collapse profile of one set of samples.

    Args:
        reference: Held-out real rows, (N, *S).
        generated: Samples, (M, *S).
        extractor: Feature space of the Fréchet distance and of the neighborhood metrics.
        classes: Number of classes, if the extractor classifies.
        neighbors: k of precision, recall, density, coverage and tail recall.

    Returns:
        ``fd_<extractor>``, ``precision``, ``recall``, ``density``, ``coverage``, ``tail_recall``, ``tail_mass`` (if
        there are more reference rows than features), ``variance_ratio`` (in the rows' own space) and, with classes,
        ``class_total_variation`` and ``class_share/<k>``.
    """
    features, others = extractor(reference), extractor(generated)
    kind = extractor.id.rsplit("-", 1)[0]
    values = {f"fd_{kind}": float(frechet_distance(features, others))}
    near = min(neighbors, len(features) - 1, len(others) - 1)
    values.update({name: float(value) for name, value in neighborhood_profile(features, others, k=near).items()})
    values["tail_recall"] = float(tail_recall(features, others, k=near))
    if len(features) > features.shape[1] + 1:
        values["tail_mass"] = float(tail_mass(features, others))
    values["variance_ratio"] = float(variance_ratio(*(rows.reshape(len(rows), -1) for rows in (reference, generated))))
    if classes is not None and isinstance(extractor, ClassifierFeatures):
        wanted, found = (class_histogram(extractor.classify(rows), classes) for rows in (reference, generated))
        values["class_total_variation"] = float(total_variation(wanted, found))
        values.update({f"class_share/{index}": float(share) for index, share in enumerate(found)})
    return values


def text_profile(reference: Tensor, generated: Tensor) -> dict[str, float]:
    """Return the collapse profile of one set of token rows: every metric of ``TEXT_METRICS``, by name.

    Args:
        reference: Held-out real rows, (N, L), L at least ``SHORTEST_TEXT``.
        generated: Samples, (M, L).
    """
    return {metric.name: float(metric.compute(reference, generated)) for metric in TEXT_METRICS}
