"""Where a chain stands: what a checkpoint has to say beside the weights."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from collapse.data.manifest import Manifest
from collapse.seeding import Clock

__all__ = ["Position"]


@dataclass
class Position:
    """How far a chain has come.

    Attributes:
        manifests: Of the pools that the generation in training may use, gold first.
        pending: Of the pool it left, once harvested and until the next generation begins.
        epochs_ended: Of the whole chain.
        first_step: Optimizer steps taken before the generation in training.
    """

    manifests: list[Manifest] = field(default_factory=list)
    pending: Manifest | None = None
    epochs_ended: int = 0
    first_step: int = 0

    @property
    def known(self) -> list[Manifest]:
        """Manifests of every pool there is."""
        return self.manifests if self.pending is None else [*self.manifests, self.pending]

    def to_dict(self, clock: Clock) -> dict[str, Any]:
        """Plain values only: a checkpoint loads without unpickling objects. The pools are on disk."""
        return {
            "generation": clock.generation,
            "epoch": clock.epoch,
            "epochs_ended": self.epochs_ended,
            "first_step": self.first_step,
            "manifests": [manifest.to_dict() for manifest in self.manifests],
            "pending": None if self.pending is None else self.pending.to_dict(),
        }

    @classmethod
    def from_dict(cls, content: dict[str, Any], clock: Clock) -> Position:
        """Inverse of ``to_dict``, which sets the clock as well."""
        clock.generation, clock.epoch = content["generation"], content["epoch"]
        pending = None if content["pending"] is None else Manifest.from_dict(content["pending"])
        manifests = [Manifest.from_dict(manifest) for manifest in content["manifests"]]
        return cls(manifests, pending, content["epochs_ended"], content["first_step"])
