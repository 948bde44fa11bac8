"""Early stopping that ends a generation, not the run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl

from collapse.data.generation import Generation, GenerationCallback

__all__ = ["GenerationEarlyStopping"]


class GenerationEarlyStopping(GenerationCallback):
    """End a generation when a metric has not improved for some epochs; the next one starts counting afresh.

    Lightning's own ``EarlyStopping`` ends the whole ``fit`` and carries its counter across generations.

    Args:
        monitor: An epoch's metric: ``"train/loss"``, or anything logged by a validation loop.
        patience: Epochs without improvement, at least 1.
        min_delta: Least change that counts as an improvement, at least 0.
        mode: ``"min"`` or ``"max"``.
    """

    def __init__(
        self, monitor: str = "train/loss", patience: int = 3, min_delta: float = 0.0, mode: str = "min"
    ) -> None:
        signs = {"min": 1.0, "max": -1.0}
        if mode not in signs:
            raise ValueError(f"mode must be 'min' or 'max', got {mode!r}")
        if patience < 1 or min_delta < 0:
            raise ValueError(f"patience must be at least 1 and min_delta at least 0, got {patience} and {min_delta}")
        self.monitor, self.patience, self.min_delta, self.sign = monitor, patience, min_delta, signs[mode]
        self.best, self.waited = math.inf, 0

    @property
    def state_key(self) -> str:
        """Distinct for distinct rules: Lightning keeps one state per key."""
        return f"{type(self).__name__}({self.monitor!r}, {self.patience}, {self.min_delta}, {self.sign})"

    def is_over(self, metrics: Mapping[str, Any]) -> bool:
        """Take in one epoch's metrics and say whether the generation is over.

        Raises:
            ValueError: If the metric is not among them, or is not a number.
        """
        if self.monitor not in metrics:
            raise ValueError(
                f"GenerationEarlyStopping monitors {self.monitor!r}, which no epoch logged; there are: "
                f"{', '.join(sorted(metrics)) or 'none'}"
            )
        value = self.sign * float(metrics[self.monitor])
        if math.isnan(value):
            raise ValueError(f"GenerationEarlyStopping: {self.monitor!r} is NaN; lower the learning rate")
        improved = value < self.best - self.min_delta
        self.best, self.waited = (value, 0) if improved else (self.best, self.waited + 1)
        return self.waited >= self.patience

    def on_generation_start(self, trainer: pl.Trainer, module: Any, generation: Generation) -> None:
        """Start counting afresh."""
        self.best, self.waited = math.inf, 0

    def state_dict(self) -> dict[str, Any]:
        """The best value so far and the epochs waited."""
        return {"best": self.best, "waited": self.waited}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Inverse of ``state_dict``."""
        self.best, self.waited = state_dict["best"], state_dict["waited"]
