"""What we ask of Lightning beyond its documented interface, in one place and with tests of its own."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.profilers import PassThroughProfiler
from pytorch_lightning.strategies.launchers import _MultiProcessingLauncher
from torch.multiprocessing import ProcessExitedException, ProcessRaisedException

from collapse.data.generation import Generation, GenerationCallback

__all__ = [
    "SPAWNED_FAILED",
    "NoProfiler",
    "OtherProcessFailed",
    "callbacks_of",
    "keep_off_signals",
    "last_words",
    "load_precision_state",
    "precision_state",
    "renew_optimizers",
    "spawns",
    "tell",
    "together",
]


class NoProfiler(PassThroughProfiler):
    """Lightning's do-nothing profiler, doing less: it makes a generator some sixty times a step."""

    _nothing = contextlib.nullcontext()

    def profile(self, action_name: str) -> Any:
        """Return a context that does nothing."""
        return self._nothing


def callbacks_of(trainer: pl.Trainer) -> list[pl.Callback]:
    """Return the trainer's callbacks in calling order (an attribute its stubs do not declare)."""
    return list(getattr(trainer, "callbacks", ()))


def tell(trainer: pl.Trainer, module: Any, hook: str, generation: Generation) -> None:
    """Call a hook of generations on every callback that has them, in list order."""
    for callback in callbacks_of(trainer):
        if isinstance(callback, GenerationCallback):
            getattr(callback, hook)(trainer, module, generation)


class OtherProcessFailed(RuntimeError):
    """This process is well, and cannot go on without another that is not."""

    def __init__(self, reason: str = "its own message says why") -> None:
        super().__init__(f"another process of this run failed; {reason}")


@contextlib.contextmanager
def together(trainer: pl.Trainer) -> Iterator[None]:
    """Raise on every process if the block fails on any: one that went on alone would wait for the others for ever."""
    error: Exception | None = None
    try:
        yield
    except Exception as caught:
        error = caught
    if trainer.world_size == 1:
        if error is not None:
            raise error
    elif not trainer.strategy.reduce_boolean_decision(error is None, all=True):
        raise _shared(error)


def _shared(error: Exception | None) -> Exception:
    """Return this process's error or, where it has none of its own, one that says what the first other's is."""
    own = error is not None and not isinstance(error, OtherProcessFailed)
    reasons: list[str | None] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(reasons, f"{type(error).__name__}: {error}" if own else None)
    if error is not None and own:
        return error
    said = [f"process {rank} says: {reason}" for rank, reason in enumerate(reasons) if reason is not None]
    return OtherProcessFailed(*said[:1])


SPAWNED_FAILED = (ProcessRaisedException, ProcessExitedException)
"""What the first process of ``ddp_spawn`` raises when another one failed or was killed."""


def spawns(trainer: pl.Trainer) -> bool:
    """Whether the fit will run in processes that are not this one: their first one is not this one either."""
    return isinstance(trainer.strategy.launcher, _MultiProcessingLauncher)


def last_words(error: Exception) -> RuntimeError:
    """Return what a spawned process failed of as one sentence: the last line of its traceback."""
    return RuntimeError(str(error).strip().rpartition("\n")[2])


def renew_optimizers(trainer: pl.Trainer) -> None:
    """Call ``configure_optimizers`` again: new optimizers and new learning-rate schedulers, mid-fit."""
    trainer.strategy.setup_optimizers(trainer)


def precision_state(trainer: pl.Trainer) -> dict[str, Any]:
    """Return the precision plugin's state: the loss scale under fp16, nothing under bf16 or fp32."""
    return trainer.precision_plugin.state_dict()


def load_precision_state(trainer: pl.Trainer, state: dict[str, Any]) -> None:
    """Put a precision plugin's state back; a scaler that skipped steps must not do so to the next generation."""
    if state:
        trainer.precision_plugin.load_state_dict(state)


def keep_off_signals(trainer: pl.Trainer) -> None:
    """Take SIGTERM out of Lightning's hands.

    Its handler starts a broadcast wherever the process happens to be, and ends the fit without a checkpoint; to learn
    of it, all processes exchange a flag before every batch and wait for the answer.
    """
    trainer._signal_connector.register_signal_handlers = _nothing  # type: ignore[method-assign]
    trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = _nothing  # type: ignore[method-assign]


def _nothing() -> None:
    pass
