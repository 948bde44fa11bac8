"""Dropout whose random bits a CPU draws four values at a time."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["Dropout"]

STEPS = 2**16
"""Shares that 16 random bits can tell apart."""


class Dropout(nn.Dropout):
    r"""Be ``torch.nn.Dropout``, with fewer random numbers on a CPU.

    .. math::
        y_i = \frac{m_i x_i}{1 - p}, \qquad m_i = [b_i \ge 2^{16} p] \tag{1}

    with independent uniform b_i of 16 bits, four from one number of the generator, which a CPU draws one after the
    other. So p is the nearest multiple of 2^-16, which equation 1 divides by as well: the mean of y is x, up to
    rounding of the factor.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return equation 1 of x, of any shape, in training; x itself otherwise."""
        below = round(self.p * STEPS)
        ordinary = self.inplace or x.device.type != "cpu" or torch.compiler.is_compiling()
        if not self.training or below in (0, STEPS) or ordinary:
            return super().forward(x)
        numbers = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
        bits = numbers.view(torch.int16)[: x.numel()].view(x.shape)
        kept = bits >= below - STEPS // 2  # their lowest is -2^15
        return x * kept.to(x.dtype).mul_(STEPS / (STEPS - below))
