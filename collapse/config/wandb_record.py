"""What W&B is told of a generation beside its curves: a table of what was measured, and where its rows came from."""

from __future__ import annotations

import logging
import math
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytorch_lightning as pl
from pytorch_lightning.loggers import WandbLogger

from collapse.data.generation import Generation, GenerationCallback
from collapse.data.store import GenerationStore
from collapse.recursion import Measurement, read_measurements
from collapse.recursion.logging import log_measurements

if TYPE_CHECKING:
    from wandb import Artifact

__all__ = ["COLUMNS", "TABLE", "WandbRecord", "lineage", "pool_artifact"]

LOG = logging.getLogger(__name__)
TABLE = "gen/measurements"
COLUMNS = ("generation", "metric", "value", "n", "extractor", "floor")


def lineage(store: GenerationStore, generation: int) -> dict[str, Any]:
    """Return where the rows of a pool came from, as its manifest says.

    Returns:
        ``generation``, ``rows``, ``digest`` and ``parent``; but for gold also the digests ``weights`` of the model that
        sampled them and ``training_set`` of the rows it was trained on, and the ``real_fraction`` of those.
    """
    manifest = store.manifest(generation)
    known = {"generation": generation, "rows": manifest.rows, "digest": manifest.digest, "parent": manifest.parent}
    model = manifest.facts.get("model", {})
    return known | {name: model[name] for name in ("weights", "training_set", "real_fraction") if name in model}


def pool_artifact(store: GenerationStore, generation: int, run: Any) -> Artifact:
    """Return the artifact of a pool: its manifest, which names its files by digest, and none of the files.

    Gold is named by its digest, so that all runs on the same gold have one; a chain's pools are versions of one name.
    """
    import wandb

    facts = lineage(store, generation)
    kind, name = ("pool", f"pool-{run.id}") if generation else ("gold", f"gold-{facts['digest'][:12]}")
    artifact = wandb.Artifact(name, type=kind, metadata=facts | ({"run": run.name} if generation else {}))
    artifact.add_file(str(store.folder(generation) / "manifest.json"), policy="immutable")
    return artifact


class WandbRecord(GenerationCallback):
    """Put every generation's measurements and the manifests of the pools into W&B, on the first process.

    Per generation there is a table ``gen/measurements`` and an artifact of the pool sampled from its model; gold is
    an artifact, too. Their metadata say which model made them from what. What they were made from is declared as the
    run's input where that can be: online, and in the background. Without a ``WandbLogger`` nothing happens.

    What a killed process had measured, but W&B had not written yet, is logged when the run is resumed.

    Args:
        root: The run folder; the Trainer's ``default_root_dir`` when None.
    """

    def __init__(self, root: str | Path | None = None) -> None:
        self.root = root
        self._due: list[int] = []

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Name the gold set, and make up for what was lost."""
        root = self._root(trainer)
        for logger in _loggers(trainer):
            self._declare(logger, root, 0)
            if trainer.global_step:
                self._catch_up(logger, root, trainer.global_step)
        self._send(trainer)

    def on_generation_start(self, trainer: pl.Trainer, module: Any, generation: Generation) -> None:
        """Declare the newest pool an input."""
        for logger in _loggers(trainer):
            if generation.index and not logger.experiment.offline:  # offline it is there, as an output
                self._declare(logger, self._root(trainer), generation.index)

    def on_generation_end(self, trainer: pl.Trainer, module: Any, generation: Generation) -> None:
        """Note that there is something to send: other observers are still measuring."""
        self._due.append(generation.index)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Send what the generation that ended put on record."""
        self._send(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Send the rest."""
        self._send(trainer)

    def _root(self, trainer: pl.Trainer) -> Path:
        return Path(trainer.default_root_dir if self.root is None else self.root)

    def _send(self, trainer: pl.Trainer) -> None:
        due, self._due = self._due, []
        root = self._root(trainer)
        for logger in _loggers(trainer) if due else ():
            rows = read_measurements(root / "metrics.jsonl")
            for generation in due:
                _log_table(logger, generation, rows, trainer.global_step)
                _log_pool(logger, root, generation + 1)

    def _catch_up(self, logger: WandbLogger, root: Path, trained: int) -> None:
        """Log the generations that ended within ``trained`` steps, but of which W&B's files have no table."""
        from collapse.config.wandb_file import WandbFileError, wandb_files, wandb_history

        files = wandb_files(Path(logger.save_dir or root) / "wandb", logger.experiment.id)
        told = set(self._due)
        for path in files:
            try:
                told |= {row["generation"] for row in wandb_history(path, TABLE)}
            except WandbFileError as error:
                LOG.warning("%s; what it says of generations is logged again", error)
        rows, store, steps = read_measurements(root / "metrics.jsonl"), GenerationStore(root), 0
        for generation in range(len(store) - 1):
            steps += store.manifest(generation + 1).facts["steps"]
            values = {row.name: row.value for row in rows if row.generation == generation}
            if values and generation not in told and steps <= trained:  # what ended later is about to be done again
                log_measurements(logger, generation, values, steps=steps)
                _log_table(logger, generation, rows, steps)
                _log_pool(logger, root, generation + 1)

    @staticmethod
    def _declare(logger: WandbLogger, root: Path, generation: int) -> None:
        """Declare a pool an input of the run; offline, where W&B refuses that, gold is at least there."""
        store, run = GenerationStore(root), logger.experiment
        if not len(store) > generation:
            return
        artifact = pool_artifact(store, generation, run)
        if run.offline:
            run.log_artifact(artifact)
        else:  # W&B waits for the server here, training does not
            threading.Thread(target=_use, args=(run, artifact), name="collapse-wandb", daemon=True).start()


def _loggers(trainer: pl.Trainer) -> list[WandbLogger]:
    """Return the W&B loggers; none on other processes than the first."""
    return [logger for logger in trainer.loggers if isinstance(logger, WandbLogger) and trainer.is_global_zero]


def _log_table(logger: WandbLogger, generation: int, rows: list[Measurement], steps: int) -> None:
    import wandb

    data = [
        [row.generation, row.name, _finite(row.value), row.n, row.extractor, _finite(row.floor)]
        for row in rows
        if row.generation == generation
    ]
    table = wandb.Table(columns=list(COLUMNS), data=data, allow_mixed_types=True)
    log_measurements(logger, generation, {TABLE.removeprefix("gen/"): table}, steps=steps)


def _finite(value: float | None) -> float | None:
    """Return what ``metrics.jsonl`` says, too: nothing for what JSON has no word for."""
    return value if value is not None and math.isfinite(value) else None


def _log_pool(logger: WandbLogger, root: Path, generation: int) -> None:
    store, run = GenerationStore(root), logger.experiment
    if len(store) > generation:
        run.log_artifact(pool_artifact(store, generation, run), aliases=[f"gen-{generation:03d}"])


def _use(run: Any, artifact: Artifact) -> None:
    import wandb

    try:
        run.use_artifact(artifact)
    except (wandb.Error, OSError, ValueError, RuntimeError) as error:
        LOG.warning("W&B did not take %s as an input of the run: %s", artifact.name, error)
