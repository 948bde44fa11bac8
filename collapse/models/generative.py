"""The base of every model: a per-row loss, a sampler driven by a generator, and the socket mitigations plug into."""

from __future__ import annotations

import abc
import contextlib
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar, Protocol

import pytorch_lightning as pl
import torch
from torch import Tensor

from collapse.arguments import Remembers
from collapse.data.loading import GenerationLoader
from collapse.data.module import RecursiveDataModule
from collapse.data.rows import Batch
from collapse.distributed import gather_processes, own_share, processes
from collapse.models.conditions import Conditions, LabelLaw, check_classes
from collapse.models.sharding import is_sharded, shard
from collapse.seeding import Clock, Stream, generator, reseed

__all__ = ["GenerativeModule", "Objective", "RowWeights", "SampleFn", "check_rows", "sampling"]


class SampleFn(Protocol):
    """What a harvest calls, and what ``wrap_sampler`` wraps: (n, generator, y=None) -> (n, *S).

    ``y`` is what a conditional model's samples are conditioned on, (n,) int64 class labels or (n, p) prompt tokens. A
    model without conditions is called with ``n`` and ``generator`` alone.
    """

    def __call__(self, n: int, generator: torch.Generator, y: Tensor | None = None, /) -> Tensor:
        """Draw ``n`` rows, (n, *S)."""


Objective = Callable[[Mapping[str, Tensor], Batch, "GenerativeModule"], Tensor]
"""(outputs, batch, module) -> (): the scalar to minimize."""

RowWeights = Callable[[Batch, "GenerativeModule"], Tensor | None]
"""(batch, module) -> factors on the loss of each row, (B,), or (B, R) where replicates have rows of their own; None
for ones."""


def mean_loss(outputs: Mapping[str, Tensor], batch: Batch, module: GenerativeModule) -> Tensor:
    """Return the plain mean of the per-row losses: the objective of a module without mitigations."""
    return outputs["loss"].mean()


def unweighted(batch: Batch, module: GenerativeModule) -> None:
    """Give every row the weight one: the row weights of a module without mitigations."""


class GenerativeModule(Remembers, pl.LightningModule, abc.ABC):
    """A model that learns from batches and emits samples. Subclasses write ``loss`` and ``sample``; that is all.

    A generation starts from a *twin* of the module, made again from its constructor's arguments under a keyed
    generator. So everything a constructor needs is an argument, networks are built inside it, and the weights a module
    is handed over with do not matter: a pretrained model loads its weights in ``__init__``.

    Attributes:
        reads_batches: Whether a step takes a ``Batch`` whatever the data; a plain LightningModule on adopted data gets
            items as those had them.
        exposes: Names that ``outputs`` returns besides ``"loss"``, for mitigations that regularize them.
        sampler_settings: How ``sample`` departs from the model's own law (temperature, variance multiplier, mean
            instead of draw); recorded with every pool.
        fresh_samples: Whether ``sample`` returns memory that nothing writes to afterwards, so that a pool may keep it.
            False is always right, and costs a copy.
        learning_rate: Step size of the default optimizer, Adam.
        weight_decay: What that adds of every weight to its gradient, Adam's own kind of decay (L2).
        classes: Number of classes K of a model that is conditioned on labels, a constructor's argument; None for one
            that is not.
        clock: Where in the chain the module stands; set by ``RecursiveTrainer``. With one, every step draws from its
            own key; without one, from torch's global generator as anywhere else.
        objective: A socket: turns outputs into the scalar to minimize.
        weigh: A socket: weights the rows of a batch. Part of ``objective``; a model that is fitted in closed form
            asks for the weights themselves.
        training_facts: What is known of the training set at hand (``rows``, ``real_fraction``, ``label_law`` for
            labeled rows, ...); set by ``RecursiveTrainer``, empty without one.
    """

    reads_batches: ClassVar[bool] = True
    exposes: frozenset[str] = frozenset()
    fresh_samples: ClassVar[bool] = False
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    classes: int | None = None
    clock: Clock | None = None
    _labels_met: bool = False

    def __init__(self) -> None:
        super().__init__()
        self.objective: Objective = mean_loss
        self.weigh: RowWeights = unweighted
        self.training_facts: Mapping[str, Any] = {}
        self.epoch_sums: dict[str, Tensor] = {}
        self.epoch_steps = 0

    def attach(self, clock: Clock, objective: Objective, weigh: RowWeights) -> None:
        """Let a chain key the steps and shape the loss."""
        self.clock, self.objective, self.weigh = clock, objective, weigh

    def detach(self) -> None:
        """Be an ordinary LightningModule again."""
        self.clock, self.objective, self.weigh, self.training_facts = None, mean_loss, unweighted, {}

    @abc.abstractmethod
    def loss(self, batch: Batch) -> Tensor:
        """Return the loss of each row of a batch, (B,), up to a constant a negative log-likelihood in nats."""

    @abc.abstractmethod
    def sample(self, n: int, generator: torch.Generator, y: Tensor | None = None) -> Tensor:
        """Draw ``n`` rows with ``generator`` alone.

        Args:
            n: Number of rows.
            generator: On the module's device; the only source of randomness.
            y: What the rows are conditioned on, for a conditional model: (n,) int64 class labels, or (n, p) tokens
                that texts begin with.

        Returns:
            (n, *S), in the units of ``Batch.x``.
        """

    def conditions(self, data: RecursiveDataModule) -> Conditions | None:
        """Return the law that a chain draws ``y`` from, or None to have ``sample`` called without.

        With ``classes`` it is the law of the labels in the mixture that the model was trained on.

        Args:
            data: The chain's data, for a model that takes its conditions from there.

        Raises:
            ValueError: If the model has ``classes`` and no row that it was trained on has a label.
        """
        return None if self.classes is None else LabelLaw.of(self.training_facts)

    def outputs(self, batch: Batch) -> Mapping[str, Tensor]:
        """Return ``{"loss": (B,)}`` and whatever the module ``exposes``, all from one forward pass."""
        return {"loss": self.loss(batch)}

    def labels_of(self, batch: Batch) -> Tensor | None:
        """Return the labels that a model with classes trains on, (B,); None without classes, or if no row has a label.

        Raises:
            ValueError: If some of the first batch are no classes of the model. Of later ones it is not asked, as the
                answer waits for the device.
        """
        y = None if self.classes is None else batch.y
        if y is not None and not self._labels_met:
            check_classes(y, self.classes)
            self._labels_met = True
        return y

    @property
    def sampler_settings(self) -> dict[str, Any]:
        """Plain values; empty for unbiased sampling."""
        return {}

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor | None:
        """Return the objective of one batch: over several processes, one whose mean is that of the global batch."""
        outputs, factor = self.outputs(batch), self._share_of_batch(batch_idx)
        if factor != 1:
            outputs = {**outputs, "loss": outputs["loss"] * factor}
        loss = self.objective(outputs, batch, self)
        self.tally("loss", loss)
        self.epoch_steps += 1
        return loss

    def _share_of_batch(self, batch_idx: int) -> float:
        """Return what makes the mean over this process's rows its part of the mean over the batch of all processes."""
        loader = self.trainer.train_dataloader if processes() > 1 else None
        return loader.batches.factor(batch_idx) if isinstance(loader, GenerationLoader) else 1

    def predict_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Sample as many rows as the batch has, from a key of the batch's and the process's own; a class-conditional
        model samples under the batch's labels."""
        clock = self.clock or Clock()
        key = (clock.seed, Stream.PREDICT, clock.generation, batch_idx, self.global_rank)
        drawn = generator(*key, device=self.device)
        return self.sample(len(batch.x), drawn) if self.classes is None else self.sample(len(batch.x), drawn, batch.y)

    def tally(self, name: str, value: Tensor) -> None:
        """Add a value to the epoch's running sum, on the device: logged once per epoch, as a ``self.log`` per step
        costs more than the step of a small model."""
        total = self.epoch_sums.get(name)
        self.epoch_sums[name] = value.detach() if total is None else total + value.detach()

    def epoch_means(self) -> dict[str, float]:
        """Return the means of everything tallied since the last call, and start over."""
        means = {name: float(total) / max(1, self.epoch_steps) for name, total in self.epoch_sums.items()}
        self.epoch_sums, self.epoch_steps = {}, 0
        return means

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Seed the step with its key: here, after every callback's hook, so that no observer can come in between."""
        if self.clock is not None:
            self.clock.batch = batch_idx
            reseed(self.clock.key(Stream.STEP, self.global_rank))

    def on_validation_batch_start(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Seed a validation step likewise: what it logs may decide when a generation ends."""
        if self.clock is not None:
            reseed(self.clock.key(Stream.VALIDATE, dataloader_idx, batch_idx, self.global_rank))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep every process's running sums, so that an epoch resumed in its middle logs the mean of all of it."""
        checkpoint["epoch_sums"] = {name: gather_processes(self.epoch_sums[name]) for name in sorted(self.epoch_sums)}
        checkpoint["epoch_steps"] = self.epoch_steps

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the running sums up again."""
        sums = checkpoint.get("epoch_sums", {})
        self.epoch_sums = {name: own_share(totals).to(self.device) for name, totals in sums.items()}
        self.epoch_steps = checkpoint.get("epoch_steps", 0)

    def configure_model(self) -> None:
        """Shard the weights if the strategy has a device mesh (``ModelParallelStrategy``, FSDP2); nothing otherwise."""
        if self.device_mesh is not None and not is_sharded(self):
            shard(self, self.device_mesh["data_parallel"])

    def configure_optimizers(self) -> Any:
        """Adam with ``learning_rate`` and ``weight_decay``; none for a module without parameters."""
        parameters = [p for p in self.parameters() if p.requires_grad]
        if not parameters:
            return None
        optimizer = torch.optim.Adam(parameters, lr=self.learning_rate, weight_decay=self.weight_decay, fused=True)
        # A fused step can undo the loss scale itself, for which Lightning forbids it to clip gradients under any mixed
        # precision, with a scale or without; let it undo the scale beforehand, as for every other optimizer.
        optimizer._step_supports_amp_scaling = False
        return optimizer

    def __setattr__(self, name: str, value: Any) -> None:
        # Lightning writes this attribute some forty times a step; nn.Module's search through parameters, buffers and
        # submodules for it costs a tenth of a millisecond each time round.
        if name == "_current_fx_name":
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)


def check_rows(x: Tensor, shape: tuple[int, ...], model: str) -> None:
    """Raise ValueError unless rows are real numbers of the shape that a model was made for; never waits for the device.

    Args:
        x: (B, *S) rows.
        shape: S of the model.
        model: Its name.
    """
    if not x.is_floating_point():
        raise ValueError(
            f"{model} takes no rows of shape {tuple(x.shape[1:])} and type {x.dtype}, as it models real numbers; use "
            "GPT or NGram for tokens, or turn counts and bits into floating point"
        )
    if x.shape[1:] != shape:
        raise ValueError(
            f"{model} takes no rows of shape {tuple(x.shape[1:])}, as it was made for shape = {shape}; give it that of "
            "the data"
        )


@contextlib.contextmanager
def sampling(module: pl.LightningModule) -> Iterator[None]:
    """Put a module in evaluation mode without gradients, in the precision it is trained in, and back."""
    was_training, trainer = module.training, getattr(module, "_trainer", None)
    precision = contextlib.nullcontext() if trainer is None else trainer.precision_plugin.forward_context()
    module.eval()
    try:
        with torch.no_grad(), precision:
            yield
    finally:
        module.train(was_training)


# Lightning inspects the signature of training_step before every call of it; given here, it has not to be made.
GenerativeModule.training_step.__signature__ = inspect.signature(GenerativeModule.training_step)  # type: ignore[attr-defined]
