r"""A small U-Net over images, conditioned on a time and, if asked, on a class.

Where its time goes is what shaped it: at equal parameters a convolution at half the side costs a quarter, so the first
level is shallow and the last one deep. A block keeps its width, which leaves no projection in any shortcut; halving and
doubling change the width, and a skip is added, not concatenated, so that no convolution sees twice its width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from collapse.nn.linear import Linear
from collapse.nn.time import time_features

__all__ = ["UNet"]

GROUP = 16
"""Channels that are normalized together: what a vector instruction takes; kernels are several times slower below."""
HEAD = 32
"""Channels of an attention head."""
QUIET = 1e-3
"""Scale of a branch's last layer at the start: nearly zero, yet gradients reach what is below it in the first step."""


class UNet(nn.Module):
    r"""Map noisy images and their times to images: an encoder, a decoder and a sum of the two at every side.

    .. math::
        m = A\,\mathrm{silu}\bigl(W_2\,\mathrm{silu}(W_1 \gamma(t)) + e_y\bigr), \qquad e_{-1} = 0 \tag{1}

    .. math::
        h \leftarrow h + C_2\,\mathrm{silu}\bigl((1 + m_s) \odot N(C_1\,\mathrm{silu}(N h)) + m_b\bigr) \tag{2}

    .. math::
        u_l = B'_l\bigl(D_l + U_l u_{l+1}\bigr), \qquad D_{l+1} = B_{l+1}(S_l D_l) \tag{3}

    :math:`\gamma` are ``time_features``, e_y is the embedding of a class, N normalizes groups of channels, C are 3x3
    convolutions, B are the blocks of a level, S halves and U doubles the sides. The time and the class reach every
    block through one affine map A.

    Args:
        shape: (C, H, W) of an image; H and W divisible by 2 as often as there are levels below the first.
        width: Channels of the first level, even and at least 2; a multiple of 32 is fastest.
        multipliers: Channels of each level in units of ``width``, from the image inwards.
        blocks: Residual blocks of each level, at least 1: as many on the way in as on the way out, at the innermost
            level in all.
        attention: Blocks of levels with no side above this one attend over all positions; 0 for none.
        classes: Number of classes; None for a network that takes no labels.
        dropout: Probability of a zero before the second convolution of a block, in [0, 1).
        checkpointing: Whether the backward pass computes a block's inner values again in place of keeping them: less
            memory, the same gradients to the last bit.

    Raises:
        ValueError: If an argument is outside its range or the image cannot be halved that often.

    References:
        Ronneberger, Fischer, Brox, "U-Net", 2015. arXiv:1505.04597.
        Ho, Jain, Abbeel, "Denoising Diffusion Probabilistic Models", 2020. arXiv:2006.11239, appendix B.
        Dhariwal, Nichol, "Diffusion Models Beat GANs on Image Synthesis", 2021. arXiv:2105.05233, section 3 (scale and
        shift, attention heads).
        Hoogeboom, Heek, Salimans, "simple diffusion", 2023. arXiv:2301.11093, section 3 (depth where sides are short).
    """

    def __init__(
        self,
        shape: Sequence[int],
        *,
        width: int = 64,
        multipliers: Sequence[int] = (1, 2, 4),
        blocks: Sequence[int] = (1, 2, 4),
        attention: int = 8,
        classes: int | None = None,
        dropout: float = 0.0,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        validate(width, multipliers, blocks, attention=attention, classes=classes, dropout=dropout)
        sides = halved(shape, len(multipliers) - 1)
        widths = [width * multiplier for multiplier in multipliers]
        self.classes, self.checkpointing = classes, checkpointing

        def level(index: int) -> nn.ModuleList:
            attends = max(sides[index]) <= attention
            return nn.ModuleList(Block(widths[index], attends, dropout) for _ in range(blocks[index]))

        inner = range(len(widths) - 1)
        self.first = nn.Conv2d(shape[0], width, 3, padding=1)
        self.encoder = nn.ModuleList(level(index) for index in inner)
        self.down = nn.ModuleList(nn.Conv2d(widths[i], widths[i + 1], 2, stride=2) for i in inner)
        self.middle = level(len(inner))
        self.up = nn.ModuleList(nn.ConvTranspose2d(widths[i + 1], widths[i], 2, stride=2) for i in reversed(inner))
        self.decoder = nn.ModuleList(level(index) for index in reversed(inner))
        self.last = nn.Sequential(norm(width), nn.SiLU(), quiet(nn.Conv2d(width, shape[0], 3, padding=1)))

        self.width = width
        self.time = nn.Sequential(nn.Linear(width, 4 * width), nn.SiLU(), nn.Linear(4 * width, 4 * width))
        self.label = None if classes is None else nn.Embedding(classes, 4 * width)
        self.splits = [2 * block.channels for block in self.modules() if isinstance(block, Block)]
        self.modulation = nn.Linear(4 * width, sum(self.splits))

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        """Evaluate equations 1 to 3.

        Args:
            x: Noisy images, (B, C, H, W).
            t: Their times, (B,) in [0, 1].
            y: Their classes, (B,) int64, -1 for a row without one; None for no labels at all.

        Returns:
            (B, C, H, W).
        """
        modulations = iter(self.modulation(F.silu(self.condition(t, y))).split(self.splits, dim=1))
        # The first convolution's result is laid out anew, not x: an image of one channel is of either layout.
        h, skips = self.first(x).contiguous(memory_format=torch.channels_last), []
        for level, down in zip(self.encoder, self.down, strict=True):
            for block in level.children():
                h = self.through(block, h, next(modulations))
            skips.append(h)
            h = down(h)
        for block in self.middle:
            h = self.through(block, h, next(modulations))
        for level, up in zip(self.decoder, self.up, strict=True):
            h = up(h) + skips.pop()  # equation 3
            for block in level.children():
                h = self.through(block, h, next(modulations))
        return self.last(h)

    def condition(self, t: Tensor, y: Tensor | None) -> Tensor:
        """Return the argument of the outer silu in equation 1, (B, 4 * width)."""
        if self.label is None and y is not None:
            raise ValueError(f"y holds {len(y)} labels, but this U-Net has classes = None; build it with classes")
        embedded = self.time(time_features(t, self.width).to(self.modulation.weight.dtype))
        if self.label is None:
            return embedded
        if y is None:
            y = torch.full_like(t, -1, dtype=torch.int64)
        # No vector for "no label": the bias below it is one already, and would have no gradient where all are labeled.
        return embedded + self.label(y.clamp(min=0)) * (y >= 0)[:, None]

    def through(self, block: nn.Module, h: Tensor, modulation: Tensor) -> Tensor:
        """Call a block, and forget its inner values if they are to be computed again."""
        if self.checkpointing and torch.is_grad_enabled():
            return checkpoint(block, h, modulation, use_reentrant=False)
        return block(h, modulation)


class Block(nn.Module):
    """Equation 2, followed by attention if asked; (B, C, H, W) stays what it is.

    Args:
        channels: C.
        attends: Whether attention follows.
        dropout: Probability of a zero before the second convolution.
    """

    def __init__(self, channels: int, attends: bool, dropout: float) -> None:
        super().__init__()
        self.channels = channels
        self.norm = norm(channels)
        self.convolution = nn.Conv2d(channels, channels, 3, padding=1, bias=False)  # equation 2 adds one: m_b
        self.bare = norm(channels, affine=False)  # scaled and shifted by equation 2
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()
        self.branch = quiet(nn.Conv2d(channels, channels, 3, padding=1))
        self.attention = Attention(channels) if attends else nn.Identity()

    def forward(self, h: Tensor, modulation: Tensor) -> Tensor:
        """Return the new h; ``modulation`` holds scales and shifts, (B, 2 C)."""
        scale, shift = rearrange(modulation, "b (two c) -> two b c 1 1", two=2)
        inner = self.bare(self.convolution(F.silu(self.norm(h))))
        inner = F.silu(torch.addcmul(shift, inner, 1 + scale))
        return self.attention(h + self.branch(self.dropout(inner)))


class Attention(nn.Module):
    """Let every position of an image attend to all of them, and add the result; (B, C, H, W) stays what it is.

    Args:
        channels: C.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.heads = math.gcd(channels, max(1, channels // HEAD))
        self.norm = norm(channels)
        self.inputs = Linear(channels, 3 * channels, bias=False)  # a bias of the keys would change nothing
        self.branch = quiet(Linear(channels, channels))

    def forward(self, h: Tensor) -> Tensor:
        """Return the new h."""
        tokens = rearrange(self.norm(h), "b c h w -> b (h w) c")
        query, key, value = rearrange(
            self.inputs(tokens), "b n (three heads d) -> three b heads n d", three=3, heads=self.heads
        )
        mixed = rearrange(F.scaled_dot_product_attention(query, key, value), "b heads n d -> b n (heads d)")
        return h + rearrange(self.branch(mixed), "b (h w) c -> b c h w", h=h.shape[2])


def norm(channels: int, *, affine: bool = True) -> nn.GroupNorm:
    """Return a normalization of groups of ``GROUP`` channels, of larger ones where that does not divide."""
    return nn.GroupNorm(math.gcd(channels, max(1, channels // GROUP)), channels, affine=affine)


def quiet(layer: nn.Conv2d | nn.Linear) -> nn.Module:
    """Return the layer with nearly nothing in it, so that a branch starts out as what it is added to."""
    with torch.no_grad():
        layer.weight.mul_(QUIET)
        if layer.bias is not None:
            layer.bias.zero_()
    return layer


def halved(shape: Sequence[int], halvings: int) -> list[tuple[int, int]]:
    """Return the (height, width) of an image before and after every halving, ``halvings + 1`` pairs."""
    if len(shape) != 3 or min(shape) < 1:
        raise ValueError(
            f"shape = {tuple(shape)} is not that of an image (C, H, W); use a fully connected network for such rows"
        )
    factor = 2**halvings
    if shape[1] % factor or shape[2] % factor:
        padded = tuple(side + -side % factor for side in shape[1:])
        raise ValueError(
            f"shape = {tuple(shape)} cannot be halved {halvings} times; give fewer multipliers, one per level, or pad "
            f"the images to {padded[0]} x {padded[1]}"
        )
    return [(shape[1] >> level, shape[2] >> level) for level in range(halvings + 1)]


def validate(
    width: int,
    multipliers: Sequence[int],
    blocks: Sequence[int],
    *,
    attention: int,
    classes: int | None,
    dropout: float,
) -> None:
    """Refuse what is outside its range."""
    if not multipliers or len(blocks) != len(multipliers) or min(width, *multipliers, *blocks) < 1:
        raise ValueError(
            f"width = {width}, multipliers = {tuple(multipliers)}, blocks = {tuple(blocks)} must be at least 1, with "
            "as many blocks as multipliers: one number per level"
        )
    if width % 2:
        raise ValueError(f"width = {width} must be even: half of as many time features are cosines, half are sines")
    if attention < 0 or not 0 <= dropout < 1 or (classes is not None and classes < 1):
        raise ValueError(
            f"attention = {attention}, classes = {classes}, dropout = {dropout}: attention must be at least 0, classes "
            "at least 1 or None, and dropout in [0, 1)"
        )
