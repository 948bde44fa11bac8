"""What makes a run this run and no other: the content of ``run.json``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytorch_lightning as pl

from collapse.arguments import Remembers
from collapse.data.files import commit
from collapse.data.module import RecursiveDataModule
from collapse.data.store import GenerationStore, StoreError
from collapse.recursion.early_stopping import GenerationEarlyStopping
from collapse.recursion.lightning import callbacks_of

if TYPE_CHECKING:
    from collapse.recursion.trainer import RecursiveTrainer

__all__ = ["claim_folder", "identity_of"]


def identity_of(
    recursion: RecursiveTrainer, module: pl.LightningModule, data: RecursiveDataModule, trainer: pl.Trainer, gold: str
) -> dict[str, Any]:
    """Return what a chain's bytes depend on, as plain values; ``gold`` is the digest of its manifest."""
    name = module.describe() if isinstance(module, Remembers) else f"{type(module).__name__}({dict(module.hparams)})"
    return {
        "model": name,
        "data": data.describe(),
        "gold": gold,
        "batch_size": data.batch_size,
        "mitigations": [repr(mitigation) for mitigation in recursion.stack],
        "generations": recursion.generations,
        "samples_per_generation": recursion.samples_per_generation,
        "epochs_per_generation": recursion.epochs_per_generation,
        "steps_per_generation": recursion.steps_per_generation,
        "initialization": recursion.initialization,
        "chunk_size": recursion.chunk_size,
        "seed": recursion.seed,
        "precision": str(trainer.precision),
        "accumulate_grad_batches": trainer.accumulate_grad_batches,
        "gradient_clip_val": trainer.gradient_clip_val,
        "gradient_clip_algorithm": str(trainer.gradient_clip_algorithm),
        "processes": trainer.world_size,
        "early_stopping": [c.state_key for c in callbacks_of(trainer) if isinstance(c, GenerationEarlyStopping)],
    }


def claim_folder(store: GenerationStore, identity: dict[str, Any]) -> None:
    """Write ``run.json``, or check that the folder belongs to the same run.

    Raises:
        StoreError: Naming the first thing that differs.
    """
    path = store.root / "run.json"
    identity = json.loads(json.dumps(identity))
    if not path.exists():
        commit(path, json.dumps(identity, indent=1).encode(), durable=store.durable)
        return
    found = json.loads(path.read_text())
    for name, value in identity.items():
        if found.get(name) != value:
            raise StoreError(
                f"{store.root} holds another run: its {name} is {found.get(name)!r}, not {value!r}; "
                "choose another run folder"
            )
