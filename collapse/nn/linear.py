"""An affine layer whose large products in float32 are oneDNN's on a CPU."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from collapse.nn.product import has_kernel

__all__ = ["Linear", "linear"]

LARGE, WIDE = 2**23, 32
"""Multiplications, and inputs and outputs, from which on a convolution repays what it takes to set up."""

IMAGES, MANY = 16, 128
"""Images for which torch asks oneDNN even with one thread, and rows from which on so many repay."""


class Linear(nn.Linear):
    """Be ``torch.nn.Linear``, computed by the function below."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., inputs) to (..., outputs)."""
        return linear(x, self.weight, self.bias)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    r"""Return :math:`x W^\top + b` of (..., inputs).

    Large products in float32 on a CPU are computed as a convolution over images that have a pixel for every row, and so
    are their gradients: torch leaves convolutions to oneDNN, and products to another library, which is slower on some
    processors. Where no gradients are recorded, it is ``torch.nn.functional.linear``, whose results depend less on
    how many rows there are.

    Args:
        x: (..., inputs).
        weight: W, (outputs, inputs).
        bias: b, (outputs,), or none.
    """
    images = _images(x, weight)
    if not images:
        return F.linear(x, weight, bias)
    pixels = x.reshape(images, -1, 1, x.shape[-1]).permute(0, 3, 1, 2)  # channels last: nothing is copied
    kernel = weight.reshape(-1, 1, 1, x.shape[-1]).permute(0, 3, 1, 2)
    return F.conv2d(pixels, kernel, bias).permute(0, 2, 3, 1).reshape(*x.shape[:-1], len(weight))


def _images(x: Tensor, weight: Tensor) -> int:
    """Return among how many images the rows are shared for a convolution; 0 for a product."""
    if torch.compiler.is_compiling() or x.device.type != "cpu" or not torch.is_grad_enabled():
        return 0
    single = x.dtype == weight.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    large = x.numel() * len(weight) >= LARGE and min(weight.shape) >= WIDE and x.shape[-1] == weight.shape[1]
    if not (single and large and has_kernel(weight)):
        return 0
    rows = x.numel() // x.shape[-1]
    shared = IMAGES if rows >= MANY and rows % IMAGES == 0 else 0
    return shared if torch.get_num_threads() == 1 else 1
