"""Models with a closed form: they are fitted, not optimized, by the same trainer, pool and mitigations."""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from collapse.data.rows import Batch
from collapse.models.generative import GenerativeModule

__all__ = ["Estimator"]


class _NoOptimizer(torch.optim.Optimizer):
    """Counts steps for Lightning and changes nothing."""

    def __init__(self) -> None:
        super().__init__([torch.zeros(())], {})

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        return None if closure is None else closure()


class Estimator(GenerativeModule):
    """A model whose parameters are statistics of the training set, taken up batch by batch in one epoch.

    Its parameters are buffers with a leading replicate axis: R independent experiments in one run, on data whose rows
    have shape (R, ...). Fitted in float64 whatever the data's type.
    """

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    @abc.abstractmethod
    def begin(self) -> None:
        """Forget everything: a new pass over the training set starts."""

    @abc.abstractmethod
    def update(self, x: Tensor) -> None:
        """Take up the rows ``x`` (B, *S)."""

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """Take up a batch; there is no gradient."""
        if batch_idx == 0:
            self.begin()
        with torch.no_grad():
            self.update(batch.x)
        optimizers = self.optimizers()
        assert not isinstance(optimizers, Iterable)
        optimizers.step()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """An optimizer that only counts."""
        return _NoOptimizer()
