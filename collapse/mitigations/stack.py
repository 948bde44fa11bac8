"""The one place where the terms of several mitigations are combined."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import overload

import torch
from torch import Tensor

from collapse.data.generation import Generation
from collapse.data.guarantee import GuaranteedRows
from collapse.data.mixture import Mixture
from collapse.data.rows import Batch, Samples
from collapse.mitigations.mitigation import Claim, ConflictError, Mitigation, NoEffectWarning
from collapse.mitigations.retention import Replace
from collapse.models.generative import GenerativeModule, SampleFn

__all__ = ["MitigationStack"]


class MitigationStack(Sequence[Mitigation]):
    """Mitigations that act together: stages sorted, factors multiplied, penalties added, samplers composed.

    On the data and on the loss a stack is a set: the order of the list does not matter. ``wrap_sampler`` and
    ``curate`` follow the list, the first one innermost. Without a mitigation that decides what to keep, generations
    *replace* each other.

    What one of them guarantees (``Mixture.guaranteeing``) holds against all of them: such a row keeps its places, and
    the product of the factors on it is never below one.

    Args:
        mitigations: In list order.

    Raises:
        ConflictError: If two of them claim the same decision.
    """

    def __init__(self, mitigations: Iterable[Mitigation] = ()) -> None:
        self._mitigations = tuple(mitigations)
        owners: dict[Claim, Mitigation] = {}
        for mitigation in self:
            for claim in sorted(mitigation.decides(), key=lambda claim: claim.name):
                if claim in owners:
                    raise ConflictError(
                        f"{owners[claim]!r} and {mitigation!r} both decide {claim.value}; keep one of them"
                    )
                owners[claim] = mitigation
        self.owners = owners
        retained = () if Claim.RETENTION in owners else (Replace(),)
        # Sorted by name, so that not even the rounding of a product or a sum depends on the order of the list.
        self._composers = sorted((*retained, *self), key=lambda m: (m.stage, m.describe()))
        self._weighers = [m for m in sorted(self, key=repr) if m.overrides("weigh")]
        self._regularizers = [m for m in sorted(self, key=repr) if m.overrides("regularize")]
        names = [type(mitigation).__name__.lower() for mitigation in self._regularizers]
        self._names = {
            mitigation: name if names.count(name) == 1 else f"{name}_{index}"
            for index, (mitigation, name) in enumerate(zip(self._regularizers, names, strict=True))
        }
        self._curators = [m for m in self if m.overrides("curate")]
        self._effects: dict[Mitigation, Tensor | bool] = {}
        self._guaranteed: GuaranteedRows | None = None

    @overload
    def __getitem__(self, index: int) -> Mitigation: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Mitigation]: ...
    def __getitem__(self, index: int | slice) -> Mitigation | Sequence[Mitigation]:
        return self._mitigations[index]

    def __len__(self) -> int:
        return len(self._mitigations)

    def __repr__(self) -> str:
        return f"MitigationStack({list(self._mitigations)!r})"

    @property
    def shapes_objective(self) -> bool:
        """Whether any mitigation weighs rows or adds a penalty."""
        return bool(self._weighers or self._regularizers)

    @property
    def curates(self) -> bool:
        """Whether any mitigation selects or changes samples."""
        return bool(self._curators)

    def check(self, module: GenerativeModule) -> None:
        """Raise ValueError if a mitigation works on an output that the module does not expose."""
        for mitigation in self:
            missing = sorted(mitigation.needs - module.exposes)
            if missing:
                has = ", ".join(sorted(module.exposes)) or "none"
                raise ValueError(
                    f"{mitigation!r} works on the output {missing[0]!r}, which {type(module).__name__} "
                    f"does not expose (it exposes: {has})"
                )

    def compose(self, mixture: Mixture, generation: Generation) -> Mixture:
        """Return the mixture a generation trains on."""
        for mitigation in self._composers:
            # What a retention keeps is compared with what the default would keep; everything else with its input.
            retains = Claim.RETENTION in mitigation.claims
            before = Replace().compose_training_set(mixture, generation) if retains else mixture
            promised = mixture.guaranteed
            mixture = mitigation.compose_training_set(mixture, generation)
            if promised is not None and mixture.guaranteed is not promised:  # also by one that makes its mixture anew
                mixture = mixture.guaranteeing(promised)
            self._note(mitigation, not _equal(mixture, before))
        if Claim.INITIALIZATION in self.owners:  # which does not act again where a generation is resumed
            self._note(self.owners[Claim.INITIALIZATION], True)
        self._guaranteed = None if mixture.guaranteed is None else GuaranteedRows(mixture.guaranteed)
        return mixture

    def weigh(self, batch: Batch, module: GenerativeModule) -> Tensor | None:
        """Return the product of all factors on the rows of a batch, at least one on those guaranteed a place.

        Returns:
            (B,) or (B, R); None without any factor.
        """
        weights = None
        for mitigation in self._weighers:
            factor = mitigation.weigh(batch, module)
            self._note(mitigation, (factor != 1).any())
            weights = factor if weights is None else weights * factor
        if weights is None or self._guaranteed is None:
            return weights
        return self._guaranteed.at_least_one(weights, batch.row)

    def objective(self, outputs: Mapping[str, Tensor], batch: Batch, module: GenerativeModule) -> Tensor:
        """Return mean_i (prod_k w_k,i) loss_i + sum_k penalty_k, the scalar to minimize."""
        loss, weights = outputs["loss"], self.weigh(batch, module)
        total = loss.mean() if weights is None else (loss * weights).mean()
        for mitigation in self._regularizers:
            penalty = mitigation.regularize(outputs, batch, module)
            self._note(mitigation, penalty != 0)
            module.tally(self._names[mitigation], penalty)
            total = total + penalty
        return total

    def sampler(self, module: GenerativeModule) -> SampleFn:
        """Return the module's sampler with every wrapper around it."""
        sample: SampleFn = module.sample
        for mitigation in self:
            wrapped = mitigation.wrap_sampler(sample, module)
            self._note(mitigation, wrapped is not sample)
            sample = wrapped
        return sample

    def curate(self, samples: Samples, generation: Generation) -> Samples:
        """Return what is kept of the candidates."""
        for mitigation in self._curators:
            kept = mitigation.curate(samples, generation)
            self._note(mitigation, kept is not samples)
            samples = kept
        return samples

    def curated(self) -> None:
        """Take note that candidates were curated before a crash, and are not curated again."""
        for mitigation in self._curators:
            self._note(mitigation, True)

    def initialize(self, module: GenerativeModule, generation: Generation) -> None:
        """Let the owner of the initial weights, if there is one, set them."""
        self._act(Claim.INITIALIZATION, "initialize", module, generation)

    def finalize(self, module: GenerativeModule, generation: Generation) -> None:
        """Let the owner of the final weights, if there is one, set them."""
        self._act(Claim.FINAL_WEIGHTS, "finalize", module, generation)

    def _act(self, claim: Claim, hook: str, module: GenerativeModule, generation: Generation) -> None:
        owner = self.owners.get(claim)
        if owner is not None:
            tensors = [*module.parameters(), *module.buffers()]
            before = [tensor.detach().clone() for tensor in tensors]
            getattr(owner, hook)(module, generation)
            self._note(owner, not all(map(torch.equal, tensors, before)))

    def close_generation(self, generation: Generation) -> None:
        """Warn of every mitigation that changed nothing, from generation 1 on, and start over."""
        for mitigation in self:
            # With a device tensor this waits for the device: once per generation and mitigation.
            if generation.index and not mitigation.control and not bool(self._effects.get(mitigation, False)):
                warnings.warn(
                    f"{mitigation!r} changed nothing in generation {generation.index}", NoEffectWarning, stacklevel=2
                )
        self._effects.clear()

    def _note(self, mitigation: Mitigation, changed: Tensor | bool) -> None:
        seen = self._effects.get(mitigation, False)
        if isinstance(changed, Tensor):
            self._effects[mitigation] = changed | seen if isinstance(seen, Tensor) or not seen else seen
        else:
            self._effects[mitigation] = True if changed else seen


def _equal(one: Mixture, other: Mixture) -> bool:
    return one is other or (
        (one.size, one.real_share, one.replacement, one.coins)
        == (other.size, other.real_share, other.replacement, other.coins)
        and torch.equal(one.weights, other.weights)
        and torch.equal(one.arrival, other.arrival)
        and _same(one.guaranteed, other.guaranteed)
    )


def _same(one: Tensor | None, other: Tensor | None) -> bool:
    return one is other or (one is not None and other is not None and torch.equal(one, other))
