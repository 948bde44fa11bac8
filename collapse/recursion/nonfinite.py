"""The loss watch: a loss that is no number stops the chain before anything is made of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from collapse.data.rows import Batch
from collapse.seeding import Clock

__all__ = ["LossWatch", "NonFiniteLossError"]

PATIENCE, LONGEST = {"cpu": 1}, 64
"""Steps whose losses may wait until the host looks at them, by device; elsewhere, where a look waits for the device."""
SHOWN = 8
"""Rows of a batch that a sentence names."""


class NonFiniteLossError(FloatingPointError):
    """A batch's loss is NaN or infinite, and with it every weight from here on."""


class _Step(NamedTuple):
    address: tuple[int, int, int]  # generation, epoch, batch
    loss: Tensor
    rows: Tensor | None


class LossWatch:
    """Looks at every step's loss: at once on the CPU, elsewhere after some steps, as a look waits for the device.

    ``settle`` looks at what is left, before a checkpoint or a harvest: neither ever holds what came of a loss that is
    no number, so the run folder stays as it was.
    """

    def __init__(self) -> None:
        self._steps: list[_Step] = []

    def see(self, clock: Clock, outputs: Any, batch: Any, index: int) -> None:
        """Take note of one step.

        Args:
            clock: Where the chain is.
            outputs: What ``training_step`` returned: the loss (), or a mapping with one; anything else is passed over.
            batch: The batch; its rows are named if it has any.
            index: Its place in the epoch.
        """
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        if not isinstance(loss, Tensor):
            return
        rows = batch.row if isinstance(batch, Batch) else None
        self._steps.append(_Step((clock.generation, clock.epoch, index), loss.detach(), rows))
        if len(self._steps) >= PATIENCE.get(loss.device.type, LONGEST):
            self.settle()

    def settle(self) -> None:
        """Look at the losses not looked at yet.

        Raises:
            NonFiniteLossError: Naming generation, epoch, batch and rows of the first that is no number.
        """
        steps, self._steps = self._steps, []
        if not steps or bool(torch.stack([step.loss for step in steps]).isfinite().all()):
            return
        first = next(step for step in steps if not bool(step.loss.isfinite().all()))
        generation, epoch, batch = first.address
        raise NonFiniteLossError(
            f"the loss of batch {batch} in epoch {epoch} of generation {generation} is {first.loss.mean().item()}"
            f"{_named(first.rows)}; nothing was written since the last checkpoint: lower the learning rate, clip the "
            "gradients, or see with `collapse lineage RUN --row N` where a row came from"
        )


def _named(rows: Tensor | None) -> str:
    if rows is None:
        return ""
    numbers = rows.reshape(-1).tolist()
    more = f" and {len(numbers) - SHOWN} more" if len(numbers) > SHOWN else ""
    return f", its rows {', '.join(map(str, numbers[:SHOWN]))}{more}"
