"""A time as a vector."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["time_features"]

STEPS = 1000.0
"""Times are counted as in the literature, where the unit interval has this many steps."""
LONGEST = 10_000.0
"""Ratio of the slowest feature's period to the fastest one's, for many features."""


def time_features(t: Tensor, features: int) -> Tensor:
    r"""Return sines and cosines of geometrically spaced frequencies.

    .. math::
        \gamma(t) = \bigl(\cos \omega_k t,\ \sin \omega_k t\bigr)_{k < n/2}, \qquad
        \omega_k = 1000 \cdot 10000^{-2k/n} \tag{1}

    Args:
        t: Times, (B,) in [0, 1].
        features: n, even and at least 2.

    Returns:
        (B, n), in single precision at least: 16 bits cannot tell two neighboring steps apart.

    Raises:
        ValueError: If n is no such number.

    References:
        Vaswani et al., "Attention Is All You Need", 2017. arXiv:1706.03762, section 3.5.
    """
    if features < 2 or features % 2:
        raise ValueError(f"features = {features} must be even and at least 2: half are cosines, half sines")
    wide = torch.promote_types(t.dtype, torch.float32)
    exponents = torch.arange(features // 2, device=t.device, dtype=wide) / (features // 2)
    angles = t.to(wide)[:, None] * (STEPS * torch.exp(-math.log(LONGEST) * exponents))  # equation 1
    return torch.cat([angles.cos(), angles.sin()], dim=1)
