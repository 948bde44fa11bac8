"""Causal attention over a window, with rotary positions, for whole texts and token by token."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from collapse.nn.cache import KeyValueCache
from collapse.nn.linear import Linear

__all__ = ["Attention", "View", "attend", "rotate", "rotations", "window_mask"]

LONGEST = 10_000.0
"""The slowest pair of a rotary position turns by about one radian in so many tokens."""


class View(NamedTuple):
    """What the layers share about the positions of a batch.

    Attributes:
        rotation: Cosines and signed sines of equation 2, (T, D) each; None without rotary positions.
        mask: (T, S) to add to the scores, 0 where a position may look and -inf where not; None where nothing but the
            order of positions limits it.
    """

    rotation: tuple[Tensor, Tensor] | None
    mask: Tensor | None


class Attention(nn.Module):
    r"""Let every position take a mean of what those before it hold, and itself, once per head.

    .. math::
        o_i = \sum_{i - w < j \le i} \operatorname{softmax}_j\!\left(\frac{q_i^\top k_j}{\sqrt D}\right) v_j \tag{1}

    Args:
        width: Size W of a position's vector.
        heads: Number of heads H, a divisor of W; D = W / H.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = Linear(width, 3 * width, bias=False)
        self.output = Linear(width, width, bias=False)

    def forward(self, x: Tensor, view: View, cache: KeyValueCache | None = None, layer: int = 0) -> Tensor:
        """Return equation 1 of (B, T, W), in that shape; with a cache, over the positions in it as well."""
        parts = rearrange(self.qkv(x), "b t (part h d) -> part b h t d", part=3, h=self.heads)
        if view.rotation is None:
            q, k, v = parts.unbind()
        else:
            turned, values = parts.split((2, 1))  # whose gradients are put together, where an index would add them up
            (q, k), v = rotate(turned, *view.rotation).unbind(), values.squeeze(0)
        if cache is not None and cache.length:
            k, v = cache.step(layer, k, v)
        elif cache is not None:
            cache.fill(k, v)
        return self.output(rearrange(attend(q, k, v, view.mask), "b h t d -> b t (h d)"))


def rotations(places: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Return cos and signed sin of the angles by which position m turns each pair of a head's values, (T, D) each."""
    pairs = torch.arange(0, width, 2, device=places.device, dtype=torch.float32) / width  # whatever the default is
    angles = places[:, None] * LONGEST**-pairs
    return angles.cos().repeat(1, 2), torch.cat([-angles.sin(), angles.sin()], -1)


def rotate(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    r"""Turn the pairs (a, b) of values that stand half a head apart, in place of adding a position.

    .. math:: (a, b) \mapsto (a \cos m\theta - b \sin m\theta,\; b \cos m\theta + a \sin m\theta) \tag{2}

    A product of two such vectors depends on the difference of their positions alone.
    """
    swapped = x.roll(x.shape[-1] // 2, -1)
    return torch.addcmul(x * cosine.to(x.dtype), swapped, sine.to(x.dtype))  # equation 2


def window_mask(places: Tensor, window: int) -> Tensor:
    """Return 0 where position i may look at j, i - window < j <= i, and -inf elsewhere, (T, T)."""
    distance = places[:, None] - places
    hidden = (distance < 0) | (distance >= window)
    return torch.zeros_like(distance, dtype=torch.float32).masked_fill_(hidden, -math.inf)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, *, scaled: bool = False) -> Tensor:
    """Return equation 1 for queries (B, H, T, D), keys and values (B, H, S, D) and a mask (T, S) or None.

    Queries that are ``scaled`` have been divided by the root of D already. On a CPU plain products of matrices are
    faster than the fused kernel, in 16 bits by far.
    """
    if q.device.type != "cpu":
        mask = None if mask is None else mask.to(q.dtype)
        causal, scale = mask is None and q.shape[2] > 1, 1.0 if scaled else None
        return F.scaled_dot_product_attention(q, k, v, mask, is_causal=causal, scale=scale)
    heads = q.shape[:2]
    q, k, v = (part.flatten(0, 1) for part in (q if scaled else q * q.shape[-1] ** -0.5, k, v))
    # Keys that lie together: a copy is cheaper than what a product does with a transposed view of others.
    scores = torch.bmm(q, k.contiguous().transpose(1, 2))
    scores = scores if mask is None else scores.add_(mask.to(q.dtype))
    return torch.bmm(scores.softmax(-1), v).unflatten(0, heads)
