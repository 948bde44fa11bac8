"""What a metric is: a pure function of two finite sets of features, and what it claims to see."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

__all__ = ["Metric", "feature_set", "feature_sets"]


@dataclass(frozen=True)
class Metric:
    """A scalar metric together with its character, which tables and plots read.

    Args:
        name: Key under which the value is logged.
        compute: Function of a reference set (N, D) and a generated set (M, D), in this order, returning ().
        detects: The kind of collapse that moves the value.
        higher_is_better: Direction of improvement; a controlled degradation must move the value the other way.
        citation: Where the definition is from.
    """

    name: str
    compute: Callable[..., Tensor]
    detects: Literal["fidelity", "diversity", "tails", "memorization"]
    higher_is_better: bool
    citation: str


def feature_set(name: str, x: Tensor, *, rows: int) -> Tensor:
    """Check one set of features and bring it to a floating dtype.

    Args:
        name: What errors call the set.
        x: Features, (N, D), finite.
        rows: Smallest number of rows that the set must have.

    Returns:
        The set with its gradient, (N, D), in float64 if it was and in float32 otherwise.

    Raises:
        ValueError: If the set is not a finite matrix with enough rows and at least one feature.
    """
    if x.ndim != 2 or x.shape[1] == 0:
        raise ValueError(
            f"{name} has shape {tuple(x.shape)}, but metrics compare features of shape (N, D); "
            "pass the rows through a FeatureExtractor, or use x.flatten(1)."
        )
    if len(x) < rows:
        raise ValueError(f"{name} has {len(x)} rows, but at least {rows} are needed; draw more samples.")
    finite = torch.isfinite(x).all(dim=1)
    if not finite.all():
        raise ValueError(
            f"{name} has {int((~finite).sum())} of {len(x)} rows with NaN or infinity; "
            "drop these rows, or find out why the model emits them."
        )
    return x.to(torch.promote_types(x.dtype, torch.float32))


def feature_sets(reference: Tensor, generated: Tensor, *, rows: int) -> tuple[Tensor, Tensor]:
    """Check two sets of features and bring them to one floating dtype.

    Args:
        reference: Features of the reference set, (N, D), finite.
        generated: Features of generated samples, (M, D), finite.
        rows: Smallest number of rows that either set must have.

    Returns:
        Both sets with their gradients, (N, D) and (M, D), in float64 if one of them was and in float32 otherwise.

    Raises:
        ValueError: If a set is not a finite matrix with enough rows, or the sets differ in width or device.
    """
    x, y = feature_set("reference", reference, rows=rows), feature_set("generated", generated, rows=rows)
    if x.shape[1] != y.shape[1]:
        raise ValueError(
            f"reference has {x.shape[1]} features and generated has {y.shape[1]}; "
            "use the same FeatureExtractor for both."
        )
    if x.device != y.device:
        raise ValueError(f"reference is on {x.device} and generated on {y.device}; move one of them.")
    dtype = torch.promote_types(x.dtype, y.dtype)
    return x.to(dtype), y.to(dtype)
