"""What we ask of Lightning beyond its documented interface, in one place and with tests of its own."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.profilers import PassThroughProfiler

from collapse.data.generation import Generation, GenerationCallback

__all__ = [
    "NoProfiler",
    "callbacks_of",
    "load_precision_state",
    "precision_state",
    "renew_optimizers",
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
        raise error or RuntimeError("another process of this run failed; its own message says why")


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
