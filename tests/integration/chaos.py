"""Chains in forked processes that are killed at random: the child of ``test_chaos.py``.

    python chaos.py            read requests (JSON, one a line), answer each with what became of it

A request names a CONFIG of ours, a folder, and when to kill: after so many ``seconds``, or ``delay`` seconds after a
``phase`` has begun for the ``turn``-th time. Answered is the phase that the killed process was in.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import signal
import socket
import struct
import sys
import time
import traceback
from pathlib import Path

import killable_chain

import collapse.recursion.trainer as trainer_module
from collapse import (
    EMA,
    DataAccumulation,
    Gaussian,
    GaussianData,
    GenerationEvaluation,
    RecursiveTrainer,
    StepCheckpoint,
    run_chain,
)
from collapse.recursion import AtomicCheckpointIO

PHASES = ("start", "step", "harvest", "turn", "checkpoint", "evaluation")
LENGTHS = {
    "step": (1, 0.05),
    "harvest": (2, 0.01),
    "turn": (2, 0.001),
    "checkpoint": (6, 0.002),
    "evaluation": (2, 0.02),
}
"""How often a phase comes, so that it can be waited for, and about how many seconds it takes."""
COUNTS = struct.Struct(f"<{1 + len(PHASES)}I")  # the phase, and how often each has begun


def vae(root, **options):
    """EMA, accumulation, mid-epoch checkpoints, evaluation."""
    callbacks = [StepCheckpoint(root, 2), GenerationEvaluation(max_rows=300)]
    options = {"mitigations": [EMA(0.8), DataAccumulation()], "callbacks": callbacks, **options}
    return killable_chain.ring(**{"samples_per_generation": 1500, **options})


def estimator(root, **options):
    """Statistics of batches are state, too, in the middle of their one epoch."""
    callbacks = [StepCheckpoint(root, 1), GenerationEvaluation(max_rows=300)]
    rows = {"samples_per_generation": 1500, "callbacks": callbacks}
    data = GaussianData(rows=2500, batch_size=500)
    return {"module": Gaussian(1), "data": data, "mitigations": [DataAccumulation()], **rows, **options}


CONFIGS = {
    "vae": vae,
    "vae on two workers": lambda root: killable_chain.with_workers(vae(root)),
    "vae on two ranks": lambda root: vae(root, devices=2, strategy="ddp"),
    "estimator": estimator,
    "estimator on two workers": lambda root: killable_chain.with_workers(estimator(root)),
}


class Board:
    """Memory that a process and its killer share."""

    def __init__(self):
        self.memory = mmap.mmap(-1, COUNTS.size)

    def read(self):
        phase, *counts = COUNTS.unpack(self.memory[:])
        return PHASES[phase], dict(zip(PHASES, counts, strict=True))

    def enter(self, name):
        phase, *counts = COUNTS.unpack(self.memory[:])
        counts[PHASES.index(name)] += 1
        self.memory[:] = COUNTS.pack(PHASES.index(name), *counts)
        return PHASES[phase]

    def leave(self, before):
        _, *counts = COUNTS.unpack(self.memory[:])
        self.memory[:] = COUNTS.pack(PHASES.index(before), *counts)

    def watch(self, owner, name, phase):
        """Let a function of ``owner`` be a phase."""
        function = getattr(owner, name)

        def watched(*arguments, **options):
            before = self.enter(phase)
            result = function(*arguments, **options)
            self.leave(before)
            return result

        setattr(owner, name, watched)


def watch(board):
    board.watch(trainer_module, "harvest", "harvest")
    board.watch(RecursiveTrainer, "_turn", "turn")
    board.watch(RecursiveTrainer, "_measure", "evaluation")
    board.watch(AtomicCheckpointIO, "save_checkpoint", "checkpoint")
    start = RecursiveTrainer.on_train_start

    def started(self, *arguments):
        start(self, *arguments)
        board.enter("step")

    RecursiveTrainer.on_train_start = started


def child(request, board, rank):
    """Run the chain in this forked process, and end it."""
    code = 1
    try:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND), 1)
        os.dup2(1, 2)
        os.environ.update(request["environment"], RANK=str(rank), LOCAL_RANK=str(rank))
        if rank == request["victim"]:
            watch(board)
        arguments = CONFIGS[request["config"]](Path(request["folder"]))
        module, data = arguments.pop("module"), arguments.pop("data")
        options = {"generations": 3, "store": request["folder"], "seed": 7, "accelerator": "cpu", "devices": 1}
        run_chain(module, data, **{**options, **arguments})
        code = 0
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    os._exit(code)


def due(request, board, begun):
    if "seconds" in request:
        return time.monotonic() - begun > request["seconds"]
    if "phase" in request and board.read()[1][request["phase"]] >= request["turn"]:
        time.sleep(request["delay"])
        return True
    return False


def run(request):
    """Fork the processes of one attempt, kill one of them when it is time, and wait for all."""
    board, begun = Board(), time.monotonic()
    processes = []
    for rank in range(request["ranks"]):
        process = os.fork()
        if process == 0:
            child(request, board, rank)
        processes.append(process)
    over, killed, phase = set(), None, None
    while len(over) < len(processes):
        over |= {process for process in processes if process not in over and os.waitpid(process, os.WNOHANG)[0]}
        victim = processes[request["victim"]]
        if killed is None and victim not in over and due(request, board, begun):
            os.kill(victim, signal.SIGKILL)
            killed, phase = time.monotonic(), board.read()[0]
        if killed is not None and time.monotonic() - killed > 3:  # as torchrun does with what is left
            for process in set(processes) - over:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
        time.sleep(0.0002)
    return {"killed": killed is not None, "phase": phase, "seconds": time.monotonic() - begun}


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def environment(ranks):
    """What torchrun would set."""
    if ranks == 1:
        return {}
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "GLOO_SOCKET_IFNAME": "lo"}
    return {**address, "WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks), "TORCHELASTIC_RUN_ID": "chaos"}


def plan(rng, seconds):
    """When to kill: at any time, or in one of the phases that random times seldom hit."""
    if rng.random() < 0.4:
        return {"seconds": rng.uniform(0, seconds)}
    phase = rng.choice(PHASES[1:])
    turns, longest = LENGTHS[phase]
    return {"phase": phase, "turn": rng.randint(1, turns), "delay": rng.uniform(0, longest)}


if __name__ == "__main__":
    for line in sys.stdin:
        print(json.dumps(run(json.loads(line))), flush=True)
