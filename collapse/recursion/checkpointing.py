"""Checkpoints that a crash cannot spoil."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.plugins.io import TorchCheckpointIO

from collapse.data.files import commit, tensor_bytes
from collapse.data.folder import RunFolder

__all__ = [
    "AtomicCheckpointIO",
    "EpochCheckpoint",
    "StepCheckpoint",
    "newest_checkpoint",
]


class AtomicCheckpointIO(TorchCheckpointIO):
    """Write a checkpoint beside its final place and rename it; read it without unpickling objects.

    Lightning stages checkpoints in the temporary folder: from another file system the move is a copy, and a process
    killed in it leaves a truncated file under the final name.

    Args:
        folder: The run folder, whose journal then knows the checkpoints written in it.
    """

    def __init__(self, folder: RunFolder | None = None) -> None:
        super().__init__()
        self.folder = folder

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any | None = None
    ) -> None:
        """Save completely or not at all."""
        target, content = Path(path), tensor_bytes(checkpoint)
        name = self._name(target)
        if self.folder is not None and name is not None:
            self.folder.write(name, content)
            return
        commit(target, content)

    def remove_checkpoint(self, path: str | os.PathLike[str]) -> None:
        """Remove a file that is superseded."""
        name = self._name(Path(path))
        if self.folder is not None and name is not None:
            self.folder.remove(name)
        else:
            super().remove_checkpoint(Path(path))

    def _name(self, path: Path) -> str | None:
        """Return the path of a checkpoint relative to the run folder; None for one elsewhere."""
        root = None if self.folder is None else self.folder.root.resolve()
        path = path.resolve()
        return None if root is None or not path.is_relative_to(root) else path.relative_to(root).as_posix()

    def load_checkpoint(
        self, path: str | os.PathLike[str], map_location: Any | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Load tensors and plain values; a file that holds anything else is refused, not executed."""
        return torch.load(path, map_location=map_location or "cpu", weights_only=True)


class EpochCheckpoint(ModelCheckpoint):
    """Keep the newest end of an epoch under ``root/checkpoints``; at a generation's end that is the trained model.

    Args:
        root: The run folder.
    """

    def __init__(self, root: str | Path) -> None:
        super().__init__(
            dirpath=Path(root) / "checkpoints",
            filename="epoch-{epoch:06d}",
            auto_insert_metric_name=False,
            every_n_epochs=1,
            save_on_train_epoch_end=True,
            save_top_k=1,
            enable_version_counter=False,
        )

    @property
    def state_key(self) -> str:
        """A constant: Lightning asks for it six times a step, and its own describes every setting."""
        return "EpochCheckpoint"

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save, then remove what that supersedes: Lightning never removes the file a run was resumed from."""
        super().on_train_epoch_end(trainer, pl_module)
        newest = Path(self.best_model_path)
        if trainer.is_global_zero and newest.exists():
            for pattern in ("epoch-*.ckpt", "step-*.ckpt"):
                for path in newest.parent.glob(pattern):
                    if path != newest:
                        trainer.strategy.remove_checkpoint(path)


class StepCheckpoint(ModelCheckpoint):
    """Keep the newest checkpoint of every n-th step within an epoch, for epochs that take long.

    Never on an epoch's last batch: Lightning resumes such a file past the end of the epoch, where the harvest is. The
    end of an epoch is ``EpochCheckpoint``'s.

    Args:
        root: The run folder.
        every_n_train_steps: Optimizer steps between checkpoints, at least 1.
    """

    def __init__(self, root: str | Path, every_n_train_steps: int) -> None:
        super().__init__(
            dirpath=Path(root) / "checkpoints",
            filename="step-{step:09d}",
            auto_insert_metric_name=False,
            every_n_train_steps=every_n_train_steps,
            save_top_k=1,
            enable_version_counter=False,
        )

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save, except on the last batch, and between optimizer steps: accumulated gradients are in no checkpoint."""
        if not trainer.is_last_batch and (batch_idx + 1) % trainer.accumulate_grad_batches == 0:
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leave the end of the epoch alone."""


def newest_checkpoint(root: str | Path) -> Path | None:
    """Return the newest checkpoint of a run that loads and is safe to resume from; None if there is none.

    The folder is searched rather than a "last" link trusted; files that do not load, and those written within an
    epoch's last batch by other callbacks, are passed over.
    """
    best: tuple[tuple[int, bool], Path] | None = None
    for path in sorted((Path(root) / "checkpoints").glob("*.ckpt")):
        try:
            content = torch.load(path, weights_only=True, mmap=True, map_location="cpu")
            loop = content["loops"]["fit_loop"]
            epoch = loop["epoch_progress"]["current"]
            inside = epoch["ready"] != epoch["processed"]
            last_batch = loop["epoch_loop.batch_progress"]["is_last_batch"]
            order = (int(content["global_step"]), not inside)
        except Exception:
            continue
        if not (inside and last_batch) and (best is None or order > best[0]):
            best = (order, path)
    return best[1] if best else None
