"""An affine layer that trains in float32 on a CPU as fast as a convolution does."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["Linear", "linear"]

LARGE = 2**23
"""Multiplications from which on a convolution repays what it takes to set up."""

IMAGES, MANY = 16, 1024
"""A process with one thread has torch's own convolution for fewer images; so many rows can be shared among them."""


class Linear(nn.Linear):
    """Be ``torch.nn.Linear``, computed by the function below."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., inputs) to (..., outputs)."""
        return linear(x, self.weight, self.bias)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    r"""Return :math:`x W^\top + b` of (..., inputs).

    Large products in float32 on a CPU, while gradients are recorded, are computed as a convolution over images that
    have a pixel for every row. That is oneDNN's, which knows more processors' instructions than the library that
    ``torch.nn.functional.linear`` calls, and so are its gradients. Without gradients nothing changes: what a row gives
    does not depend on how many there are beside it.

    Args:
        x: (..., inputs).
        weight: W, (outputs, inputs).
        bias: b, (outputs,), or none.
    """
    if torch.compiler.is_compiling() or not (torch.is_grad_enabled() and _has_kernel(x, weight)):
        return F.linear(x, weight, bias)
    rows = x.numel() // x.shape[-1]
    count = IMAGES if rows >= MANY and rows % IMAGES == 0 else 1
    images = x.reshape(count, -1, 1, x.shape[-1]).permute(0, 3, 1, 2)  # channels last: nothing is copied
    kernel = weight.reshape(-1, 1, 1, x.shape[-1]).permute(0, 3, 1, 2)
    return F.conv2d(images, kernel, bias).permute(0, 2, 3, 1).reshape(*x.shape[:-1], len(weight))


def _has_kernel(x: Tensor, weight: Tensor) -> bool:
    """Whether oneDNN multiplies them, and is worth it."""
    wide = x.dtype == weight.dtype == torch.float32 and not torch.is_autocast_enabled(x.device.type)
    large = x.numel() * len(weight) >= LARGE
    return wide and large and x.device.type == "cpu" and torch.backends.mkldnn.is_available()
