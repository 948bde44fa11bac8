r"""Is this row one of theirs? Conformal p-values of incoming rows, from how far each is from gold.

A row's score is its distance to its k-th nearest other row. Put an incoming row among the N gold rows: if it is real,
any of the N + 1 is as likely as any other to have the largest score, whatever the law and the dimension. So

.. math:: p(y) = \frac{1 + \#\{i : s_i \ge s(y)\}}{N + 1}

is at most a with probability at most a. Two rows that are each other's k-th neighbor tie, and under a continuous law no
others do: the probability is then at least :math:`\lfloor a (N + 1) \rfloor / (N + 1) - 1 / (N + 1)`.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from collapse.metrics.metric import feature_set
from collapse.metrics.neighbors import distances

__all__ = ["Outlyingness", "conformal_outliers", "flat_rows"]


class Outlyingness(NamedTuple):
    """How far incoming rows are from gold.

    Attributes:
        score: (M,) distance to the k-th nearest gold row, in the units of the rows.
        p_value: (M,) float64, share of real rows that would lie as far out, in [1 / (N + 1), 1].
    """

    score: Tensor
    p_value: Tensor


@torch.no_grad()
def conformal_outliers(gold: Tensor, incoming: Tensor, k: int = 5, *, chunk_size: int = 1024) -> Outlyingness:
    r"""Score incoming rows by their distance to gold, and say how unusual each score is for a real row.

    The gold score :math:`s_i` is the leave-one-out distance of :math:`x_i`, with the incoming row in the place of the
    one left out, so that all N + 1 scores are of sets of one size. Each incoming row is tested alone: the others are no
    neighbors of its, and a cluster of strange rows cannot hide itself.

    The rate holds on average over gold sets. Beside one gold set, the share of real rows with p <= a scatters around a
    with a standard deviation of about :math:`\sqrt{a (1 - a) / N}`.

    Args:
        gold: Real rows or their features, (N, *S), N > k, finite.
        incoming: Rows to test, (M, *S), M >= 1, finite.
        k: Number of neighbors, at least 1.
        chunk_size: Rows whose distances are held at once; memory is O(chunk_size * N).

    Returns:
        Scores and p-values, each (M,). A row with k copies in gold has score 0 and p-value 1.

    Raises:
        ValueError: If k or chunk_size is below 1, gold has k rows or fewer, or the sets are not finite rows of one
            shape on one device.

    References:
        Bates et al., "Testing for outliers with conformal p-values", Annals of Statistics 51, 2023. arXiv:2104.08279.
        Ramaswamy et al., "Efficient algorithms for mining outliers from large data sets", SIGMOD 2000.
    """
    if k < 1:
        raise ValueError(f"k = {k}, but a score needs at least one neighbor; use k >= 1, for example 5.")
    if chunk_size < 1:
        raise ValueError(f"chunk_size = {chunk_size}, but at least one row is needed; use chunk_size >= 1.")
    x, y = flat_rows(gold, incoming, gold_rows=k + 1, incoming_rows=1)
    # A row is at distance 0 from itself: entry k is its k-th nearest other row, and k - 1 = 0 no neighbor at all.
    nearest = [distances(part, x).topk(k + 1, largest=False).values[:, k - 1 :] for part in x.split(chunk_size)]
    closer, radius = torch.cat(nearest).unbind(1)
    scores, counts = [], []
    for part in y.split(chunk_size):
        d = distances(part, x)  # (chunk, N)
        own = d.topk(k, largest=False).values[:, -1]
        theirs = torch.where(d < radius, torch.maximum(d, closer), radius)  # the incoming row is a neighbor, too
        scores.append(own)
        counts.append((theirs >= own[:, None]).sum(1))
    return Outlyingness(torch.cat(scores), (1 + torch.cat(counts)).double() / (len(x) + 1))


def flat_rows(gold: Tensor, incoming: Tensor, *, gold_rows: int, incoming_rows: int) -> tuple[Tensor, Tensor]:
    """Check two sets of rows and flatten each row into a vector.

    Args:
        gold: Real rows, (N, *S), finite.
        incoming: Rows to compare with them, (M, *S), finite.
        gold_rows: Smallest N.
        incoming_rows: Smallest M.

    Returns:
        Both sets, (N, D) and (M, D), in float64 if one of them was and in float32 otherwise.

    Raises:
        ValueError: If a set is too small or not finite, or the rows differ in shape or device.
    """
    if gold.shape[1:] != incoming.shape[1:]:
        raise ValueError(
            f"gold has rows of shape {tuple(gold.shape[1:])} and incoming of {tuple(incoming.shape[1:])}; "
            "only rows of one shape can be compared."
        )
    if gold.device != incoming.device:
        raise ValueError(f"gold is on {gold.device} and incoming on {incoming.device}; move one of them.")
    width = math.prod(gold.shape[1:])
    x = feature_set("gold", gold.reshape(len(gold), width), rows=gold_rows)
    y = feature_set("incoming", incoming.reshape(len(incoming), width), rows=incoming_rows)
    dtype = torch.promote_types(x.dtype, y.dtype)
    return x.to(dtype), y.to(dtype)
