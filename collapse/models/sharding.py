"""Sharded weights: every process holds a slice of every parameter (FSDP2), and few places have to know."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

try:
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
    from torch.distributed.tensor import DTensor, distribute_tensor
except ImportError:  # before torch 2.6
    SHARDS = False
else:
    SHARDS = torch.distributed.is_available()

__all__ = ["SHARDS", "assign", "full_state", "full_tensor", "is_sharded", "placed", "shard"]

NEVER_CALLED = (nn.ParameterList, nn.ParameterDict)
ENTRANCES = ("training_step", "validation_step", "test_step", "predict_step", "sample")
"""Methods by which a sharded module is entered: they gather what parameters the module itself owns."""


def shard(module: pl.LightningModule, mesh: torch.distributed.device_mesh.DeviceMesh) -> None:
    """Shard a module's parameters over a device mesh, in place: each child on its own, what is left as one.

    A child is gathered when its ``forward`` is called, so a model calls its networks and not their methods. Parameters
    that several children share stay with the module itself, which is gathered while a step or ``sample`` runs.

    Args:
        module: The module; its parameters become DTensors.
        mesh: One-dimensional, over the processes that share the parameters.

    Raises:
        RuntimeError: If this torch cannot shard so.
    """
    if not SHARDS:
        raise RuntimeError(f"torch {torch.__version__} cannot shard a model in place; install torch 2.6 or newer")
    for parameter in module.parameters():
        parameter.data = parameter.data.contiguous()  # sharding takes no other; channels last is for speed alone
    parts = list(_parts(module))
    owners = Counter(id(parameter) for part in parts for parameter in part.parameters())
    for part in parts:
        if all(owners[id(parameter)] == 1 for parameter in part.parameters()):
            fully_shard(part, mesh=mesh, reshard_after_forward=True)
    fully_shard(module, mesh=mesh, reshard_after_forward=True)
    for name in ENTRANCES:
        if getattr(type(module), name, None) is not getattr(pl.LightningModule, name, None):
            register_fsdp_forward_method(module, name)


def _parts(module: nn.Module) -> Iterator[nn.Module]:
    """Return the children that have parameters; in place of a list of modules, those in it."""
    for child in module.children():
        if isinstance(child, nn.ModuleList | nn.ModuleDict):
            yield from _parts(child)
        elif not isinstance(child, NEVER_CALLED) and next(child.parameters(), None) is not None:
            yield child


def is_sharded(module: nn.Module) -> bool:
    """Whether a module's parameters lie in slices on several processes."""
    return SHARDS and any(isinstance(parameter, DTensor) for parameter in module.parameters())


def full_tensor(value: Tensor) -> Tensor:
    """Return a tensor's whole value; of a sharded one on every process, all of which must ask."""
    return value.full_tensor() if SHARDS and isinstance(value, DTensor) else value


def full_state(module: nn.Module, *, keep: bool = True) -> dict[str, Tensor] | None:
    """Return a module's state dict with whole tensors; None to a process that does not keep it.

    Args:
        module: The module. If it is sharded, every process must call, and holds one whole tensor at a time.
        keep: Whether this process keeps the result, on the CPU.
    """
    state, gathered = {}, dict[int, Tensor]()
    for name, value in module.state_dict(keep_vars=True).items():
        whole = full_tensor(value.detach())
        if keep:  # a tensor of two names is one tensor in the result, and in a file
            state[name] = gathered.setdefault(id(value), whole.cpu())
    return state if keep else None


def placed(value: Tensor, like: Tensor) -> Tensor:
    """Return a whole tensor where another lies: on its device and, if that is sharded, this process's slice."""
    if SHARDS and isinstance(like, DTensor) and not isinstance(value, DTensor):
        return distribute_tensor(value.to(like.device), like.device_mesh, like.placements)
    return value.to(like.device)


def assign(tensor: Tensor, value: Tensor) -> None:
    """Copy a whole value into a tensor in place, and into a sharded one this process's slice of it."""
    if tensor.shape != value.shape:
        tensor.resize_(value.shape)
    tensor.copy_(placed(value, tensor))
