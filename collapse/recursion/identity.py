"""What makes a run this run and no other: the content of ``run.json``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytorch_lightning as pl

from collapse.arguments import Remembers
from collapse.data.module import RecursiveDataModule
from collapse.data.store import StoreError
from collapse.recursion.early_stopping import GenerationEarlyStopping
from collapse.recursion.lightning import callbacks_of
from collapse.recursion.verification import config_digest, refuse_changed

if TYPE_CHECKING:
    from collapse.recursion.trainer import RecursiveTrainer

__all__ = ["claim_folder", "identity_of"]


def identity_of(
    recursion: RecursiveTrainer, module: pl.LightningModule, data: RecursiveDataModule, trainer: pl.Trainer, gold: str
) -> dict[str, Any]:
    """Return what a chain's bytes depend on, as plain values; ``gold`` is the digest of its rows."""
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


def claim_folder(
    recursion: RecursiveTrainer, module: pl.LightningModule, data: RecursiveDataModule, trainer: pl.Trainer
) -> str:
    """Make a run folder this run's own: lock it, check what is there, take gold in, write ``run.json``.

    Returns:
        The digest of ``run.json``, for the manifests.

    Raises:
        LockedError: If another process trains in the folder.
        StoreError: If a file was changed, or the folder belongs to another run, naming the first thing that differs.
    """
    store = recursion.store
    store.hold()
    refuse_changed(store)
    gold = store.write_gold(data.gold(), facts={"data": data.describe()})
    held = store.write_held(data.held())
    identity = identity_of(recursion, module, data, trainer, gold.content)
    identity = json.loads(json.dumps(identity | ({} if held is None else {"held": held.content})))
    path = store.root / "run.json"
    if not path.exists():
        store.write("run.json", json.dumps(identity, indent=1).encode())
        return config_digest(identity)
    found = json.loads(path.read_text())
    for name in sorted(identity.keys() | found.keys()):
        if found.get(name) != identity.get(name):
            raise StoreError(
                f"{store.root} holds another run: its {name} is {found.get(name)!r}, not {identity.get(name)!r}; "
                "choose another run folder"
            )
    return config_digest(identity)
