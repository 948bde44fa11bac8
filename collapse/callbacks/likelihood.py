"""How well a trained model predicts rows: what they cost it in nats."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from collapse.data.rows import UNLABELED
from collapse.models.generative import GenerativeModule, sampling
from collapse.models.sharding import is_sharded
from collapse.seeding import Stream, generator

__all__ = ["Bounded", "Exact", "negative_log_likelihood", "row_likelihood", "text_likelihood"]

CHUNK = 256


@runtime_checkable
class Exact(Protocol):
    """A model that knows the probability of a row."""

    def log_prob(self, x: Tensor) -> Tensor:
        """Return log p(x) of rows (B, *S) in nats, (B,)."""


@runtime_checkable
class Bounded(Protocol):
    """A model that knows a lower bound of it."""

    def elbo(
        self, x: Tensor, samples: int = 1, *, y: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """Return a lower bound of log p(x), or of log p(x | y), in expectation, (B,), in nats."""


@torch.no_grad()
def negative_log_likelihood(module: Any, rows: Tensor, labels: Tensor | None = None) -> Tensor | None:
    """Return what each row costs a model in nats: -log p(x), or its bound -ELBO with one draw of z.

    The draws are the same for every model and in every run, so that generations differ by their weights alone.

    Args:
        module: The model; put into evaluation mode and back.
        rows: Rows, (N, *S), in the units of ``Batch.x``.
        labels: (N,) int64, for a model that is conditioned on labels; None for no labels, or a model without classes.

    Returns:
        (N,), float64 on the CPU, infinite where the model excludes a row; None for a model that is neither ``Exact``
        nor ``Bounded``, and for one whose weights are sharded: those can be gathered by all processes together only,
        and one process evaluates.
    """
    evidence = None if is_sharded(module) else _evidence(module)
    if evidence is None:
        return None
    y = torch.full((len(rows),), UNLABELED) if labels is None else labels
    with sampling(module):
        parts = zip(rows.split(CHUNK), y.split(CHUNK), strict=True)
        found = [evidence(part.to(module.device), own.to(module.device)) for part, own in parts]
    return -torch.cat([part.double().cpu() for part in found])


def _evidence(module: Any) -> Callable[[Tensor, Tensor], Tensor] | None:
    """Return what gives log p(x), or its bound with draws of one key; None for other models, and for foreign ones."""
    if not isinstance(module, GenerativeModule):
        return None
    if isinstance(module, Exact):
        return lambda x, y: module.log_prob(x)
    if isinstance(module, Bounded):
        draws, plain = generator(0, Stream.EVALUATE, 3, device=module.device), module.classes is None
        return lambda x, y: module.elbo(x, y=None if plain else y, generator=draws)
    return None


def row_likelihood(
    module: Any, reference: Tensor, generated: Tensor, *, labels: Tensor | None = None
) -> dict[str, float]:
    """Return ``heldout_nll``: the mean cost of a held-out real row, in nats per row; nothing without a likelihood.

    Args:
        module: The trained model.
        reference: Held-out real rows, (N, *S).
        generated: Its samples; not looked at.
        labels: (N,) labels of the reference.
    """
    costs = negative_log_likelihood(module, reference, labels)
    return {} if costs is None else {"heldout_nll": float(costs.mean())}


def text_likelihood(module: Any, reference: Tensor, generated: Tensor) -> dict[str, float]:
    r"""Return how well a model predicts real text, and how well its own.

    .. math:: H(p, q) = -\frac{1}{NL} \sum_i \ln q(x_i), \qquad H(q) \approx -\frac{1}{ML} \sum_j \ln q(y_j)

    Args:
        module: The trained model q.
        reference: Held-out real rows x, (N, L).
        generated: Its samples y, (M, L).

    Returns:
        ``heldout_cross_entropy`` in nats per token; ``self_perplexity``, e to the cost of a token of its own samples;
        and, if sampling is unbiased, ``entropy_rate``: then the logarithm of that estimates the entropy of the model's
        law, in nats per token. A model that is calibrated is as perplexed by its own text as by real text; one that
        has collapsed is less so. Nothing without a likelihood.
    """
    costs, own = (negative_log_likelihood(module, rows) for rows in (reference, generated))
    if costs is None or own is None:
        return {}
    tokens = reference.shape[1]
    rate = own.mean() / tokens
    values = {"heldout_cross_entropy": float(costs.mean() / tokens), "self_perplexity": float(rate.exp())}
    return values if module.sampler_settings else {**values, "entropy_rate": float(rate)}
