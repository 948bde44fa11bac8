"""A fully connected network that sees a noisy row, the time on its path to noise, and perhaps a label."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from collapse.nn.mlp import MLP

__all__ = ["MLPDenoiser"]


class MLPDenoiser(nn.Module):
    r"""Map rows of any shape, times and labels to rows: the U-Net's part for rows that are no images.

    .. math:: f(x, t, y) = \mathrm{MLP}\bigl(x,\; (\sin \omega_k t, \cos \omega_k t)_k,\; e_y\bigr), \qquad
        \omega_k = \pi\, 2^k, \quad k = 0, 1

    What it learns is smooth in t; higher frequencies only let it overfit the times it has seen.

    Args:
        shape: Shape S of a row.
        hidden: Width of the hidden layers, at least 1.
        layers: Number of hidden layers, at least 1.
        classes: Number of labels, each with a vector e of its own, and zero for no label; None for a network without.

    Raises:
        ValueError: If a size is below 1.
    """

    octaves = 2

    def __init__(self, shape: Sequence[int], *, hidden: int = 128, layers: int = 3, classes: int | None = None) -> None:
        super().__init__()
        if min(hidden, layers, 1 if classes is None else classes) < 1:
            raise ValueError(f"hidden = {hidden}, layers = {layers} and classes = {classes} must be at least 1")
        self.shape, self.classes = tuple(shape), classes
        size = math.prod(self.shape)
        self.label = None if classes is None else nn.Embedding(classes, hidden)
        inputs = size + 2 * self.octaves + (0 if classes is None else hidden)
        self.body = MLP((inputs, *[hidden] * layers, size), nn.SiLU)

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        """Return rows.

        Args:
            x: (B, *S) noisy rows.
            t: (B,) times in [0, 1].
            y: (B,) int64 labels, -1 for none; None for none in any row.

        Returns:
            (B, *S).
        """
        phase = t[:, None] * (math.pi * 2.0 ** torch.arange(self.octaves, device=t.device, dtype=t.dtype))
        parts = [x.flatten(1), phase.sin().to(x.dtype), phase.cos().to(x.dtype)]
        if self.label is not None:
            y = torch.full((len(x),), -1, device=x.device) if y is None else y
            parts.append(self.label(y.clamp(min=0)) * (y >= 0)[:, None])
        return self.body(torch.cat(parts, 1)).reshape(x.shape)
