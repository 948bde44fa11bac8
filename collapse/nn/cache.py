"""Keys and values of the tokens before: what lets a sampler compute every token once."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["KeyValueCache"]


class KeyValueCache:
    """Hold the last ``window`` keys and values of every layer, in memory that is taken once.

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

    def fill(self, keys: Tensor, values: Tensor) -> None:
        """Begin the next layer with the first positions, (B, H, T, D) each, of which the last ``window`` stay."""
        places = torch.arange(keys.shape[2], device=keys.device)[-self.window :] % self.window
        layer = tuple(part.new_empty(*part.shape[:2], self.window, part.shape[3]) for part in (keys, values))
        for memory, part in zip(layer, (keys, values), strict=True):
            memory[:, :, places] = part[:, :, -self.window :]
        self._layers.append((layer[0], layer[1]))

    def step(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Take the next position into a layer, (B, H, 1, D) each; return all that it attends to, (B, H, S, D) each."""
        place, seen = self.length % self.window, min(self.length + 1, self.window)
        keys, values = self._layers[layer]
        keys[:, :, place], values[:, :, place] = key[:, :, 0], value[:, :, 0]
        return keys[:, :, :seen], values[:, :, :seen]
