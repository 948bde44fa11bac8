"""One more position of a transformer at a time, in as few operations as that takes."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from collapse.nn.attention import Attention, attend, rotate, rotations
from collapse.nn.cache import KeyValueCache
from collapse.nn.product import Product
from collapse.nn.transformer import Block, Transformer

__all__ = ["Stepper"]


class Weights(NamedTuple):
    """What a block multiplies with."""

    attention_norm: Tensor
    qkv: Product
    output: Product
    mlp_norm: Tensor
    up: Product
    down: Product


class Stepper:
    """Continue what a transformer has begun: its function of one more position, without gradients and dropout.

    A step of a small network is mostly the way to its operations: calls of modules, casts of weights, one kernel for
    every sum. Here the weights are brought into place once, as they are when this is made, and no module is called.

    Args:
        network: The transformer, as it was made; see ``Transformer.is_as_made``.
        dtype: Type to compute in, whatever autocast is in force.
        positions: How many there will be in all, those before the first step among them.
    """

    def __init__(self, network: Transformer, dtype: torch.dtype, positions: int) -> None:
        blocks = [block for block in network.blocks if isinstance(block, Block)]
        self.heads, self.head_width = blocks[0].attention.heads, network.head_width
        self.eps, self.norm = network.norm.eps, network.norm.weight.to(dtype)
        self.embedding = network.embedding.weight.to(dtype)
        self.head = Product(self.embedding[: network.vocabulary])
        self.blocks = [weights_of(block, dtype) for block in blocks]
        self.places = None if network.positions is None else network.positions.weight.to(dtype)
        self.rotations = None
        if network.positions is None:
            every = rotations(torch.arange(positions, device=self.embedding.device), self.head_width)
            self.rotations = tuple(part.to(dtype) for part in every)

    def __call__(self, tokens: Tensor, cache: KeyValueCache) -> Tensor:
        """Return the logits (B, V) of the tokens after ``tokens`` (B, 1), which come behind those in the cache."""
        with torch.autocast(tokens.device.type, enabled=False):
            x = F.embedding(tokens[:, 0], self.embedding)
            if self.places is not None:
                x = x + self.places[cache.length]
            mask = cache.mask()
            for layer, block in enumerate(self.blocks):
                parts = block.qkv(self._normed(x, block.attention_norm))
                parts = parts.view(len(x), self.heads, 3, 1, self.head_width)
                q, k, v = parts.unbind(2)
                if self.rotations is not None:
                    q, k = rotate(parts[:, :, :2], *(part[cache.length] for part in self.rotations)).unbind(2)
                seen = attend(q, *cache.step(layer, k, v), mask, scaled=True)
                x = block.output.plus(seen.reshape(x.shape), x)
                x = block.down.plus(block.up.gelu(self._normed(x, block.mlp_norm)), x)
            cache.length += 1
            return self.head(self._normed(x, self.norm))

    def _normed(self, x: Tensor, scale: Tensor) -> Tensor:
        return F.layer_norm(x, scale.shape, scale, None, self.eps)


def weights_of(block: Block, dtype: torch.dtype) -> Weights:
    """Return a block's weights in a type."""
    up, down = (part for part in block.mlp if isinstance(part, nn.Linear))
    return Weights(
        block.attention_norm.weight.to(dtype),
        Product(by_head(block.attention).to(dtype)),
        Product(block.attention.output.weight.to(dtype)),
        block.mlp_norm.weight.to(dtype),
        Product(up.weight.to(dtype)),
        Product(down.weight.to(dtype)),
    )


def by_head(attention: Attention) -> Tensor:
    """Return the weights that give queries, divided by the root of D, keys and values of one head after the other.

    Queries of all rows and heads then lie at equal distances, and a product takes them from where they are.
    """
    parts = rearrange(attention.qkv.weight, "(part h d) w -> h part d w", part=3, h=attention.heads).clone()
    parts[:, 0] *= parts.shape[2] ** -0.5
    return parts.flatten(0, 2)
