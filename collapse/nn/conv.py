r"""Convolutional networks that halve and double images of any height and width.

A layer with kernel 4, stride 2 and padding 1 maps a side of length h to :math:`\lfloor h/2 \rfloor`. Its transpose
returns 2k for k, so a decoder adds the pixel that an odd side lost: ``output_padding = h - 2 * (h // 2)``. No side has
to be a power of two, and no image is cropped or padded. Maps become vectors, and vectors maps, pixel by pixel, as they
lie in memory with channels last: nothing is copied.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from einops.layers.torch import Rearrange
from torch import nn

from collapse.nn.linear import Linear
from collapse.nn.transposed import ConvTranspose2d

__all__ = ["ConvDecoder", "ConvEncoder"]

Shape = tuple[int, int, int]
SMALLEST = 8


class ConvEncoder(nn.Sequential):
    """Map images to vectors: one halving convolution per width, then one affine layer.

    Maps (B, C, H, W) to (B, outputs).

    Args:
        shape: (C, H, W) of an image; H and W at least 8, any parity.
        outputs: Width of the result.
        channels: Feature maps after every halving.
        activation: Makes the nonlinearity after every convolution.

    Raises:
        ValueError: If the shape is not that of an image or a side is too short.
    """

    def __init__(
        self,
        shape: Shape,
        outputs: int,
        *,
        channels: Sequence[int] = (64, 128),
        activation: Callable[[], nn.Module] = nn.ReLU,
    ) -> None:
        height, width = pyramid(shape, len(channels))[-1]
        layers: list[nn.Module] = []
        for before, after in pairwise((shape[0], *channels)):
            layers += [nn.Conv2d(before, after, kernel_size=4, stride=2, padding=1), activation()]
        flatten = Rearrange("b c h w -> b (h w c)", c=channels[-1], h=height, w=width)
        super().__init__(*layers, flatten, Linear(channels[-1] * height * width, outputs))
        self.to(memory_format=torch.channels_last)


class ConvDecoder(nn.Sequential):
    """Map vectors to images: the mirror image of ``ConvEncoder``, without an activation on its output.

    Maps (B, inputs) to (B, C, H, W).

    Args:
        inputs: Width of the vectors.
        shape: (C, H, W) of an image; H and W at least 8, any parity.
        channels: Feature maps as the encoder counts them, from the image inwards.
        activation: Makes the nonlinearity between two transposed convolutions.

    Raises:
        ValueError: If the shape is not that of an image or a side is too short.
    """

    def __init__(
        self,
        inputs: int,
        shape: Shape,
        *,
        channels: Sequence[int] = (64, 128),
        activation: Callable[[], nn.Module] = nn.ReLU,
    ) -> None:
        sides = pyramid(shape, len(channels))
        height, width = sides[-1]
        layers: list[nn.Module] = [
            Linear(inputs, channels[-1] * height * width),
            Rearrange("b (h w c) -> b c h w", c=channels[-1], h=height, w=width),
        ]
        maps = pairwise(reversed((shape[0], *channels)))
        for (before, after), (small, large) in zip(maps, pairwise(reversed(sides)), strict=True):
            odd = (large[0] - 2 * small[0], large[1] - 2 * small[1])
            layers += [ConvTranspose2d(before, after, 4, stride=2, padding=1, output_padding=odd), activation()]
        super().__init__(*layers[:-1])
        self.to(memory_format=torch.channels_last)


def pyramid(shape: Sequence[int], halvings: int) -> list[tuple[int, int]]:
    """Return the (height, width) of an image before and after every halving, ``halvings + 1`` pairs."""
    if len(shape) != 3 or min(shape[1:]) < SMALLEST or shape[0] < 1:
        raise ValueError(
            f"shape = {tuple(shape)} is not that of an image (C, H, W) with H and W at least {SMALLEST}; "
            "use a fully connected network for such rows"
        )
    return [(shape[1] >> level, shape[2] >> level) for level in range(halvings + 1)]
