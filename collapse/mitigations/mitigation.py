"""The base of every mitigation: it never mutates, it returns a term, and one place combines the terms."""

from __future__ import annotations

import difflib
import enum
import functools
from collections.abc import Mapping
from typing import Any, ClassVar

import pytorch_lightning as pl
from torch import Tensor

from collapse.arguments import Remembers
from collapse.data.generation import Generation, GenerationCallback
from collapse.data.mixture import Mixture
from collapse.data.rows import Batch, Samples
from collapse.models.generative import GenerativeModule, SampleFn

__all__ = ["HOOKS", "Claim", "ConflictError", "Mitigation", "NoEffectWarning", "Stage"]


class Stage(enum.IntEnum):
    """Order on the data hook, whatever the order of the list."""

    PROTECT = -2  # which rows are guaranteed a place, before anybody counts on theirs
    ARRIVE = -1  # which real rows are held back for later generations
    RETAIN = 0  # which generations' rows are kept
    REWEIGH = 1  # relative weight of rows
    BALANCE = 2  # share of real mass
    BUDGET = 3  # how many rows


class Claim(enum.Enum):
    """A decision that only one mitigation can make."""

    INITIALIZATION = "the initial weights"
    RETENTION = "which generations are kept"
    REAL_FRACTION = "the real fraction"
    BUDGET = "the size of the training set"
    FINAL_WEIGHTS = "the final weights"


class ConflictError(ValueError):
    """Two mitigations claim the same decision."""


class NoEffectWarning(UserWarning):
    """A mitigation changed nothing in a whole generation."""


class Mitigation(Remembers, GenerationCallback):
    """Something that changes a generation. A subclass overrides the hooks its method needs, and only those.

    Attributes:
        stage: Where ``compose_training_set`` stands among the others'.
        claims: What it alone decides.
        needs: Outputs of the module it works on (see ``GenerativeModule.exposes``).
        control: True for the regimes others are compared with: they owe no effect.
        citation: The paper.
    """

    stage: Stage = Stage.REWEIGH
    claims: frozenset[Claim] = frozenset()
    needs: frozenset[str] = frozenset()
    control: ClassVar[bool] = False
    citation: ClassVar[str] = ""
    engaged: bool = False

    def __init__(self) -> None:
        super().__init__()

    def initialize(self, module: GenerativeModule, generation: Generation) -> None:
        """Set the weights a generation starts from (claim ``INITIALIZATION``)."""

    def compose_training_set(self, mixture: Mixture, generation: Generation) -> Mixture:
        """Return the mixture to train on."""
        return mixture

    def weigh(self, batch: Batch, module: GenerativeModule) -> Tensor:
        """Return a factor (B,) on the loss of each row."""
        raise NotImplementedError

    def regularize(self, outputs: Mapping[str, Tensor], batch: Batch, module: GenerativeModule) -> Tensor:
        """Return a term () to add to the loss."""
        raise NotImplementedError

    def wrap_sampler(self, sample: SampleFn, module: GenerativeModule) -> SampleFn:
        """Return the function that samples instead of ``sample``.

        Args:
            sample: (n, generator, y=None) -> (n, *S). A conditional model is sampled with ``y``, (n,) class labels or
                (n, p) prompt tokens; a wrapper takes it likewise and hands it on.
            module: The trained module.
        """
        return sample

    def curate(self, samples: Samples, generation: Generation) -> Samples:
        """Return the candidates to keep, changed where the method changes them; ``samples.y`` are the labels that a
        class-conditional model sampled them under."""
        return samples

    def finalize(self, module: GenerativeModule, generation: Generation) -> None:
        """Set the weights a trained generation is sampled and measured with (claim ``FINAL_WEIGHTS``)."""

    def overrides(self, hook: str) -> bool:
        """Whether this class changes ``hook``."""
        return getattr(type(self), hook) is not getattr(Mitigation, hook)

    def decides(self) -> frozenset[Claim]:
        """Its claims, with those that come with a hook only one mitigation can have."""
        hooks = {"initialize": Claim.INITIALIZATION, "finalize": Claim.FINAL_WEIGHTS}
        return self.claims | {claim for hook, claim in hooks.items() if self.overrides(hook)}

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Refuse to train where nobody would ask for the terms."""
        if not self.engaged:
            raise ValueError(f"{self!r} needs a RecursiveTrainer in the same callbacks list to have any effect")

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """The next Trainer must ask for the terms itself."""
        self.engaged = False

    @functools.cached_property
    def state_key(self) -> str:
        """Distinct for distinct arguments: Lightning keeps one state per key, and asks for it six times a step."""
        return self.describe()

    def __repr__(self) -> str:
        return self.describe()

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.arguments == getattr(other, "arguments", None)

    def __hash__(self) -> int:
        return hash(self.describe())

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        known = {name for name in dir(Mitigation) if not name.startswith("_")}
        for name in set(vars(cls)) - known:
            near = difflib.get_close_matches(name, HOOKS, n=1, cutoff=0.75)
            if near and callable(vars(cls)[name]) and not name.startswith("_"):
                raise TypeError(f"{cls.__name__}.{name} is no hook and would never be called; did you mean {near[0]}?")


HOOKS = (
    "initialize",
    "compose_training_set",
    "weigh",
    "regularize",
    "wrap_sampler",
    "curate",
    "finalize",
    "on_generation_start",
    "on_generation_end",
)
