"""Chains on two processes, sharded, observed, uneven and broken: the child of ``test_processes.py``."""

from __future__ import annotations

import multiprocessing
import sys
from pathlib import Path

import ddp_chain
import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies import ModelParallelStrategy
from torch import nn

import collapse.cli
import collapse.recursion.chain
from collapse import (
    EMA,
    VAE,
    AnchorReplay,
    DataAccumulation,
    RingOfGaussians,
    SIGReg,
    StepCheckpoint,
    WeightedLikelihood,
)
from collapse.config import execute
from collapse.data.generation import GenerationCallback
from collapse.data.rows import Samples
from collapse.distributed import processes
from collapse.models import GenerativeModule
from collapse.models.sharding import full_state, is_sharded
from collapse.recursion.reinitialize import reinitialize
from collapse.recursion.sampling import state_digest
from collapse.seeding import Stream


def small():
    """A width that halves into whole vectors: on a CPU, fused Adam rounds the numbers left over otherwise."""
    return VAE(shape=(2,), latent_dim=2, hidden=32, likelihood="gaussian", learning_rate=0.01)


def whole_options():
    """A chain with everything that crosses processes: uneven shares, a penalty, an evaluation."""
    return {
        "module": small(),
        "data": RingOfGaussians(rows=301, batch_size=40),
        "mitigations": [SIGReg(0.2, slices=16), AnchorReplay(0.2)],
        "generations": 2,
        "samples_per_generation": 1300,
        "epochs_per_generation": 2,
        "chunk_size": 512,
        "seed": 5,
    }


def case_whole(folder, rank):
    return ddp_chain.chain(folder, **whole_options())


# Sharded weights


def sharding(**options):
    settings = {"data_parallel_size": 2, "tensor_parallel_size": 1, "save_distributed_checkpoint": False}
    return ModelParallelStrategy(**{**settings, **options})


class Watch(GenerationCallback):
    """Note what a generation starts from, and in which tensors."""

    def __init__(self):
        self.initial, self.tensors, self.slices = [], [], []

    def on_generation_start(self, trainer, module, generation):
        assert is_sharded(module)
        self.initial.append(state_digest(full_state(module)))
        parameters = list(module.parameters())
        self.tensors.append([(id(value), value.to_local().data_ptr()) for value in parameters])
        self.slices.append([value.to_local().numel() / value.numel() for value in parameters])


def twins(module, seed, generations):
    digests = []
    for generation in range(generations):
        reinitialize(module, seed=seed, generation=generation, initialization="fresh")
        digests.append(state_digest(module.state_dict()))
    return digests


def case_sharded(folder, rank):
    watch, options = Watch(), whole_options()
    found = ddp_chain.chain(folder, **options, callbacks=[watch], strategy=sharding())
    seen = {"initial": watch.initial, "tensors": watch.tensors, "slices": watch.slices}
    return {**found, **seen, "twins": twins(small(), 5, 2)}


class Tied(GenerativeModule):
    """A parameter of its own, one that two children share, a list of modules and one that is not trained."""

    exposes = frozenset({"latent"})

    def __init__(self):
        super().__init__()
        self.shift = nn.Parameter(torch.randn(2))
        self.layers = nn.ModuleList([nn.Linear(2, 6), nn.Linear(6, 2)])
        self.one, self.other = nn.Linear(2, 2), nn.Linear(2, 2)
        self.other.weight = self.one.weight
        self.fixed = nn.Linear(2, 2).requires_grad_(False)
        self.register_buffer("steps", torch.zeros(()), persistent=False)

    def outputs(self, batch):
        self.steps += 1
        latent = self.other(self.one(self.layers[1](self.layers[0](batch.x).tanh()))) + self.shift
        return {"loss": (self.fixed(latent) - batch.x).square().sum(1), "latent": latent}

    def loss(self, batch):
        return self.outputs(batch)["loss"]

    def sample(self, n, generator, y=None):
        return self.other(self.one(torch.randn(n, 2, generator=generator) * self.shift))


def tied_options():
    data, penalty = RingOfGaussians(rows=101, batch_size=10), SIGReg(0.1, slices=8)
    return {"module": Tied(), "data": data, "mitigations": [penalty], "generations": 3, "samples_per_generation": 90}


def case_tied(folder, rank):
    return ddp_chain.chain(folder, **tied_options(), chunk_size=32)


def case_tied_sharded(folder, rank):
    return ddp_chain.chain(folder, **tied_options(), chunk_size=32, strategy=sharding())


class Interrupt(pl.Callback):
    """Stop every process after one of the chain's steps."""

    def __init__(self, step):
        self.step = step

    def on_train_batch_end(self, trainer, *rest):
        if trainer.global_step == self.step:
            raise InterruptedError


def averaged_options(folder):
    return {
        **whole_options(),
        "mitigations": [EMA(0.8), DataAccumulation()],
        "evaluate": False,
    }


def case_averaged(folder, rank):
    return ddp_chain.chain(folder, **averaged_options(folder))


def case_resumed(folder, rank):
    for step in (6, 18, 29):  # within a generation, twice; and in the last epoch
        callbacks = [StepCheckpoint(folder, 4), Interrupt(step)]
        try:
            ddp_chain.chain(folder, **averaged_options(folder), callbacks=callbacks, strategy=sharding())
        except InterruptedError:
            continue
        raise RuntimeError(f"there was no step {step}")
    return ddp_chain.chain(folder, **averaged_options(folder), callbacks=[], strategy=sharding())


def case_in_pieces(folder, rank):
    return ddp_chain.chain(folder, **whole_options(), strategy=sharding(save_distributed_checkpoint=True))


def case_by_tensors(folder, rank):
    return ddp_chain.chain(folder, **whole_options(), strategy=sharding(data_parallel_size=1, tensor_parallel_size=2))


# Uneven batches


class Exact(GenerativeModule):
    """A loss without noise, in double precision."""

    exposes = frozenset({"latent"})
    learning_rate = 0.0

    def __init__(self):
        super().__init__()
        self.net = nn.Linear(2, 2, dtype=torch.float64)

    def outputs(self, batch):
        latent = self.net(batch.x.double())
        return {"loss": (latent - batch.x).square().sum(1), "latent": latent}

    def loss(self, batch):
        return self.outputs(batch)["loss"]

    def sample(self, n, generator, y=None):
        return torch.randn(n, 2, generator=generator)


class Gradients(pl.Callback):
    """Note every step's gradient, and how many rows this process computed it from."""

    def __init__(self):
        self.gradients, self.rows = [], []

    def on_train_batch_start(self, trainer, module, batch, index):
        self.rows.append(len(batch.x))

    def on_before_optimizer_step(self, trainer, module, optimizer):
        self.gradients.append([value for p in module.parameters() for value in p.grad.flatten().tolist()])


def gradients(folder, *, world=2, **options):
    callback = Gradients()
    found = ddp_chain.chain(
        folder,
        Exact(),
        RingOfGaussians(rows=37, batch_size=20 // world),
        mitigations=[WeightedLikelihood(0.7), DataAccumulation(), SIGReg(0.3, slices=8)],
        generations=2,
        samples_per_generation=40,
        evaluate=False,
        callbacks=[callback],
        world=world,
        **options,
    )
    losses = [metrics["train/loss"] for _, _, metrics, *_ in found["records"]]
    return {"gradients": callback.gradients, "rows": callback.rows, "losses": losses}


def case_gradients(folder, rank):
    return gradients(folder)


def case_accumulated(folder, rank):
    return gradients(folder, accumulate_grad_batches=2)


# Observers


class Collective(VAE):
    """A sampler that needs every process."""

    def sample(self, n, generator, y=None):
        if processes() > 1:
            torch.distributed.all_reduce(torch.zeros(1))
        return super().sample(n, generator, y)


class Observer(GenerationCallback):
    """Sample ``rows`` rows on the processes ``ranks``, one after the other."""

    def __init__(self, *rows, ranks=(0, 1)):
        self.rows, self.ranks, self.sums = rows, ranks, []

    def on_generation_end(self, trainer, module, generation):
        if trainer.global_rank in self.ranks:
            self.sums += [generation.sample(rows, Stream.EVALUATE).double().sum().item() for rows in self.rows]


def observed(folder, *, world=2):
    observers = [Observer(700, ranks=(0,)), Observer(100, 257, 1), Observer(600, ranks=(world - 1,)), Observer()]
    options = {"generations": 2, "samples_per_generation": 300, "chunk_size": 128, "callbacks": observers}
    module = Collective(shape=(2,), latent_dim=2, hidden=8, likelihood="gaussian", learning_rate=0.0)
    data = RingOfGaussians(rows=300, reference_rows=300, batch_size=80 // world)
    found = ddp_chain.chain(folder, module, data, steps_per_generation=2, evaluate=True, world=world, **options)
    return {**found, "sums": [observer.sums for observer in observers]}


def case_observed(folder, rank):
    return observed(folder)


class Apart(GenerationCallback):
    """Ask for other rows on every process."""

    def on_generation_end(self, trainer, module, generation):
        generation.sample(10 + trainer.global_rank, Stream.EVALUATE)


class Failing(GenerationCallback):
    """Fail on the second process, while the first one samples, and goes on whatever comes of it."""

    def on_generation_end(self, trainer, module, generation):
        if trainer.global_rank == 1:
            raise ValueError("no luck here")
        for _ in range(2):
            try:
                generation.sample(10, Stream.EVALUATE)
            except RuntimeError:
                continue


class Late(GenerationCallback):
    """Sample when the generation is over."""

    def on_generation_end(self, trainer, module, generation):
        self.sample = generation.sample

    def on_train_end(self, trainer, module):
        self.sample(10, Stream.EVALUATE)


def watched_by(folder, observer):
    return ddp_chain.chain(folder, **{**whole_options(), "evaluate": False}, callbacks=[observer])


def case_apart(folder, rank):
    return watched_by(folder, Apart())


def case_failing(folder, rank):
    return watched_by(folder, Failing())


def case_late(folder, rank):
    return watched_by(folder, Late())


# The same data


class OtherGold(RingOfGaussians):
    """Another version of the data on the second process: one row differs."""

    def gold(self):
        gold = super().gold()
        x = torch.as_tensor(gold.x).clone()
        x[7] += torch.distributed.get_rank()
        return Samples(x, gold.y)


def case_other_gold(folder, rank):
    return ddp_chain.chain(folder, **{**whole_options(), "data": OtherGold(rows=301, batch_size=40)})


def case_unseen(folder, rank):
    return ddp_chain.chain(folder.with_name(f"run_{rank}"), **whole_options())


def case_another_checkpoint(folder, rank):
    """The first process goes on, the second one does not see where."""
    newest = collapse.recursion.chain.newest_checkpoint
    try:
        ddp_chain.chain(folder, **whole_options(), callbacks=[Interrupt(6), StepCheckpoint(folder, 4)])
    except InterruptedError:
        collapse.recursion.chain.newest_checkpoint = lambda root: newest(root) if rank == 0 else None
    try:
        return ddp_chain.chain(folder, **whole_options())
    finally:
        collapse.recursion.chain.newest_checkpoint = newest


# A worker of the loader, killed


class KillWorker(pl.Callback):
    """Kill a worker of the loader after one of the chain's steps."""

    def on_train_batch_end(self, trainer, *rest):
        if trainer.global_step == 9:
            multiprocessing.active_children()[0].kill()


def command(*arguments):
    """Run a command line in this process and return its exit code."""
    try:
        collapse.cli.main(arguments)
    except SystemExit as stop:
        return stop.code


def kill_worker(folder, *settings):
    """Run a command line to its end, then once more with a worker killed, and resume that."""
    ordinary = execute._callbacks
    codes = [command("run", *settings, f"out={folder / 'whole' / 'run'}", "data.num_workers=0")]
    execute._callbacks = lambda loaded: [*ordinary(loaded), KillWorker()]
    codes.append(command("run", *settings, f"out={folder / 'killed' / 'run'}", "data.num_workers=1"))
    execute._callbacks = ordinary
    codes.append(command("resume", str(folder / "killed" / "run")))
    print(codes)


if __name__ == "__main__":
    table, folder, rest = globals(), Path(sys.argv[1]), sys.argv[2:]
    kill_worker(folder, *rest[1:]) if rest[0] == "worker" else ddp_chain.main(table, folder, *rest)
