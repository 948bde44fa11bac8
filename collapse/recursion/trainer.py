"""RecursiveTrainer: the callback that makes one ``trainer.fit()`` train a chain of generations."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from collapse.data.generation import Generation
from collapse.data.loading import TrainingSet
from collapse.data.manifest import Manifest
from collapse.data.store import GenerationStore
from collapse.memory import keep_freed_memory
from collapse.mitigations.mitigation import Mitigation
from collapse.mitigations.stack import MitigationStack
from collapse.models.generative import GenerativeModule
from collapse.recursion.agreement import agree_on_gold, verify_pools
from collapse.recursion.checks import check_budget, check_loader, check_module, check_trainer, generations_kept
from collapse.recursion.composition import compose, recorded
from collapse.recursion.early_stopping import GenerationEarlyStopping
from collapse.recursion.harvest import harvest, keep
from collapse.recursion.identity import claim_folder
from collapse.recursion.ledger import Ledger
from collapse.recursion.lightning import (
    callbacks_of,
    load_precision_state,
    precision_state,
    renew_optimizers,
    tell,
    together,
)
from collapse.recursion.logging import define_axes, log_epoch, log_generation
from collapse.recursion.nonfinite import LossWatch
from collapse.recursion.observing import SharedSampler, observe
from collapse.recursion.position import Position
from collapse.recursion.rehearsal import rehearse_conditions
from collapse.recursion.reinitialize import check_initialization, reinitialize
from collapse.seeding import Clock, Stream, reseed

__all__ = ["RecursiveTrainer"]


class RecursiveTrainer(pl.Callback):
    """Train a chain: each generation on what the mitigations compose from gold and its predecessors' samples.

    At a generation's end it *harvests*: samples the next pool and commits it, before any checkpoint is written. At the
    start of the next epoch it *turns*: verifies the pool, renews weights, optimizers, schedulers and loss scale. Both
    are pure functions of (weights, seed, generation) that change the state last; a crash is repaired by repetition.

    Args:
        generations: How many models to train, at least 1; model 0 on gold alone.
        samples_per_generation: Rows sampled from each, at least 1.
        store: The run folder, or a store in it.
        epochs_per_generation: Passes over the training set per generation, at least 1.
        steps_per_generation: Batches per generation instead: as many laps as that takes, so that the budget does not
            grow with the pool.
        seed: Everything random in the chain derives from it.
        initialization: ``"fresh"``: new random weights in every generation; ``"same"``: generation 0's; ``"warm"``:
            the last generation's.
        chunk_size: Rows per call of the sampler.
        keep_weights: Keep every generation's weights, none, or those of the given generations.
    """

    def __init__(
        self,
        generations: int,
        *,
        samples_per_generation: int,
        store: str | Path | GenerationStore,
        epochs_per_generation: int = 1,
        steps_per_generation: int | None = None,
        seed: int = 0,
        initialization: str = "fresh",
        chunk_size: int = 1024,
        keep_weights: bool | Collection[int] = True,
    ) -> None:
        check_budget(
            generations=generations,
            samples_per_generation=samples_per_generation,
            epochs_per_generation=epochs_per_generation,
            steps_per_generation=steps_per_generation,
            chunk_size=chunk_size,
        )
        check_initialization(initialization)
        self.generations, self.samples_per_generation = generations, samples_per_generation
        self.epochs_per_generation, self.steps_per_generation = epochs_per_generation, steps_per_generation
        self.initialization, self.chunk_size, self.seed, self.clock = initialization, chunk_size, seed, Clock(seed)
        self.kept = generations_kept(keep_weights, generations)
        self.store = store if isinstance(store, GenerationStore) else GenerationStore(store)
        self.stack = MitigationStack()
        self._replicates: int | None = None
        self._classes: int | None = None
        self._means: dict[str, float] = {}
        self._scale: dict[str, Any] = {}
        self._config, self._watch = "", LossWatch()
        self._start_over()

    def _start_over(self) -> None:
        self.clock.turn_to(0)
        self._at = Position()
        self._composed: Generation | None = None

    @property
    def generation(self) -> int:
        """The generation in training."""
        return self.clock.generation

    def trainer_kwargs(self) -> dict[str, Any]:
        """Return the Trainer arguments a chain needs."""
        flags = {"reload_dataloaders_every_n_epochs": 1, "use_distributed_sampler": False, "num_sanity_val_steps": 0}
        return {"max_epochs": self.generations * self.epochs_per_generation, **flags}

    def upcoming(self) -> TrainingSet:
        """Return the training set of the next epoch; what the data module asks for."""
        turning = self._at.pending is not None and self.generation + 1 < self.generations
        generation = self.compose(self.generation + turning)
        assert generation.rows is not None
        return TrainingSet(
            generation.pool,
            generation.rows,
            seed=self.seed,
            generation=generation.index,
            epoch=0 if turning else self.clock.epoch,
            steps=self.steps_per_generation,
        )

    def compose(self, index: int) -> Generation:
        """Return generation ``index`` with its training set; composed once."""
        if self._composed is None or self._composed.index != index:
            pool = self.store.pool(self._at.known[: index + 1])
            generation = Generation(index, self.generations, self.seed, self.samples_per_generation, pool)
            self._composed = compose(generation, self.stack, self._replicates, self._classes)
        return self._composed

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Check everything that can be checked before any compute, write gold, start from the keyed initialization."""
        if stage != "fit":
            return
        keep_freed_memory()
        data = check_trainer(trainer, self.trainer_kwargs())
        mitigations = [callback for callback in callbacks_of(trainer) if isinstance(callback, Mitigation)]
        self.stack = MitigationStack(mitigations)
        check_module(pl_module, self.stack, trainer.world_size, data)
        self._replicates, self._classes = data.replicates, data.classes
        self._start_over()  # a checkpoint's state is loaded after this
        with together(trainer):
            rehearse_conditions(
                pl_module, data, mitigations, generations=self.generations, samples=self.samples_per_generation
            )
            if trainer.is_global_zero:
                self._config = claim_folder(self, pl_module, data, trainer)
        self._at.manifests = [agree_on_gold(trainer, self.store, data)]
        self.ledger = Ledger.of_run(self.store, seed=self.seed)
        for mitigation in mitigations:
            mitigation.engaged = True
        data.attach(self, pl_module)
        if isinstance(pl_module, GenerativeModule):
            pl_module.attach(self.clock, self.stack.objective, self.stack.weigh)
        reinitialize(pl_module, seed=self.seed, generation=0, initialization=self.initialization)

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Verify the pools, which may have changed while the run was down; remember the loss scale of a fresh start."""
        verify_pools(trainer, self.store, self._at.known)
        self._scale = precision_state(trainer)  # the scaler's checkpointed state is restored after this
        define_axes(trainer)

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Begin generation 0, or take up where a checkpoint left off."""
        check_loader(trainer)
        verify_pools(trainer, self.store, self._at.known)  # again: sharded weights are restored after on_fit_start
        if isinstance(pl_module, GenerativeModule):
            pl_module.training_facts = self.compose(self.generation).training_facts
        self.ledger.restart(self.generation + (self._at.pending is not None))
        if self._at.pending is not None and self.generation + 1 >= self.generations:
            trainer.should_stop = True  # a finished chain, resumed
        elif trainer.current_epoch > self._at.epochs_ended:
            # Another callback's checkpoint of an epoch's last batch: Lightning went on to the next epoch without the
            # hooks at the end of this one.
            self._end_epoch(trainer, pl_module)
            self._turn(trainer, pl_module)
        elif trainer.global_step == 0:
            self.stack.initialize(pl_module, self.compose(0))
            tell(trainer, pl_module, "on_generation_start", self.compose(0))

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """TURN, when a harvest is pending."""
        self._turn(trainer, pl_module)

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Seed the step of a module that does not do so itself."""
        if not isinstance(pl_module, GenerativeModule):
            self.clock.batch = batch_idx
            reseed(self.clock.key(Stream.STEP, trainer.global_rank))

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Stop at a loss that is no number, unless a loss scale is there to deal with it."""
        if not self._scale:
            self._watch.see(self.clock, outputs, batch, batch_idx)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Seed a validation loop, so that it cannot shift training."""
        reseed(self.clock.key(Stream.VALIDATE, trainer.global_rank))

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """HARVEST, when the generation is over; plain callbacks come before checkpoints, so those hold the result."""
        self._end_epoch(trainer, pl_module)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Leave the module an ordinary one: what trains it next must not be seeded by this chain."""
        self.store.lock.release()
        if isinstance(pl_module, GenerativeModule):
            pl_module.detach()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Let go of the run folder: another process may continue the chain."""
        self.store.lock.release()

    def state_dict(self) -> dict[str, Any]:
        """Return where the chain stands, unless a loss is no number, of which no checkpoint must be made."""
        self._watch.settle()
        return self._at.to_dict(self.clock)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Inverse of ``state_dict``."""
        self._at = Position.from_dict(state_dict, self.clock)
        self._composed = None

    def _end_epoch(self, trainer: pl.Trainer, module: Any) -> None:
        self._watch.settle()
        self._at.epochs_ended += 1
        self.clock.epoch += 1
        self._means = log_epoch(trainer, module)
        stoppers = [callback for callback in callbacks_of(trainer) if isinstance(callback, GenerationEarlyStopping)]
        stopped = [stopper.is_over({**trainer.callback_metrics, **self._means}) for stopper in stoppers]
        if self.clock.epoch < self.epochs_per_generation and not any(stopped):
            return
        generation = self.compose(self.generation)
        self.stack.finalize(module, generation)
        keep(trainer, module, generation, store=self.store, weights=generation.index in self.kept)
        self._at.pending = harvest(
            trainer,
            module,
            generation,
            store=self.store,
            stack=self.stack,
            chunk_size=self.chunk_size,
            parent=self._at.manifests[-1].digest,
            config=self._config,
            facts={"steps": trainer.global_step - self._at.first_step, "epochs": self.clock.epoch},
        )
        verify_pools(trainer, self.store, [self._at.pending])
        self._measure(trainer, module, generation, self._at.pending)
        if self.generation + 1 >= self.generations:
            trainer.should_stop = True

    def _measure(self, trainer: pl.Trainer, module: Any, generation: Generation, deposit: Manifest) -> None:
        """Let observers see the trained model and its deposit, and commit what they measured."""
        sampler, address = self.stack.sampler(module), (self.seed, generation.index)
        sample = SharedSampler(trainer, module, sampler, address=address, chunk_size=self.chunk_size)
        seen = dataclasses.replace(
            generation,
            sample=sample,
            deposit=self.store.pool([deposit]),
            measured={},
            recorder=self.ledger.record,
            writer=self.store.write if trainer.is_global_zero else None,
        )
        facts = generation.facts or {}
        known = recorded(facts) | self._means
        for name, value in known.items():
            seen.record(name, value, n=facts["rows"])
        with together(trainer):
            observe(trainer, module, seen, sample)
            if trainer.is_global_zero:
                self.ledger.commit()
                log_generation(trainer, generation.index, self.ledger.of(generation.index))
        self.stack.close_generation(generation)

    def _turn(self, trainer: pl.Trainer, module: Any) -> None:
        """Make the pending pool the one in training: verify, renew everything a generation owns, and flip last."""
        if self._at.pending is None:
            return
        manifests = self._at.known
        verify_pools(trainer, self.store, manifests)
        generation = self.compose(self.generation + 1)
        if isinstance(module, GenerativeModule):
            module.clock = Clock(self.seed, generation.index)  # what configure_optimizers sees; ours flips last
            module.training_facts = generation.training_facts
        reinitialize(module, seed=self.seed, generation=generation.index, initialization=self.initialization)
        self.stack.initialize(module, generation)
        renew_optimizers(trainer)
        load_precision_state(trainer, self._scale)
        self.clock.turn_to(generation.index)
        self._at = Position(manifests, None, self._at.epochs_ended, trainer.global_step)
        if isinstance(module, GenerativeModule):
            module.clock = self.clock
        tell(trainer, module, "on_generation_start", generation)
