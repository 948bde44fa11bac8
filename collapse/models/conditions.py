"""Conditions: the law of what samples are conditioned on, class labels or the first tokens of a text."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

__all__ = ["Conditions", "LabelLaw", "Prompts", "check_classes", "one_hot"]


class Conditions(Protocol):
    """The law of what a model's samples are conditioned on."""

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw ``n`` conditions with ``generator`` alone, on its device.

        Args:
            n: Number of conditions.
            generator: The only source of randomness.

        Returns:
            (n,) int64 class labels, or (n, p) int64 prompt tokens.
        """


class LabelLaw:
    r"""Class labels, drawn independently from one law.

    .. math:: y = \min\{k : p_0 + \dots + p_k > u\}, \qquad u \sim \mathcal U[0, 1) \tag{1}

    A class of probability 0 is never drawn.

    Args:
        probabilities: (K,) the classes' probabilities up to a common factor, finite, at least 0 and not all 0.

    Raises:
        ValueError: If they are no such law.

    Example:
        >>> LabelLaw([0, 3, 1]).probabilities.tolist()
        [0.0, 0.75, 0.25]
    """

    def __init__(self, probabilities: Sequence[float] | Tensor) -> None:
        weights = torch.as_tensor(probabilities, dtype=torch.float64, device="cpu")
        if weights.ndim != 1 or not bool((weights >= 0).all()) or not 0 < float(weights.sum()) < math.inf:
            raise ValueError(
                f"probabilities = {weights.tolist()} must be one number per class, finite, at least 0 and not all 0"
            )
        self.probabilities = weights / weights.sum()

    @classmethod
    def of(cls, training_facts: Mapping[str, Any]) -> LabelLaw:
        """Return the law of the labels that a generation trains on.

        Args:
            training_facts: What is known of its training set; ``"label_law"`` holds the probabilities.

        Raises:
            ValueError: If none of its rows has a label.
        """
        if "label_law" not in training_facts:
            raise ValueError(
                "no row of the training set has a label, and a conditional model samples labels from their law; "
                "train on labeled rows, or leave the model's classes out"
            )
        return cls(training_facts["label_law"])

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw labels by equation 1.

        Returns:
            (n,) int64 in [0, K), on the generator's device.
        """
        cumulative = self.probabilities.cumsum(0)
        cumulative = (cumulative / cumulative[-1]).to(generator.device)  # ends with 1, which no uniform number reaches
        uniform = torch.rand(n, dtype=torch.float64, generator=generator, device=generator.device)
        return torch.searchsorted(cumulative, uniform, right=True)  # equation 1

    def __repr__(self) -> str:
        return f"LabelLaw({self.probabilities.tolist()})"


class Prompts:
    """Beginnings of texts, drawn uniformly and independently from a list.

    Which prompt a row had is not stored beside it: it is a function of the row's address, and ``places`` under the
    generator of that address says it again.

    Args:
        tokens: (M, p) int64 tokens of M prompts, at least one.

    Raises:
        ValueError: If there is no prompt.
    """

    def __init__(self, tokens: Tensor) -> None:
        if tokens.ndim != 2 or not len(tokens):
            raise ValueError(f"tokens of shape {tuple(tokens.shape)} are no (M, p) table of at least one prompt")
        self.tokens = tokens.long()

    def places(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw which prompt each of ``n`` texts begins with, (n,) int64 in [0, M)."""
        return torch.randint(len(self.tokens), (n,), generator=generator, device=generator.device)

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw prompts.

        Returns:
            (n, p) int64, on the generator's device.
        """
        return self.tokens.to(generator.device)[self.places(n, generator)]

    def __repr__(self) -> str:
        return f"Prompts({len(self.tokens)} of {self.tokens.shape[1]} tokens)"


def one_hot(y: Tensor, classes: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Write labels as unit vectors; -1, no label, becomes zero.

    Unlike torch's function of that name it takes -1, and never waits for the device. So it cannot refuse a label beyond
    the classes either, which becomes zero, too: ``check_classes`` does, where waiting costs nothing.

    Args:
        y: (B,) int64 labels in [-1, classes).
        classes: Their number K.
        dtype: Of the result.

    Returns:
        (B, K).
    """
    return (y[:, None] == torch.arange(classes, device=y.device)).to(dtype)


def check_classes(y: Tensor | None, classes: int | None) -> None:
    """Raise ValueError unless labels are those of a model's classes; the answer waits for the device.

    Args:
        y: (B,) labels; None for none, of which there is nothing to say.
        classes: Number K of the model's classes; None for a model without.
    """
    if y is None or classes is None:
        return
    if y.ndim != 1 or y.is_floating_point():
        raise ValueError(f"y of shape {tuple(y.shape)} and type {y.dtype} holds no labels; give one integer per row")
    low, high = (int(bound) for bound in y.aminmax()) if len(y) else (0, 0)
    if low < -1 or high >= classes:
        raise ValueError(
            f"y holds labels from {low} to {high}, and a model with classes = {classes} knows 0 to {classes - 1}, and "
            "-1 for no label; number the classes from 0, and give classes as many"
        )
