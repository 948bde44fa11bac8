"""Values of all processes: a sum that gradients flow through, and each one's own."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

__all__ = ["gather_processes", "own_share", "processes", "sum_over_processes"]


def processes() -> int:
    """Return the number of processes that train together, 1 outside of distributed training."""
    ready = torch.distributed.is_available() and torch.distributed.is_initialized()
    return torch.distributed.get_world_size() if ready else 1


def gather_processes(x: Tensor) -> Tensor:
    """Return every process's ``x``, (W, *S) for x (*S), in the order of their ranks; all call it, without gradients."""
    if processes() == 1:
        return x[None]
    everybodys = [torch.empty_like(x) for _ in range(processes())]
    torch.distributed.all_gather(everybodys, x.contiguous())
    return torch.stack(everybodys)


def own_share(gathered: Tensor) -> Tensor:
    """Return this process's part of what ``gather_processes`` returned."""
    return gathered[torch.distributed.get_rank() if processes() > 1 else 0]


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
