"""Small chains on the plane, run by a real Trainer, and parts to look inside them with."""

import contextlib
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytorch_lightning as pl
import torch
from torch import nn

from collapse.data import GenerationStore, RingOfGaussians, Samples
from collapse.data.generation import GenerationCallback
from collapse.data.module import RecursiveDataModule
from collapse.mitigations import NoEffectWarning
from collapse.models import VAE, GenerativeModule
from collapse.nn import MLP
from collapse.recursion import Chain, RecursiveTrainer
from collapse.recursion.sampling import state_digest

QUIET = {
    "logger": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "enable_checkpointing": False,
    "accelerator": "cpu",
    "devices": 1,
}


def ring(**settings):
    return RingOfGaussians(modes=4, **{"rows": 64, "reference_rows": 8, "batch_size": 16, **settings})


def vae(**settings):
    return VAE((2,), 2, **{"hidden": 16, "likelihood": "gaussian", "scale": 0.3, **settings})


class Denoiser(GenerativeModule):
    """A GenerativeModule with a loss and a sampler and nothing else."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.net = MLP((2, width, 2))

    def loss(self, batch):
        return (self.net(batch.x + 0.3 * torch.randn_like(batch.x)) - batch.x).square().sum(1)

    def sample(self, n, generator, y=None):
        return self.net(torch.randn(n, 2, generator=generator))


class Plain(pl.LightningModule):
    """A LightningModule as its user had it before he heard of this package; only ``sample`` was added."""

    def __init__(self, width: int = 16, rate: float = 1e-2) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.net = nn.Sequential(
            nn.Linear(2, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Dropout(0.2), nn.Linear(width, 2)
        )

    def training_step(self, batch, batch_idx):
        loss = (self.net(batch.x + 0.3 * torch.randn_like(batch.x)) - batch.x).square().mean()
        self.log("mine", loss, on_epoch=True, on_step=False)
        return loss

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=self.hparams.rate)

    def sample(self, n, generator):
        return self.net(torch.randn(n, 2, generator=generator))


class Probe(GenerativeModule):
    """Samples spell out the generation they are made for; ``seen`` is what it was trained on."""

    learning_rate = 0.0

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.seen: list[Seen] = []

    def loss(self, batch):
        self.seen.append(
            Seen(self.clock.generation, self.clock.epoch, batch.x[:, 0].int().tolist(), batch.row.tolist())
        )
        return self.weight * batch.x.sum(1)

    def sample(self, n, generator, y=None):
        return torch.stack([torch.full((n,), self.clock.generation + 1.0), torch.rand(n, generator=generator)], 1)

    def epoch(self, generation, epoch):
        """The batches of one epoch."""
        return [seen for seen in self.seen if (seen.generation, seen.epoch) == (generation, epoch)]


class Seen(NamedTuple):
    """One batch of a Probe: when it was seen, which generations made its rows, and the rows' places in the pool."""

    generation: int
    epoch: int
    values: list
    rows: list


class Zeros(RecursiveDataModule):
    """Gold whose rows say 0, the generation they belong to."""

    def __init__(self, rows: int = 64, batch_size: int | None = 16, num_workers: int = 0) -> None:
        super().__init__(batch_size, num_workers)
        self.rows = rows

    def gold(self):
        return Samples(np.stack([np.zeros(self.rows), np.arange(self.rows)], 1).astype(np.float32))

    def reference(self):
        return self.gold()


class Watch(GenerationCallback):
    """Keeps what a generation starts and ends with."""

    def __init__(self) -> None:
        self.initial, self.trained, self.rates = {}, {}, {}
        self.pointers, self.scales = set(), {}

    def on_generation_start(self, trainer, module, generation):
        self.initial[generation.index] = {name: value.clone() for name, value in module.state_dict().items()}
        self.pointers.add(tuple((id(p), p.data_ptr()) for p in (*module.parameters(), *module.buffers())))
        self.rates[generation.index] = []
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        self.scales[generation.index] = scaler.get_scale() if scaler else None

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.rates[max(self.rates)].append(trainer.optimizers[0].param_groups[0]["lr"])

    def on_generation_end(self, trainer, module, generation):
        self.trained[generation.index] = {name: value.clone() for name, value in module.state_dict().items()}


class Run(NamedTuple):
    """A chain that was run, and what ran it."""

    chain: Chain
    recursion: RecursiveTrainer
    trainer: pl.Trainer
    module: pl.LightningModule
    data: pl.LightningDataModule

    @property
    def digests(self):
        """Everything a chain's bytes are known by."""
        return [record.digests for record in self.chain.records]


def recursion_for(root: Path, **settings):
    defaults = {
        "generations": 3,
        "samples_per_generation": 48,
        "epochs_per_generation": 1 if "steps_per_generation" in settings else 2,
        "chunk_size": 20,
    }
    return RecursiveTrainer(store=GenerationStore(root, durable=False), **{**defaults, **settings})


def train(
    root: Path, module, data=None, *, mitigations=(), callbacks=(), ahead=(), trainer=None, ckpt=None, **settings
) -> Run:
    """Run a chain; ``settings`` are RecursiveTrainer's, ``trainer`` holds the Trainer's; ``ahead`` come before it."""
    recursion, data = recursion_for(root, **settings), data or ring()
    options = {**QUIET, **recursion.trainer_kwargs(), **(trainer or {})}
    lightning = pl.Trainer(**options, default_root_dir=root, callbacks=[*ahead, recursion, *mitigations, *callbacks])
    lightning.fit(module, datamodule=data, ckpt_path=ckpt)
    return Run(Chain.load(root), recursion, lightning, module, data)


@contextlib.contextmanager
def no_effects():
    """Collect the messages of NoEffectWarning, and nobody else's warnings (``pytest.warns`` gives back all others)."""
    messages = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield messages
    messages += [str(warning.message) for warning in caught if issubclass(warning.category, NoEffectWarning)]


def same(one, other):
    """Whether two state dicts are equal bit for bit."""
    return state_digest(one) == state_digest(other)
