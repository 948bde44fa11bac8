"""Keys and values of the tokens before: what lets a sampler compute every token once."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["KeyValueCache"]

BLOCK = 32
"""Places by which memory grows: a product with memory that lies together costs half of one with a part of it, and one
with places nobody has written yet costs as much as with others."""


class KeyValueCache:
    """Hold the last ``window`` keys and values of every layer, in memory that grows by blocks and never beyond those.

    Position i lies in place i modulo the window: a position that falls out of it makes room for the one that comes in.
    In which order they lie means nothing, as attention is a sum and every key carries its own position.

    Args:
        window: Positions that attention reaches, its own among them, at least 1.

    Attributes:
        length: Positions that have gone through all layers.
    """

    def __init__(self, window: int) -> None:
        self.window, self.length = window, 0
        self._layers: list[tuple[Tensor, Tensor]] = []
        self._edge = torch.empty(0)

    def fill(self, keys: Tensor, values: Tensor) -> None:
        """Begin the next layer with the first positions, (B, H, T, D) each, of which the last ``window`` stay."""
        seen = min(keys.shape[2], self.window)
        places = torch.arange(keys.shape[2], device=keys.device)[-seen:] % self.window
        taken = [part.new_zeros(*part.shape[:2], self._room(seen), part.shape[3]) for part in (keys, values)]
        for memory, part in zip(taken, (keys, values), strict=True):
            memory[:, :, places] = part[:, :, -seen:]
        if not self._layers:
            self._edge = keys.new_zeros(1, self.window + BLOCK)
            self._edge[:, self.window :] = -math.inf
        self._layers.append((taken[0], taken[1]))

    def step(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Take the next position into a layer, (B, H, 1, D) each; return all of its places, (B, H, S, D) each."""
        place, room = self.length % self.window, self._room(self._seen)
        keys, values = self._layers[layer]
        if keys.shape[2] < room:
            more = keys.new_zeros(*keys.shape[:2], room - keys.shape[2], keys.shape[3])
            keys, values = self._layers[layer] = torch.cat([keys, more], 2), torch.cat([values, more], 2)
        keys[:, :, place], values[:, :, place] = key[:, :, 0], value[:, :, 0]
        return keys, values

    def mask(self) -> Tensor | None:
        """Return what is added to the next scores, (1, S), -inf where nothing lies yet; None if all are full."""
        seen, room = self._seen, self._room(self._seen)
        # A copy, since kernels want masks to begin at round addresses.
        return None if room == seen else self._edge[:, self.window - seen :][:, :room].clone()

    @property
    def _seen(self) -> int:
        return min(self.length + 1, self.window)

    def _room(self, positions: int) -> int:
        return min(self.window, -(-positions // BLOCK) * BLOCK)
