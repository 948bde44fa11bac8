"""Precision: what must not be computed in the 16 bits of autocast."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["at_least_single"]


def at_least_single(values: Tensor) -> Tensor:
    """Widen what autocast narrowed: logarithms and sums over a row lose too much in 16 bits.

    Convolutions leave channels last in memory; here they come to stand as in a batch, whatever the type.

    Args:
        values: Any floating-point tensor.

    Returns:
        The same in float32 or, if it was wider, in its own type; contiguous.
    """
    return values.to(torch.promote_types(values.dtype, torch.float32), memory_format=torch.contiguous_format)
