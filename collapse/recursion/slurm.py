"""Running under SLURM: without Lightning's own requeue, and only with as many tasks as the Trainer has processes."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.plugins.environments import ClusterEnvironment, SLURMEnvironment, TorchElasticEnvironment

__all__ = ["check_slurm", "slurm_plugins"]


def slurm_plugins(plugins: Iterable[Any] = ()) -> list[SLURMEnvironment]:
    """Return the environment that Lightning would choose under SLURM, its requeue switched off; none elsewhere.

    Lightning's requeue saves inside of the signal handler, between any two instructions, and goes on training.

    Args:
        plugins: What the Trainer gets besides; an environment among them is left alone.

    Raises:
        ValueError: If tasks were asked for in a way that Lightning does not understand.
    """
    chosen = any(isinstance(plugin, ClusterEnvironment) for plugin in plugins)
    if chosen or TorchElasticEnvironment.detect() or not SLURMEnvironment.detect():
        return []
    tasks = int(os.environ["SLURM_NTASKS"])
    if tasks > 1 and "SLURM_NTASKS_PER_NODE" not in os.environ:
        raise ValueError(
            f"SLURM started {tasks} tasks without saying how many there are on a node; ask for them by "
            "--ntasks-per-node, not by --ntasks"
        )
    return [SLURMEnvironment(auto_requeue=False)]


def check_slurm(trainer: pl.Trainer) -> None:
    """Check what SLURM started against what the Trainer expects, before anything waits for a process there is not.

    Raises:
        ValueError: If tasks and processes differ, or there is a checkpoint that Lightning would load by itself.
    """
    if not SLURMEnvironment.detect():
        return
    strays = sorted(Path(trainer.default_root_dir).glob("hpc_ckpt_*.ckpt"))
    if strays:
        raise ValueError(
            f"{strays[-1]} was left by Lightning's own requeue, and Lightning would start from it instead of from the "
            "chain's checkpoints; move it to another folder"
        )
    tasks, processes = int(os.environ["SLURM_NTASKS"]), trainer.num_devices * trainer.num_nodes
    if tasks != processes and not TorchElasticEnvironment.detect():
        raise ValueError(
            f"SLURM started {tasks} tasks (SLURM_NTASKS), and the Trainer has {processes} processes, devices="
            f"{trainer.num_devices} on num_nodes={trainer.num_nodes}; start it by `srun --nodes={trainer.num_nodes} "
            f"--ntasks-per-node={trainer.num_devices}`, or change devices and num_nodes"
        )
