"""Where a generation's weights start: a twin, made again from the module's own constructor under a keyed generator."""

from __future__ import annotations

import difflib
from collections.abc import Callable

import pytorch_lightning as pl
import torch
from torch import nn

from collapse.arguments import Remembers
from collapse.models.estimators import Estimator
from collapse.models.sharding import assign
from collapse.seeding import Stream, key, keyed_rng

__all__ = ["INITIALIZATIONS", "check_initialization", "reinitialize", "twin_of"]

INITIALIZATIONS: dict[str, Callable[[int], int | None]] = {
    "fresh": lambda generation: generation,
    "same": lambda generation: 0,
    "warm": lambda generation: None if generation else 0,
}
"""Which generation's keyed initialization a generation starts from; None keeps the weights it finds."""


def check_initialization(name: str) -> None:
    """Raise ValueError unless ``name`` is one of ``INITIALIZATIONS``."""
    if name not in INITIALIZATIONS:
        near = difflib.get_close_matches(str(name), INITIALIZATIONS, n=1) or ["fresh"]
        raise ValueError(
            f"initialization must be one of {', '.join(INITIALIZATIONS)}, got {name!r}; did you mean {near[0]!r}?"
        )


def twin_of(module: pl.LightningModule) -> pl.LightningModule:
    """Make a module again from its constructor's arguments: the code path that made generation 0.

    Raises:
        ValueError: If the arguments are not known, hold a network, which a twin would share instead of renew, or do not
            give the same network again.
    """
    name, twin = type(module).__name__, _made_again(module)
    mine, its = _shapes(module), _shapes(twin)  # those of buffers that follow the training set do not count
    different = [tensor for tensor in {**mine, **its} if mine.get(tensor) != its.get(tensor)]
    if different:
        raise ValueError(
            f"{name} made again from its arguments has another {different[0]!r}; build all of its network in "
            f"{name}.__init__, from the arguments alone"
        )
    own = {id(parameter) for parameter in module.parameters()}
    shared = [parameter for parameter, value in twin.named_parameters() if id(value) in own]
    if shared:
        raise ValueError(
            f"{name} takes the network of {shared[0]!r} as an argument, so a new generation would train the old "
            f"network on; build it inside {name}.__init__"
        )
    return twin


def _shapes(module: nn.Module) -> dict[str, torch.Size]:
    free = module.sized_by_data if isinstance(module, Estimator) else frozenset()
    tensors = [*module.named_parameters(), *module.named_buffers()]
    return {name: tensor.shape for name, tensor in tensors if name not in free}


def _made_again(module: pl.LightningModule) -> pl.LightningModule:
    name = type(module).__name__
    if isinstance(module, Remembers):
        held = [argument for argument, value in module.arguments.items() if isinstance(value, nn.Module)]
        if held and type(module).twin is Remembers.twin:
            raise ValueError(
                f"{name} takes the network {held[0]!r} as an argument, so a new generation would train the "
                f"old network on; build it inside {name}.__init__, or override twin()"
            )
        return module.twin()
    try:
        return type(module)(**module.hparams)
    except TypeError as error:
        raise ValueError(
            f"{name} cannot be made again for a new generation ({error}); call self.save_hyperparameters() "
            "in its __init__, or derive it from collapse.GenerativeModule"
        ) from None


def reinitialize(module: pl.LightningModule, *, seed: int, generation: int, initialization: str) -> None:
    """Give ``module`` the weights and buffers a generation starts from, in place.

    In place because optimizers, DDP's reducer, FSDP and compiled graphs all hold these very tensors.

    Args:
        module: The module in training.
        seed: The chain's seed.
        generation: The generation about to train.
        initialization: A key of ``INITIALIZATIONS``.
    """
    source = INITIALIZATIONS[initialization](generation)
    if source is None:
        return
    with keyed_rng(key(seed, Stream.INIT, source)):
        twin = twin_of(module)
    # Not the state dicts: buffers that are not persistent must start afresh as well.
    fresh = {**dict(twin.named_parameters()), **dict(twin.named_buffers())}
    with torch.no_grad():
        for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
            assign(tensor, fresh[name])
    module.zero_grad(set_to_none=True)
