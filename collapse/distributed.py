"""A sum over processes that gradients flow through."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

__all__ = ["processes", "sum_over_processes"]


def processes() -> int:
    """Return the number of processes that train together, 1 outside of distributed training."""
    ready = torch.distributed.is_available() and torch.distributed.is_initialized()
    return torch.distributed.get_world_size() if ready else 1


class _SumOverProcesses(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone()
        torch.distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone()
        torch.distributed.all_reduce(total)
        return total


def sum_over_processes(x: Tensor) -> Tensor:
    """Return the sum of ``x`` over all processes; the gradient is the sum of the gradients over all processes.

    Followed by the mean over processes that DDP takes of parameter gradients, this makes a loss of the sum exact: each
    process's rows get the gradient of the one global loss. ``torch.distributed.all_reduce`` alone has no gradient, so
    that a loss of its result trains on 1/W of it.
    """
    if processes() == 1:
        return x
    return _SumOverProcesses.apply(x)
