"""The data module: gold, reference, and whatever the recursion says comes next."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.model_helpers import is_overridden
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from collapse.arguments import Remembers
from collapse.data.files import MappedArray
from collapse.data.loading import GenerationLoader, TrainingSet, TrainingSource
from collapse.data.pool import DataPool
from collapse.data.rows import Batch, Origin, Samples, provenance
from collapse.seeding import Stream, key, keyed_rng

if TYPE_CHECKING:
    from collapse.data.text.tokenizers import Tokenizer

__all__ = ["AdoptedData", "RecursiveDataModule"]


class RecursiveDataModule(Remembers, pl.LightningDataModule, abc.ABC):
    """A Lightning data module whose training rows can change from generation to generation.

    On its own it serves its gold rows. With a ``RecursiveTrainer`` it asks that callback, before every epoch, what to
    serve, and builds a new loader only when the answer is a new training set.

    Args:
        batch_size: Rows per process and batch; None for the whole training set in one batch.
        num_workers: Loader processes.

    Attributes:
        classes: Number of classes of the labels; None when the data have none.
        vocabulary: Number of tokens; None when rows are no sequences of tokens.
        document: The token that ends a document of the text; None when there is none.
        tokenizer: What made tokens of the text; None when rows are not text, or tokens from the start.
        replicates: R when every row holds R independent experiments (rows of shape (R, ...)); None otherwise.
        source: Who decides what comes next; set by ``RecursiveTrainer``.
    """

    incidental = frozenset({"root", "num_workers"})
    classes: int | None = None
    vocabulary: int | None = None
    document: int | None = None
    tokenizer: Tokenizer | None = None
    replicates: int | None = None

    def __init__(self, batch_size: int | None = 128, num_workers: int = 0) -> None:
        super().__init__()
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"batch_size must be at least 1 or None for all rows, got {batch_size}")
        if num_workers < 0:
            raise ValueError(f"num_workers must be at least 0, which reads in the process itself, got {num_workers}")
        self.batch_size, self.num_workers = batch_size, num_workers
        self.source: TrainingSource | None = None
        self._served: tuple[Tensor, GenerationLoader] | None = None

    def __repr__(self) -> str:
        return self.describe()

    @abc.abstractmethod
    def gold(self) -> Samples:
        """Return the real rows a chain starts from; the same ones at every call."""

    @abc.abstractmethod
    def reference(self) -> Samples:
        """Return the held-out real rows that metrics compare with; never trained on."""

    def held(self) -> Mapping[Origin, Samples]:
        """Return rows that came with the data and are not declared real, by origin: nobody trains on them unasked."""
        return {}

    def prompts(self, length: int) -> Tensor | None:
        """Return (M, length) int64 tokens of held-out real text, to begin samples with; None when rows are not text."""
        return None

    def attach(self, source: TrainingSource, module: pl.LightningModule) -> None:
        """Serve what ``source`` says from now on, to ``module``."""
        self.source = source

    def training_set(self) -> TrainingSet:
        """Return what the next epoch trains on: what the source says, or gold."""
        if self.source is not None:
            return self.source.upcoming()
        gold = self.gold()
        records = provenance(len(gold), origin=Origin.REAL, generation=0, y=gold.y)
        rows = gold.x if isinstance(gold.x, MappedArray) else np.asarray(gold.x)
        return TrainingSet(DataPool([rows], [records]), torch.arange(len(gold)))

    def train_dataloader(self) -> GenerationLoader:
        """Return the loader of the next epoch. Called every epoch, and twice on resume: lazy and idempotent."""
        wanted = self.training_set()
        if self._served is None or self._served[0] is not wanted.rows:
            world, rank = (1, 0) if self.trainer is None else (self.trainer.world_size, self.trainer.global_rank)
            loader = GenerationLoader(wanted, self.batch_size, rank=rank, world=world, num_workers=self.num_workers)
            self._served = (wanted.rows, loader)
        loader = self._served[1]
        loader.batches.epoch = wanted.epoch  # from restored state, before any worker prefetches
        return loader

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Move a batch; Lightning's own way walks through it as through any nested collection, at every step."""
        if not isinstance(batch, Batch):
            return super().transfer_batch_to_device(batch, device, dataloader_idx)
        if batch.x.device == device:
            return batch
        return Batch._make(part if part is None else part.to(device, non_blocking=True) for part in batch)

    @staticmethod
    def from_datamodule(
        datamodule: pl.LightningDataModule,
        *,
        batch_size: int | None = 128,
        held_out: float = 0.1,
        validate: bool = False,
    ) -> AdoptedData:
        """Take any LightningDataModule's training rows as gold.

        Args:
            datamodule: Its training set becomes gold, in the dataset's own order; its validation set, or else its test
                set, becomes the reference set. Items are tensors or tuples (x, y, ...).
            batch_size: Rows per process and batch from now on.
            held_out: Without a validation or test set, the last such share of the training rows becomes the reference.
            validate: Run the validation loop on its validation set as well, for a module with a ``validation_step``.
        """
        return AdoptedData(datamodule, batch_size=batch_size, held_out=held_out, validate=validate)


class AdoptedData(RecursiveDataModule):
    """The rows of another LightningDataModule; see ``RecursiveDataModule.from_datamodule``."""

    def __init__(
        self,
        datamodule: pl.LightningDataModule,
        batch_size: int | None = 128,
        num_workers: int = 0,
        held_out: float = 0.1,
        validate: bool = False,
    ) -> None:
        super().__init__(batch_size, num_workers)
        self._whole_batches = True
        if validate:
            if not is_overridden("val_dataloader", datamodule):
                raise ValueError(f"validate=True, but {type(datamodule).__name__} has no val_dataloader; leave it out")
            self.val_dataloader = datamodule.val_dataloader  # type: ignore[method-assign]
        if not 0 < held_out < 1:
            raise ValueError(f"held_out must lie strictly between 0 and 1, got {held_out}")
        # Keyed, so that a random split or augmentation gives every process and every resumed run the same gold.
        with keyed_rng(key(0, Stream.DATA)):
            datamodule.prepare_data()
            datamodule.setup("fit")
            self._gold, self._in_tuples = _rows_of(datamodule.train_dataloader())
            self._reference = _held_out_rows(datamodule)
        if self._reference is None:
            cut = len(self._gold) - max(1, round(held_out * len(self._gold)))
            self._gold, self._reference = self._gold[:cut], self._gold[cut:]
        if self._gold.y is not None:
            self.classes = int(np.asarray(self._gold.y).max()) + 1

    def attach(self, source: TrainingSource, module: pl.LightningModule) -> None:
        """Serve what ``source`` says; to a user's own module as items, as its own data had them."""
        super().attach(source, module)
        self._whole_batches = bool(getattr(module, "reads_batches", False))

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Move a batch, and take it apart for a module that knows nothing of provenance."""
        moved = super().transfer_batch_to_device(batch, device, dataloader_idx)
        if self._whole_batches or not isinstance(moved, Batch):
            return moved
        items = [moved.x] if moved.y is None else [moved.x, moved.y]
        return items if self._in_tuples else moved.x

    def describe(self) -> str:
        """Name the adopted module by its class; its rows are identified by gold's digest."""
        return f"AdoptedData({type(self.arguments['datamodule']).__name__})"

    def gold(self) -> Samples:
        """Return the adopted training rows."""
        return self._gold

    def reference(self) -> Samples:
        """Return the adopted validation or test rows, or the share held out."""
        assert self._reference is not None
        return self._reference


def _held_out_rows(datamodule: pl.LightningDataModule) -> Samples | None:
    for stage, name in (("fit", "val_dataloader"), ("test", "test_dataloader")):
        if is_overridden(name, datamodule):
            datamodule.setup(stage)
            loader = getattr(datamodule, name)()
            if not isinstance(loader, (list, tuple)) or loader:
                return _rows_of(loader)[0]
    return None


def _rows_of(loader: Any) -> tuple[Samples, bool]:
    """Read every row behind a loader once, in the dataset's own order; and whether its items are tuples."""
    if isinstance(loader, (list, tuple)):
        loader = loader[0]
    if isinstance(loader, DataLoader) and not isinstance(loader.dataset, IterableDataset):
        loader = DataLoader(loader.dataset, batch_size=256, collate_fn=loader.collate_fn, num_workers=0)
    xs, ys, in_tuples = [], [], False
    for item in loader:
        in_tuples = isinstance(item, (list, tuple))
        x, y = (item[0], item[1] if len(item) > 1 else None) if isinstance(item, (list, tuple)) else (item, None)
        if not isinstance(x, Tensor):
            raise TypeError(
                f"a training item must be a tensor or a tuple that starts with one, got {type(x).__name__}; "
                "adapt the data module's collate_fn"
            )
        xs.append(x)
        if isinstance(y, Tensor) and y.ndim == 1 and not y.is_floating_point():
            ys.append(y)
    return Samples(torch.cat(xs), torch.cat(ys) if len(ys) == len(xs) else None), in_tuples
