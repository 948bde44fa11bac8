"""A transposed convolution that costs on a CPU what the convolution does."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["ConvTranspose2d"]

FEW = 16
"""Channels below which a convolution leaves most of a vector register empty, and a product of matrices does not."""


class ConvTranspose2d(nn.ConvTranspose2d):
    r"""Be ``torch.nn.ConvTranspose2d``, computed another way on a CPU.

    .. math::
        y = C_w^\top x, \qquad \bar x = C_w \bar y, \qquad \bar w = \overline{w}(C_w;\, \bar y \mapsto x) \tag{1}

    C is the convolution with the same weights, and a bar marks the gradient of a loss: the result is the gradient of a
    convolution's input, its gradients are a convolution and the gradient of a convolution's weights. These have kernels
    up to twice as fast as those that the transposed convolution has. With few output channels the result alone is a
    product and a sum of overlapping patches in place of that:

    .. math::
        y = \operatorname{fold}(x^\top w) \tag{2}

    It has derivatives of any order, backwards; none forwards (``torch.func.jvp``).
    """

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Map (B, C, h, w) to (B, C', H, W)."""
        unusual = self.groups != 1 or self.dilation != (1, 1) or x.ndim != 4 or output_size is not None
        if x.device.type != "cpu" or unusual:
            return super().forward(x, output_size)
        weight, bias = self.weight, self.bias
        if torch.is_autocast_enabled("cpu") and x.dtype != torch.float64:
            narrow = torch.get_autocast_dtype("cpu")
            x, weight, bias = x.to(narrow), weight.to(narrow), None if bias is None else bias.to(narrow)
        y = Adjoint.apply(x, weight, *self._geometry(x))
        return y if bias is None else y + bias[:, None, None]

    def _geometry(self, x: Tensor) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
        """Return sides of the result, stride and padding."""
        stride, padding = _pair(self.stride), _pair(self.padding)
        sides = (
            (side - 1) * step - 2 * edge + kernel + more
            for side, step, edge, kernel, more in zip(
                x.shape[2:], stride, padding, self.kernel_size, self.output_padding, strict=True
            )
        )
        return tuple(sides), stride, padding


class Adjoint(torch.autograd.Function):
    """Equation 1 without the bias."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        x: Tensor, weight: Tensor, sides: tuple[int, ...], stride: tuple[int, ...], padding: tuple[int, ...]
    ) -> Tensor:
        """Return the gradient that the input of a convolution with this weight has if its output has x."""
        if weight.shape[1] < FEW:
            return overlapping(x, weight, sides, stride, padding)
        shape = (len(x), weight.shape[1], *sides)
        like = torch.empty(shape, dtype=x.dtype, memory_format=torch.channels_last)
        return convolution_gradients(x, like, weight, stride, padding, (True, False, False))[0]

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Keep what the backward pass needs."""
        x, weight, _, ctx.stride, ctx.padding = inputs
        ctx.save_for_backward(x, weight)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of x and of the weight."""
        (output,), (x, weight) = gradients, ctx.saved_tensors
        to_x, to_weight = None, None
        with torch.autocast("cpu", enabled=False):  # in the type of the forward pass, wherever this is called
            if ctx.needs_input_grad[0]:
                to_x = F.conv2d(output, weight, None, ctx.stride, ctx.padding)
            if ctx.needs_input_grad[1]:
                to_weight = convolution_gradients(x, output, weight, ctx.stride, ctx.padding, (False, True, False))[1]
        return to_x, to_weight, None, None, None


def overlapping(
    x: Tensor, weight: Tensor, sides: tuple[int, ...], stride: tuple[int, ...], padding: tuple[int, ...]
) -> Tensor:
    """Return equation 2."""
    patches = x.permute(0, 2, 3, 1).flatten(1, 2) @ weight.flatten(1)
    wide = torch.promote_types(patches.dtype, torch.float32)  # patches overlap: sums need more than 16 bits
    return F.fold(patches.to(wide).mT, sides, weight.shape[2:], 1, padding, stride).to(patches.dtype)


def convolution_gradients(
    output: Tensor, x: Tensor, weight: Tensor, stride: tuple[int, ...], padding: tuple[int, ...], mask: tuple[bool, ...]
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of a convolution's input, weight and bias, those that ``mask`` names."""
    return torch.ops.aten.convolution_backward(
        output, x, weight, None, stride, padding, (1, 1), False, (0, 0), 1, list(mask)
    )


def _pair(sides: Any) -> tuple[int, int]:
    return int(sides[0]), int(sides[1])
