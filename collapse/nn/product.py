"""A product with one matrix, many times over."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["Product", "has_kernel"]


class Product:
    r"""Multiply rows by the same matrix again and again, without gradients.

    .. math::
        x \mapsto x W^\top, \qquad x \mapsto \operatorname{gelu}(x W^\top), \qquad x \mapsto r + x W^\top \tag{1}

    On a CPU by oneDNN, through what ``torch.compile`` uses for frozen networks: the matrix is put into the order of its
    kernels once, and what follows the product is part of it. ``torch.nn.functional.linear`` orders it anew in every
    call, and in float32 calls another library, slower than oneDNN on some processors.

    Args:
        weight: W, (outputs, inputs), which stays as it is while this is in use.
    """

    def __init__(self, weight: Tensor) -> None:
        self.weight = weight.detach()
        self.kernel = torch.ops.mkldnn._linear_pointwise if has_kernel(weight) else None
        if self.kernel is not None:
            self.weight = torch.ops.mkldnn._reorder_linear_weight(self.weight.contiguous())

    def __call__(self, x: Tensor) -> Tensor:
        """Return the product, (B, outputs) of (B, inputs)."""
        if self.kernel is None:
            return F.linear(x, self.weight)
        return self.kernel(x, self.weight, None, "none", [], "none")

    def gelu(self, x: Tensor) -> Tensor:
        """Return GELU of the product."""
        if self.kernel is None:
            return F.gelu(F.linear(x, self.weight))
        return self.kernel(x, self.weight, None, "gelu", [], "none")

    def plus(self, x: Tensor, r: Tensor) -> Tensor:
        """Return the product added to r (B, outputs)."""
        if self.kernel is None:
            return r + F.linear(x, self.weight)
        return self.kernel(x, r, self.weight, None, "add")


def has_kernel(weight: Tensor) -> bool:
    """Whether torch was built with oneDNN, and that multiplies such numbers fast on this machine."""
    if weight.device.type != "cpu" or not (torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled):
        return False
    narrow = weight.dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return weight.dtype == torch.float32 or narrow
