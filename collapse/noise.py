"""Noise that belongs to a row: the same in whatever batch, on whatever process the row is met.

A generator's numbers depend on how many were drawn before, so a row's noise would depend on its neighbors. Here every
number is a hash of its address instead, (key, row, place), computed for all rows at once on their device: counter-based
random numbers as in Salmon et al., with the finalizer of SplitMix64, which ``seeding.key`` uses as well.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["row_normal", "row_uniform"]

# 64-bit integers wrap around; torch has them with a sign only, hence the constants' complements.
_GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)
_FIRST, _SECOND = 0xBF58476D1CE4E5B9 - (1 << 64), 0x94D049BB133111EB - (1 << 64)
_LOW = (1 << 32) - 1
_UNIT = 2.0**-32


def row_uniform(key: int, rows: Tensor, count: int) -> Tensor:
    """Return ``count`` numbers for each row, uniform in (0, 1].

    Args:
        key: What the numbers are for, in [0, 2^63): ``clock.key(Stream.NOISE)``.
        rows: (B,) int64 rows. A row that is there twice has the same numbers twice.
        count: Numbers for each.

    Returns:
        (B, count) float32 on the device of ``rows``; on the CPU the same bits whatever the other rows are.
    """
    return _unit(_bits(key, rows, count) & _LOW)


def row_normal(key: int, rows: Tensor, shape: tuple[int, ...]) -> Tensor:
    r"""Return independent standard normal numbers for each row, from pairs of uniform ones.

    .. math:: z_1 = \sqrt{-2\log u_1}\,\cos 2\pi u_2, \qquad z_2 = \sqrt{-2\log u_1}\,\sin 2\pi u_2 \tag{1}

    With 32 bits in each they reach out to 6.7.

    Args:
        key: What the numbers are for, in [0, 2^63): ``clock.key(Stream.NOISE)``.
        rows: (B,) int64 rows. A row that is there twice has the same numbers twice: no batch, and no number of
            processes, may matter. The gradient stays unbiased, as with a weight of two on the row.
        shape: Shape S of a row.

    Returns:
        (B, *S) float32 on the device of ``rows``; on the CPU the same bits whatever the other rows are.

    References:
        Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011. Box, Muller, "A note on the
        generation of random normal deviates", 1958. Steele, Lea, Flood, "Fast splittable pseudorandom number
        generators", OOPSLA 2014.
    """
    size = math.prod(shape)
    bits = _bits(key, rows, -(-size // 2))
    radius = _unit((bits >> 32) & _LOW).log_().mul_(-2).sqrt_()
    angle = _unit(bits.bitwise_and_(_LOW)).mul_(2 * math.pi)
    values = torch.cat([radius * angle.cos(), radius.mul_(angle.sin_())], 1)  # equation 1
    return values[:, :size].reshape(len(rows), *shape)


def _bits(key: int, rows: Tensor, count: int) -> Tensor:
    """Hash (key, row, place) to 64 bits, (B, count) int64: a SplitMix64 stream for each row, seeded by one of rows."""
    streams = _mix(rows.long().add(1).mul_(_GOLDEN).add_(key))
    places = torch.arange(1, count + 1, device=rows.device).mul_(_GOLDEN)
    return _mix(streams[:, None] + places)


def _mix(bits: Tensor) -> Tensor:
    """Finalize in place; shifts of signed integers drag the sign along, which the masks take off."""
    bits.bitwise_xor_((bits >> 30).bitwise_and_((1 << 34) - 1)).mul_(_FIRST)
    bits.bitwise_xor_((bits >> 27).bitwise_and_((1 << 37) - 1)).mul_(_SECOND)
    return bits.bitwise_xor_((bits >> 31).bitwise_and_((1 << 33) - 1))


def _unit(bits: Tensor) -> Tensor:
    """Map 32 bits to (0, 1]: the middle of their interval, rounded."""
    return bits.float().add_(0.5).mul_(_UNIT)
