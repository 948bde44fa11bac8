"""Fully connected networks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

from torch import nn

from collapse.nn.linear import Linear

__all__ = ["MLP"]


class MLP(nn.Sequential):
    r"""Stack affine layers with an activation between them, none after the last.

    .. math:: f = A_L \circ \phi \circ A_{L-1} \circ \dots \circ \phi \circ A_1, \qquad A_l x = W_l x + b_l

    Maps (..., sizes[0]) to (..., sizes[-1]).

    Args:
        sizes: Widths from input to output, at least two, each at least 1.
        activation: Makes one :math:`\phi` per inner layer.

    Raises:
        ValueError: If there are fewer than two sizes or one is below 1.

    Example:
        >>> sum(p.numel() for p in MLP((64, 256, 16)).parameters())
        20752
    """

    def __init__(self, sizes: Sequence[int], activation: Callable[[], nn.Module] = nn.ReLU) -> None:
        if len(sizes) < 2 or min(sizes) < 1:
            raise ValueError(f"sizes must be at least two positive widths, input to output, got {tuple(sizes)}")
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(sizes):
            layers += [Linear(inputs, outputs), activation()]
        super().__init__(*layers[:-1])
