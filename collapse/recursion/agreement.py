"""All processes train on the same rows: a node that sees other data or other files says so before it spoils a run."""

from __future__ import annotations

from collections.abc import Sequence

import pytorch_lightning as pl

from collapse.data.folder import StoreError
from collapse.data.intake import take_in
from collapse.data.manifest import Manifest
from collapse.data.module import RecursiveDataModule
from collapse.data.rows import Origin
from collapse.data.store import GenerationStore
from collapse.recursion.lightning import together

__all__ = ["agree_on_gold", "verify_pools"]


def agree_on_gold(trainer: pl.Trainer, store: GenerationStore, data: RecursiveDataModule) -> Manifest:
    """Return gold's manifest, which the first process wrote, once every process has found its own data in it.

    Raises:
        StoreError: If a process does not see the run folder, or has other gold.
    """
    rank, folder = trainer.global_rank, store.folder(0)
    with together(trainer):
        if not store.committed(0):
            raise StoreError(
                f"process {rank} does not see {folder}, which the first process wrote; put the run folder on a file "
                "system that every node sees"
            )
        manifest = store.manifest(0)
        if not trainer.is_global_zero:
            try:
                take_in(store, {Origin.REAL: data.gold()}, 0, parent="", facts={})  # it is there: compared, not written
            except StoreError:
                raise StoreError(
                    f"the data set of process {rank} has other rows than {folder}, which the first process wrote; give "
                    "every node the same version of the data"
                ) from None
    verify_pools(trainer, store, [manifest])
    return manifest


def verify_pools(trainer: pl.Trainer, store: GenerationStore, manifests: Sequence[Manifest]) -> None:
    """Check that all processes stand at the same step of the same chain, and that their files hold its pools.

    One process per node reads the files; the others compare the manifests that they see.

    Raises:
        StoreError: If a file is missing or has other bytes, or processes were resumed from different checkpoints.
    """
    here = (trainer.global_step, [manifest.digest for manifest in manifests])
    first = trainer.strategy.broadcast(here)
    with together(trainer):
        if here != first:
            raise StoreError(
                f"process {trainer.global_rank} stands at step {here[0]} with {len(here[1])} pools, and the first one "
                f"at step {first[0]} with {len(first[1])} or with others; do all nodes see the same checkpoints?"
            )
        for manifest in manifests:
            if trainer.local_rank == 0:
                store.verify(manifest)
            elif store.manifest(manifest.generation).digest != manifest.digest:
                raise StoreError(
                    f"process {trainer.global_rank} sees another pool in {store.folder(manifest.generation)} than the "
                    "first one; put the run folder on a file system that every node sees"
                )
