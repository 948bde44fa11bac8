"""A decoder-only transformer: pre-norm, rotary or learned positions, one matrix for embedding and head."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from collapse.nn.attention import Attention, View, rotations, window_mask
from collapse.nn.cache import KeyValueCache
from collapse.nn.dropout import Dropout
from collapse.nn.linear import Linear, linear

__all__ = ["Transformer"]

SPREAD = 0.02
"""Standard deviation of the initial weights."""


class Block(nn.Module):
    """Attention, then a perceptron on every position, each added to what came in.

    Args:
        width: Size of a position's vector.
        heads: Number of heads.
        dropout: Share of what is added that is left out in training, in [0, 1).
    """

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.attention_norm, self.attention = nn.LayerNorm(width, bias=False), Attention(width, heads)
        self.mlp_norm = nn.LayerNorm(width, bias=False)
        self.mlp = nn.Sequential(Linear(width, 4 * width, bias=False), nn.GELU(), Linear(4 * width, width, bias=False))
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, view: View, cache: KeyValueCache | None = None, layer: int = 0) -> Tensor:
        """Map (B, T, W) to (B, T, W)."""
        x = x + self.dropout(self.attention(self.attention_norm(x), view, cache, layer))
        return x + self.dropout(self.mlp(self.mlp_norm(x)))


class Transformer(nn.Module):
    """Map tokens to the logits of the token after each of them, from the ``window`` tokens up to it.

    One matrix embeds tokens and reads logits off. It has a row more than there are tokens: token ``vocabulary`` begins
    a sequence and is never predicted. Layers have no biases.

    Args:
        vocabulary: Number of tokens V that are predicted, at least 1.
        window: Positions that attention reaches, its own among them, at least 1.
        layers: Number of blocks, at least 1.
        heads: Number of heads, a divisor of ``width``.
        width: Size W of a position's vector; with rotary positions a multiple of 2 ``heads``.
        rotary: Rotary positions, which know distances; False for learned ones, of which there are ``window``.
        dropout: Share of the residual branches' and embeddings' values left out in training, in [0, 1).
        checkpointing: Compute the blocks' insides again in the backward pass, for less memory.

    Raises:
        ValueError: If an argument is outside its range.

    References:
        Radford et al., "Language Models are Unsupervised Multitask Learners", 2019, section 2.3 (pre-norm, scaled
        initialization). Su et al., "RoFormer", arXiv:2104.09864, equation 34 (rotary positions).

    Example:
        >>> sum(p.numel() for p in Transformer(257, 128, layers=4, heads=4, width=128).parameters())
        820608
    """

    def __init__(
        self,
        vocabulary: int,
        window: int,
        *,
        layers: int = 4,
        heads: int = 4,
        width: int = 128,
        rotary: bool = True,
        dropout: float = 0.0,
        checkpointing: bool = False,
    ) -> None:
        if min(vocabulary, window, layers, heads, width) < 1 or not 0 <= dropout < 1:
            raise ValueError(
                f"vocabulary = {vocabulary}, length = {window}, layers = {layers}, heads = {heads}, width = {width}, "
                f"dropout = {dropout}: the sizes must be at least 1 and dropout in [0, 1)"
            )
        if width % heads or (rotary and width // heads % 2):
            raise ValueError(
                f"width = {width} cannot be shared among heads = {heads}; use a multiple of the heads, and with rotary "
                "positions of twice as many"
            )
        super().__init__()
        self.vocabulary, self.window, self.checkpointing = vocabulary, window, checkpointing
        self.head_width = width // heads
        self.embedding = nn.Embedding(vocabulary + 1, width)
        self.positions = None if rotary else nn.Embedding(window, width)
        self.dropout = Dropout(dropout)
        self.blocks = nn.ModuleList(Block(width, heads, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width, bias=False)
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:  # every block adds two branches: their sum shall not grow with the depth
                branch = name.endswith(("attention.output.weight", "mlp.2.weight"))
                nn.init.normal_(parameter, std=SPREAD / math.sqrt(2 * layers) if branch else SPREAD)
        self._made = self._parts()

    def forward(self, tokens: Tensor, cache: KeyValueCache | None = None) -> tuple[Tensor, Tensor]:
        """Return logits and what they were read from.

        Args:
            tokens: (B, T) integers in [0, V], V being the begin token. With a cache the positions after those in it:
                any number at first, one at a time from then on.
            cache: Memory of the positions before; None for whole sequences.

        Returns:
            Logits (B, T, V) and hidden states (B, T, W); with a cache of the last position alone, T = 1.
        """
        first = 0 if cache is None else cache.length
        places = torch.arange(first, first + tokens.shape[1], device=tokens.device)
        x = self.embedding(tokens)
        x = self.dropout(x if self.positions is None else x + self.positions(places))
        view = self._view(places, cache)
        again = self.checkpointing and self.training and torch.is_grad_enabled()
        for layer, block in enumerate(self.blocks):
            x = checkpoint(block, x, view, use_reentrant=False) if again else block(x, view, cache, layer)
        if cache is not None:
            cache.length, x = cache.length + len(places), x[:, -1:]
        hidden = self.norm(x)
        return linear(hidden, self.embedding.weight[: self.vocabulary]), hidden

    def is_as_made(self) -> bool:
        """Whether the parts are those of a new network, none of them has hooks, and no dropout is in force."""
        parts = list(self.modules())
        watched = any(part._forward_hooks or part._forward_pre_hooks or "forward" in vars(part) for part in parts)
        drops = self.dropout.p > 0 and any(part.training for part in parts)
        return type(self) is Transformer and self._parts() == self._made and not watched and not drops

    def _parts(self) -> list[tuple[str, type, str]]:
        modules = [(name, type(part), part.extra_repr()) for name, part in self.named_modules()]
        return modules + [(name, type(part), str(tuple(part.shape))) for name, part in self.named_parameters()]

    def _view(self, places: Tensor, cache: KeyValueCache | None) -> View:
        rotation = rotations(places, self.head_width) if self.positions is None else None
        if cache is not None and cache.length:
            return View(rotation, cache.mask())
        several, beyond = len(places) > 1, len(places) > self.window
        needs_mask = beyond or (several and places.device.type == "cpu")
        return View(rotation, window_mask(places, self.window) if needs_mask else None)
