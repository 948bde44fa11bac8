"""Exponential moving average of the weights, generation by generation."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from collapse.data.generation import Generation
from collapse.mitigations.mitigation import Claim, Mitigation
from collapse.models.generative import GenerativeModule
from collapse.models.sharding import full_tensor, placed

__all__ = ["EMA", "ema_decay", "ema_update"]


def ema_decay(decay: float, updates: int) -> float:
    """Return min(decay, (1 + n) / (10 + n)): a young average forgets its random start faster."""
    return min(decay, (1 + updates) / (10 + updates))


def ema_update(average: list[Tensor], weights: list[Tensor], decay: float) -> None:
    """Move ``average`` towards ``weights`` in place: a <- decay * a + (1 - decay) * w, in one fused call."""
    torch._foreach_lerp_(average, weights, 1 - decay)


class EMA(Mitigation):
    """Sample, measure and store each generation with the exponential moving average of its weights.

    The average starts anew with every generation (Lightning's own weight averaging does not know generations: the last
    one's weights would bleed into the next), and with ``initialization="warm"`` the next generation starts from it.

    Args:
        decay: Decay per optimizer step, in [0, 1). Zero is the last weights, and changes nothing.

    References:
        Polyak, Juditsky, "Acceleration of stochastic approximation by averaging", 1992.
    """

    claims = frozenset({Claim.FINAL_WEIGHTS})
    citation = "Polyak, Juditsky (1992)"

    def __init__(self, decay: float = 0.999) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"decay must lie in [0, 1), got {decay}")
        self.decay = decay
        self._average: list[Tensor] = []
        self._updates = self._step = 0
        self._loaded = False

    def on_generation_start(self, trainer: pl.Trainer, module: GenerativeModule, generation: Generation) -> None:
        """Start the average from the generation's first weights."""
        self._average = [weight.detach().clone() for weight in module.parameters()]
        self._updates, self._step, self._loaded = 0, trainer.global_step, False

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *unused: Any) -> None:
        """Average after every optimizer step (not after every batch, when gradients accumulate)."""
        if trainer.global_step == self._step:
            return
        weights = [weight.detach() for weight in pl_module.parameters()]
        if self._loaded:  # from a checkpoint: whole tensors on the CPU
            self._average, self._loaded = _like(self._average, weights), False
        ema_update(self._average, weights, ema_decay(self.decay, self._updates) if self.decay else 0.0)
        self._updates, self._step = self._updates + 1, trainer.global_step

    @torch.no_grad()
    def finalize(self, module: GenerativeModule, generation: Generation) -> None:
        """Put the average in place of the weights."""
        for weight, average in zip(module.parameters(), _like(self._average, module.parameters()), strict=True):
            weight.copy_(average)

    def state_dict(self) -> dict[str, Any]:
        """The average, of sharded weights a whole one, and its counters."""
        average = [full_tensor(weight) for weight in self._average]
        return {"average": average, "updates": self._updates, "step": self._step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Inverse of ``state_dict``."""
        self._average, self._loaded = list(state_dict["average"]), True
        self._updates, self._step = state_dict["updates"], state_dict["step"]


def _like(tensors: list[Tensor], like: Iterable[Tensor]) -> list[Tensor]:
    return [placed(tensor, other) for tensor, other in zip(tensors, like, strict=True)]
