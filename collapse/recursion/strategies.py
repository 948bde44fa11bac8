"""Which of Lightning's ways to use several processes a chain can take."""

from __future__ import annotations

import pytorch_lightning as pl
from pytorch_lightning.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy
from pytorch_lightning.utilities.exceptions import MisconfigurationException

__all__ = ["check_strategy"]

SHARDED = "ModelParallelStrategy(data_parallel_size=N, tensor_parallel_size=1, save_distributed_checkpoint=False)"


def check_strategy(trainer: pl.Trainer) -> None:
    """Check that weights can be renewed in place between generations, and a checkpoint resumed.

    Raises:
        MisconfigurationException: If the strategy keeps weights of its own, or does not give every process its own
            rows, or writes its checkpoints in pieces.
    """
    strategy = trainer.strategy
    if isinstance(strategy, FSDPStrategy | DeepSpeedStrategy):
        raise MisconfigurationException(
            f"RecursiveTrainer: {type(strategy).__name__} keeps the weights in a form of its own, and a generation "
            f"renews them in place; shard with {SHARDED} (FSDP2), or use strategy='ddp'"
        )
    if not isinstance(strategy, ModelParallelStrategy):
        return
    mesh = strategy.device_mesh
    if mesh.size() != mesh["data_parallel"].size():
        raise MisconfigurationException(
            f"RecursiveTrainer: {mesh['tensor_parallel'].size()} processes would share the rows of one, and the data "
            f"module gives every process rows of its own; use {SHARDED} with N={mesh.size()}"
        )
    if strategy._save_distributed_checkpoint:
        raise MisconfigurationException(
            f"RecursiveTrainer: a checkpoint in pieces cannot be written whole or not at all; use {SHARDED}"
        )
