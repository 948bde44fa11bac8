"""GELU and the linear layer behind it, with one tensor less to write in the backward pass."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from collapse.nn.linear import Linear

__all__ = ["GELULinear"]


class GELULinear(Linear):
    r"""Apply GELU, then the layer.

    .. math::
        y = a W^\top + b, \quad a = \operatorname{gelu}(h); \qquad
        \bar h = (\bar y\, W) \odot \operatorname{gelu}'(h), \quad \bar W = \bar y^\top a \tag{1}

    A bar marks the gradient of a loss. In 16 bits on a CPU, where products are so fast that memory counts, the
    gradient of h is written over that of a, which nobody else can ask for.
    """

    def forward(self, h: Tensor) -> Tensor:
        """Map (..., inputs) to (..., outputs)."""
        narrow = h.device.type == "cpu" and h.dtype == torch.bfloat16
        if not narrow or torch.compiler.is_compiling() or not torch.is_grad_enabled():
            return super().forward(F.gelu(h))
        y = Activated.apply(h, self.weight.to(h.dtype))[0]
        return y if self.bias is None else y + self.bias.to(h.dtype)


class Activated(torch.autograd.Function):
    """Equation 1 without the bias; returns a beside y, to keep it."""

    generate_vmap_rule = True

    @staticmethod
    def forward(h: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Return y and a of h (..., inputs) and W (outputs, inputs)."""
        a = F.gelu(h)
        return F.linear(a, weight), a

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: tuple[Tensor, Tensor]) -> None:
        """Keep what the backward pass needs."""
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(*inputs, output[1])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        """Return the gradients of h and W."""
        y, (h, weight, a) = gradients[0], ctx.saved_tensors
        again = torch.is_grad_enabled()  # somebody differentiates this, too
        a = F.gelu(h) if again else a
        to_weight = y.reshape(-1, y.shape[-1]).mT @ a.reshape(-1, a.shape[-1])
        to_a, slope = y @ weight, torch.ops.aten.gelu_backward
        return slope(to_a, h) if again else slope.grad_input(to_a, h, grad_input=to_a), to_weight
