"""Models with a closed form: they are fitted, not optimized, by the same trainer, pool and mitigations."""

from __future__ import annotations

import abc
import math
from collections.abc import Callable
from typing import Any, ClassVar, cast

import torch
from pytorch_lightning.core.optimizer import LightningOptimizer
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

    A subclass writes ``begin``, ``update`` and, where something is left to do after the last batch, ``finish``. Its
    parameters are buffers with a leading replicate axis: R independent experiments in one run, on data whose rows have
    shape (R, *S).

    Args:
        row_shape: Shape S of one experiment's row.
        replicates: R, at least 1; None for rows without a replicate axis (then buffers have R = 1).

    Attributes:
        chains: Length of the buffers' replicate axis.
        sized_by_data: Buffers whose shape follows the training set's; empty at first.
    """

    sized_by_data: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, row_shape: tuple[int, ...] = (), replicates: int | None = None) -> None:
        super().__init__()
        if replicates is not None and replicates < 1:
            raise ValueError(f"replicates={replicates} must be at least 1, or None for rows without a replicate axis")
        self.row_shape, self.replicates, self.chains = row_shape, replicates, replicates or 1
        self.automatic_optimization = False

    @abc.abstractmethod
    def begin(self) -> None:
        """Forget everything: a new pass over the training set starts."""

    @abc.abstractmethod
    def update(self, batch: Batch, weights: Tensor | None = None) -> None:
        """Take up a batch.

        Args:
            batch: Rows, ``x`` of shape (B, R, *S).
            weights: (B, 1) or (B, R) float64, the weight of each row in the likelihood; None for ones.
        """

    def finish(self) -> None:
        """Do what is left when the last batch has been taken up."""

    def fit(self, x: Tensor) -> None:
        """Fit the rows ``x`` (n, R, *S) or (n, *S) at once, outside any chain."""
        here = torch.zeros(len(x), dtype=torch.int64, device=x.device)
        with torch.no_grad():
            self.begin()
            self.update(Batch(self.arranged(x), None, here, here, torch.arange(len(x), device=x.device)))
            self.finish()

    def arranged(self, x: Tensor) -> Tensor:
        """Return rows as (B, R, *S).

        Raises:
            ValueError: If they have another size.
        """
        if x[:1].numel() != self.chains * math.prod(self.row_shape):
            raise ValueError(
                f"{self.describe()} cannot take up rows of shape {tuple(x.shape[1:])}; it takes rows of shape "
                f"{(*([] if self.replicates is None else [self.replicates]), *self.row_shape)}"
            )
        return x.reshape(len(x), self.chains, *self.row_shape)

    def emitted(self, x: Tensor) -> Tensor:
        """Return samples (n, R, *S) in the data's shape."""
        return x if self.replicates is not None else x[:, 0]

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """Take up a batch; there is no gradient."""
        if batch_idx == 0:
            self.begin()
        with torch.no_grad():
            weights = self.weigh(batch, self)
            if weights is not None:
                weights = weights.to(torch.float64).reshape(len(batch.x), -1)
            self.update(batch._replace(x=self.arranged(batch.x)), weights)
            if batch_idx + 1 == self.trainer.num_training_batches:
                self.finish()
        cast(LightningOptimizer, self.optimizers()).step()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """An optimizer that only counts."""
        return _NoOptimizer()

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        for name in self.sized_by_data:
            if prefix + name in state_dict:
                self.get_buffer(name).resize_(state_dict[prefix + name].shape)
        super()._load_from_state_dict(state_dict, prefix, *rest)
