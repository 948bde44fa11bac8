"""A chain in a process of its own that can kill itself: the child of ``test_sigkill.py``.

    python killable_chain.py CONFIG FOLDER [POINT]    start or continue the chain in FOLDER
    python killable_chain.py serve                    the same for every line (JSON) of the standard input, each in a
                                                      fork of this process, which has paid for the imports

A POINT is where the process kills itself, with a signal that nothing can catch:

    step:N            after the N-th optimizer step of the chain
    turn:N            in the turn to generation N, its weights renewed and its optimizer not
    KIND:N            right after the N-th file of a kind got its name in this process
    KIND:N:before     the file is complete, and its name still a temporary one

with KIND one of ``KINDS``; ``harvest`` is a chunk of samples.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import signal
import sys
import traceback
from pathlib import Path

import pytorch_lightning as pl

import collapse.recursion.trainer
from collapse import (
    EMA,
    VAE,
    AnchorReplay,
    DataAccumulation,
    Digits,
    GenerationEarlyStopping,
    Mitigation,
    RingOfGaussians,
    StepCheckpoint,
    run_chain,
)

SECONDS = 120  # no run takes that long, so a child that does is stuck
KINDS = {
    "gold": r"gen_000/chunk_\d+\.rows\.npy$",
    "harvest": r"gen_(?!000)\d+/chunk_\d+\.rows\.npy$",
    "manifest": r"gen_(?!000)\d+/manifest\.json$",
    "weights": r"weights/gen_\d+\.pt$",
    "ledger": r"metrics\.jsonl$",
    "identity": r"run\.json$",
    "checkpoint": r"checkpoints/[^/]*\.ckpt$",
}


def ring(**options):
    """Three generations of two epochs of five batches; three chunks of samples each."""
    module = VAE((2,), 2, hidden=8, likelihood="gaussian", learning_rate=0.01)
    rows = {"samples_per_generation": 2500, "epochs_per_generation": 2, "evaluate": False}
    return {"module": module, "data": RingOfGaussians(rows=2500, batch_size=500), **rows, **options}


def digits(**options):
    """Images of 8 bits, labels, and an evaluation of every generation."""
    rows = {"samples_per_generation": 1100, "epochs_per_generation": 2}
    return {"module": VAE(hidden=16, latent_dim=4), "data": Digits(batch_size=300), **rows, **options}


class Fussy(Mitigation):
    """Keeps the rows on one side, with a score."""

    def curate(self, samples, generation):
        score = samples.x.reshape(len(samples), -1)[:, 0]
        return samples.select(score > 0, score)


def with_workers(arguments):
    arguments["data"].num_workers = 2
    return arguments


CONFIGS = {
    "plain": lambda root: ring(),
    "digits": lambda root: digits(mitigations=[AnchorReplay(0.2)]),
    "ema": lambda root: ring(mitigations=[EMA(0.8), DataAccumulation()], callbacks=[StepCheckpoint(root, 4)]),
    "workers": lambda root: with_workers(ring(callbacks=[StepCheckpoint(root, 3)])),
    "steps": lambda root: ring(
        epochs_per_generation=1,
        steps_per_generation=12,
        accumulate_grad_batches=2,
        initialization="warm",
        mitigations=[EMA(0.5), AnchorReplay(0.1, rows="redrawn")],
        callbacks=[StepCheckpoint(root, 2)],
    ),
    "stopping": lambda root: ring(
        epochs_per_generation=6,
        callbacks=[StepCheckpoint(root, 3), GenerationEarlyStopping(patience=1, min_delta=0.5)],
    ),
    "curated": lambda root: ring(mitigations=[Fussy()], callbacks=[StepCheckpoint(root, 4)]),
    "real": lambda root: ring(mitigations=[AnchorReplay(1.0, rows="fresh")], samples_per_generation=800),
}


def die():
    os.kill(os.getpid(), signal.SIGKILL)


class Steps(pl.Callback):
    """Count the batches of this process, and die after the optimizer step ``fatal`` of the chain."""

    def __init__(self, fatal):
        self.fatal, self.batches = fatal, 0

    def on_train_batch_end(self, trainer, *rest):
        self.batches += 1
        if trainer.global_step == self.fatal:
            die()


def die_at_file(kind, number, before):
    """Die when a file of ``kind`` is renamed to its name for the ``number``-th time."""
    replace, seen = Path.replace, []

    def killing(temporary, target):
        if re.search(KINDS[kind], str(target)):
            seen.append(target)
        if before and len(seen) == number:
            die()
        result = replace(temporary, target)
        if len(seen) == number:
            die()
        return result

    Path.replace = killing


def die_in_turn(number):
    reinitialize = collapse.recursion.trainer.reinitialize

    def killing(module, *, generation, **options):
        reinitialize(module, generation=generation, **options)
        if generation == number:
            die()

    collapse.recursion.trainer.reinitialize = killing


def main(config, folder, point=None):
    name, *details = point.split(":") if point else ("nowhere", "0")
    number = int(details[0])
    if name in KINDS:
        die_at_file(name, number, before=details[1:] == ["before"])
    elif name == "turn":
        die_in_turn(number)
    arguments = CONFIGS[config](Path(folder))
    steps = Steps(number if name == "step" else None)
    arguments["callbacks"] = [steps, *arguments.get("callbacks", [])]
    module, data = arguments.pop("module"), arguments.pop("data")
    run_chain(module, data, generations=3, store=folder, seed=7, accelerator="cpu", devices=1, **arguments)
    print(f"trained {steps.batches} batches")


def serve():
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if child == 0:
            code = 1
            try:
                signal.alarm(SECONDS)
                os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
                os.dup2(os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND), 1)
                os.dup2(1, 2)
                main(*request["arguments"])
                code = 0
            except BaseException:
                traceback.print_exc()
            for worker in multiprocessing.active_children():
                worker.terminate()
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    serve() if sys.argv[1:] == ["serve"] else main(*sys.argv[1:])
