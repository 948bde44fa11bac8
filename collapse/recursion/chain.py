"""run_chain: a whole chain in one call, and what is left of it on disk."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from collapse.callbacks.evaluation import GenerationEvaluation
from collapse.data.memory import MemoryStore
from collapse.data.module import RecursiveDataModule
from collapse.data.pool import DataPool
from collapse.data.store import GenerationStore
from collapse.mitigations.mitigation import Mitigation
from collapse.recursion.checkpointing import AtomicCheckpointIO, EpochCheckpoint, newest_checkpoint
from collapse.recursion.ledger import read_measurements
from collapse.recursion.lightning import NoProfiler, spawns
from collapse.recursion.requeue import StopForRequeue
from collapse.recursion.slurm import check_slurm, slurm_plugins
from collapse.recursion.trainer import RecursiveTrainer

__all__ = ["Chain", "Record", "run_chain"]


@dataclass(frozen=True)
class Record:
    """One generation of a finished chain.

    Attributes:
        generation: Which, from 0.
        metrics: Value by metric name.
        counts: Rows: ``trained`` on, ``real``, ``synthetic`` and, where admitted, ``unknown`` ones among them,
            ``candidates`` sampled and ``kept``; ``steps`` and ``epochs`` of training.
        real_fraction: Realized share of real rows in the training set, in [0, 1].
        effective_size: Kish's effective number of rows of the mixture.
        digests: SHA-256 of the ``weights``, of the ``training_set``'s row indices, of the ``pool`` sampled from the
            model and of the pool before (``parent``): of their rows, whoever wrote them.
    """

    generation: int
    metrics: dict[str, float]
    counts: dict[str, float]
    real_fraction: float
    effective_size: float
    digests: dict[str, str]


@dataclass(frozen=True)
class Chain:
    """What a chain left behind; everything is read from its run folder.

    Attributes:
        records: One record per finished generation.
        store: The pools.
    """

    records: list[Record]
    store: GenerationStore
    _folder: Any = field(default=None, repr=False, compare=False)  # keeps a temporary run folder alive

    @classmethod
    def load(cls, root: str | Path) -> Chain:
        """Read the chain in ``root``.

        Raises:
            StoreError: If there is none.
        """
        return cls._of(GenerationStore(root))

    @classmethod
    def _of(cls, store: GenerationStore, folder: Any = None) -> Chain:
        store.manifest(0)
        metrics: dict[int, dict[str, float]] = {}
        for row in read_measurements(store.root / "metrics.jsonl"):
            metrics.setdefault(row.generation, {})[row.name] = row.value
        records = [_record(store, index, metrics.get(index, {})) for index in range(len(store) - 1)]
        return cls(records, store, folder)

    @property
    def root(self) -> Path:
        """The run folder. The rows of a chain that ran without one are written when it is asked for."""
        if isinstance(self.store, MemoryStore):
            self.store.write_files()
        return self.store.root

    def pool(self) -> DataPool:
        """Return every row of the chain with its provenance: gold, then what each model sampled."""
        return self.store.pool([self.store.manifest(index) for index in range(len(self.store))])

    def state(self, generation: int) -> dict[str, Tensor]:
        """Return the state dict of the model trained at ``generation``, on the CPU; negative counts from the end.

        Raises:
            IndexError: If the chain has no such generation.
        """
        index = generation + len(self.records) if generation < 0 else generation
        if not 0 <= index < len(self.records):
            raise IndexError(f"generation {generation} is not one of the chain's {len(self.records)}")
        return self.store.state(index)


def _record(store: GenerationStore, index: int, metrics: dict[str, float]) -> Record:
    deposit = store.manifest(index + 1)
    model = deposit.facts["model"]
    counts = {
        "trained": model["rows"],
        "real": model["real"],
        "synthetic": model["origins"].get("synthetic", 0),
        **{name: count for name, count in model["origins"].items() if name == "unknown"},
        "candidates": deposit.facts["candidates"],
        "kept": deposit.rows,
        "steps": deposit.facts["steps"],
        "epochs": deposit.facts["epochs"],
    }
    digests = {
        "weights": model["weights"],
        "training_set": model["training_set"],
        "pool": deposit.content,
        "parent": store.manifest(index).content,
    }
    return Record(index, metrics, counts, model["real_fraction"], model["effective_size"], digests)


def run_chain(
    module: pl.LightningModule,
    data: RecursiveDataModule,
    *,
    generations: int,
    samples_per_generation: int,
    mitigations: Iterable[Mitigation] = (),
    epochs_per_generation: int = 1,
    steps_per_generation: int | None = None,
    seed: int = 0,
    store: str | Path | None = None,
    initialization: str = "fresh",
    chunk_size: int = 1024,
    keep_weights: bool | Collection[int] = True,
    evaluate: bool = True,
    **trainer_options: Any,
) -> Chain:
    """Train a chain of generations and return its records.

    Builds the Trainer that ``RecursiveTrainer`` needs and calls its ``fit`` once. An interrupted chain in ``store`` is
    continued from its newest checkpoint, a finished one is left as it is.

    Args:
        module: Any GenerativeModule, or a LightningModule with a ``sample`` method.
        data: Gold and reference rows.
        generations: How many models to train.
        samples_per_generation: Rows sampled from each.
        mitigations: Callbacks that change a generation; none is the replace regime.
        epochs_per_generation: Passes over the training set per generation.
        steps_per_generation: Batches per generation instead.
        seed: Everything random derives from it.
        store: The run folder. None for a temporary one, which goes with the returned chain: one process, rows in
            memory, no checkpoint.
        initialization: ``"fresh"``, ``"same"`` or ``"warm"``.
        chunk_size: Rows per call of the sampler.
        keep_weights: Keep every generation's weights, none, or those of the given generations.
        evaluate: Add a ``GenerationEvaluation`` unless the callbacks hold one; it skips replicated data.
        trainer_options: Anything else ``pl.Trainer`` takes, ``callbacks``, ``logger``, ``devices`` for example.

    Returns:
        The chain.

    Raises:
        ConflictError: If two mitigations decide the same thing.
        StoreError: If ``store`` holds another run, or files that were changed.
        StoppedForRequeue: If SIGUSR1 or SIGTERM asked to stop; the same call again goes on from there.

    Example:
        >>> from collapse import GaussianData, Gaussian, run_chain
        >>> chain = run_chain(Gaussian(), GaussianData(rows=10), generations=2, samples_per_generation=10)
        >>> [record.real_fraction for record in chain.records]
        [1.0, 0.0]
    """
    folder = _TemporaryFolder() if store is None else None
    root = folder.path if folder else Path(store or "")
    pools = MemoryStore(root) if folder else GenerationStore(root)
    recursion = RecursiveTrainer(
        generations,
        samples_per_generation=samples_per_generation,
        store=pools,
        epochs_per_generation=epochs_per_generation,
        steps_per_generation=steps_per_generation,
        seed=seed,
        initialization=initialization,
        chunk_size=chunk_size,
        keep_weights=keep_weights,
    )
    callbacks = _as_list(trainer_options.pop("callbacks", None))
    if evaluate and not any(isinstance(callback, GenerationEvaluation) for callback in callbacks):
        callbacks.insert(0, GenerationEvaluation())
    if folder is None:
        callbacks.append(EpochCheckpoint(root))
        if not any(isinstance(callback, StopForRequeue) for callback in callbacks):
            callbacks.append(StopForRequeue(root))
        trainer_options["plugins"] = [AtomicCheckpointIO(pools), *_as_list(trainer_options.get("plugins"))]
    plugins = _as_list(trainer_options.pop("plugins", None))
    options: dict[str, Any] = {
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": folder is None,
        "default_root_dir": root,
        "profiler": NoProfiler(),
        "deterministic": torch.cuda.is_available(),  # or a resumed chain would not make the same bytes
        **({"devices": 1} if folder else {}),  # other processes would not find a temporary folder
        "plugins": [*plugins, *slurm_plugins(plugins)],
        **recursion.trainer_kwargs(),
        **trainer_options,
    }
    trainer = pl.Trainer(**options, callbacks=[recursion, *mitigations, *callbacks])
    if folder and trainer.world_size > 1:
        raise ValueError(
            f"store=None is a folder of each of the {trainer.world_size} processes' own; give store=FOLDER"
        )
    if folder is None:
        check_slurm(trainer)
    if pools.journal.path.exists() and trainer.is_global_zero and not spawns(trainer):
        pools.hold()  # before a checkpoint is chosen that another process is about to supersede
    try:
        trainer.fit(module, datamodule=data, ckpt_path=None if folder else newest_checkpoint(root))
    finally:
        pools.lock.release()
    return Chain._of(pools, folder)


class _TemporaryFolder:
    """A folder that goes with the last reference to it; ``TemporaryDirectory`` would warn of just that."""

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="collapse-"))
        weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)


def _as_list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [] if value is None else [value]
