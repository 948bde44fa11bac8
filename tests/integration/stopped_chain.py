"""A chain in a process of its own that asks itself to stop: the child of ``test_stopping.py``.

    python stopped_chain.py CONFIG FOLDER [POINT]    start or continue the chain in FOLDER; 75 if it was stopped
    python stopped_chain.py serve                    the same for every line of the standard input
    python stopped_chain.py pair FOLDER [BATCH]      a chain of two processes, the second of which is asked in a batch

A POINT is where the process sends itself SIGUSR1, or the signal named after an @: those of ``killable_chain.py``, and

    HOOK:N            in the N-th call of a callback's hook
    HOOK:N+           in that one and every one after it
"""

from __future__ import annotations

import os
import signal
import sys

import killable_chain
import torch
from killable_chain import CONFIGS, ring
from torch.utils.data import DataLoader

from collapse import (
    KDE,
    VAE,
    Gaussian,
    GenerationEarlyStopping,
    RingOfGaussians,
    StopForRequeue,
    StoppedForRequeue,
    run_chain,
)
from collapse.data.generation import GenerationCallback

STOPPED = 75
chain = killable_chain.main


class Validated(RingOfGaussians):
    """With rows to validate on, which it does twice in an epoch of ten batches."""

    def val_dataloader(self):
        return DataLoader(self.reference().x[:40], batch_size=20)


class Validating(VAE):
    """Its validation draws random numbers."""

    def validation_step(self, x, batch_idx):
        mean, _ = self.encode(x)
        self.log("val/distance", (self.decoder(mean + torch.randn_like(mean)) - x).square().mean())


def validated(root):
    arguments = ring(
        module=Validating((2,), 2, hidden=8, likelihood="gaussian", learning_rate=0.01),
        data=Validated(rows=2500, batch_size=250),
        callbacks=[GenerationEarlyStopping("val/distance", patience=1, min_delta=0.3)],
        val_check_interval=5,
    )
    return {**arguments, "epochs_per_generation": 3}


CONFIGS.update(
    validated=validated,
    gaussian=lambda root: ring(module=Gaussian(2), epochs_per_generation=1),
    kde=lambda root: ring(module=KDE(2), epochs_per_generation=1),
)


class Asking(GenerationCallback):
    """Sends the process a signal in a hook."""

    def __init__(self, hook, count, number):
        self.calls, self.first, self.always, self.number = 0, int(count.rstrip("+")), count.endswith("+"), number
        setattr(self, hook, self.ask)

    def ask(self, *arguments):
        self.calls += 1
        if self.calls == self.first or (self.always and self.calls > self.first):
            os.kill(os.getpid(), self.number)


def main(config, folder, point=""):
    point, _, name = point.partition("@")
    number = signal.Signals[name or "SIGUSR1"]
    killable_chain.die = lambda: os.kill(os.getpid(), number)
    hook, _, count = point.partition(":")
    if hasattr(Asking, hook):
        build, point = CONFIGS[config], None

        def asking(root):
            arguments = build(root)
            return {**arguments, "callbacks": [Asking(hook, count, number), *arguments.get("callbacks", [])]}

        CONFIGS[config] = asking
    before = [signal.getsignal(one) for one in (signal.SIGUSR1, signal.SIGTERM)]
    code = None
    try:
        chain(config, folder, point)
    except StoppedForRequeue as stop:
        print(stop)
        code = STOPPED
    assert [signal.getsignal(one) for one in (signal.SIGUSR1, signal.SIGTERM)] == before
    if code:
        sys.stdout.flush()
        os._exit(code)


def pair(folder, batch=None):
    """Ask each other as often as can be, so that the processes stop within an epoch."""
    second = os.environ.get("LOCAL_RANK", "0") == "1"
    callbacks = [StopForRequeue(folder, seconds=1e-3)]
    if batch and second:
        callbacks.insert(0, Asking("on_train_batch_start", batch, signal.SIGUSR1))
    arguments = ring(data=RingOfGaussians(rows=2500, batch_size=125), callbacks=callbacks)  # ten batches an epoch
    try:
        run_chain(**arguments, generations=3, store=folder, seed=7, accelerator="cpu", devices=2, strategy="ddp")
    except StoppedForRequeue as stop:
        print(stop, flush=True)
        os._exit(0 if second else STOPPED)  # Lightning takes another code for a crash


if __name__ == "__main__":
    killable_chain.main = main
    modes = {"serve": killable_chain.serve, "pair": pair}
    mode = modes.get(sys.argv[1])
    mode(*sys.argv[2:]) if mode else main(*sys.argv[1:])
