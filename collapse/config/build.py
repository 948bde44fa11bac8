"""From names to objects. The namespaces are the registry: what one exports can be named, and nothing else can."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Mapping, Sequence
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import pytorch_lightning as pl

import collapse.data
import collapse.mitigations
import collapse.models
from collapse.arguments import Remembers
from collapse.config.errors import ConfigError, did_you_mean
from collapse.config.schema import ChainConfig
from collapse.data import RecursiveDataModule
from collapse.mitigations import ConflictError, Mitigation, MitigationStack
from collapse.models import GenerativeModule

__all__ = ["build_data", "build_mitigations", "build_model", "registry", "trainer_options"]

KINDS: dict[str, tuple[Any, type[Remembers]]] = {
    "data": (collapse.data, RecursiveDataModule),
    "models": (collapse.models, GenerativeModule),
    "mitigations": (collapse.mitigations, Mitigation),
}

OWNED = frozenset(
    {
        "callbacks",
        "logger",
        "plugins",
        "default_root_dir",
        "max_epochs",
        "max_steps",
        "min_epochs",
        "min_steps",
        "max_time",
        "reload_dataloaders_every_n_epochs",
        "use_distributed_sampler",
        "num_sanity_val_steps",
        "enable_checkpointing",
        "barebones",
        "fast_dev_run",
        "overfit_batches",
        "limit_train_batches",
    }
)
"""Trainer arguments that a chain sets itself, or that would break it."""


def registry(kind: str) -> dict[str, type[Remembers]]:
    """Return the classes of a kind by name: the namespace's own, then those of installed packages' entry points."""
    module, base = KINDS[kind]
    own = {name: getattr(module, name) for name in module.__all__}
    classes = {
        name: value
        for name, value in own.items()
        if inspect.isclass(value) and issubclass(value, base) and value is not base
    }
    for entry in entry_points(group=f"collapse.{kind}"):
        classes.setdefault(entry.name, _loaded(entry, base))
    return classes


def _loaded(entry: EntryPoint, base: type[Remembers]) -> type[Remembers]:
    """Return the class behind an entry point."""
    where = f"the entry point {entry.name} = {entry.value} of the group {entry.group}"
    try:
        value = entry.load()
    except Exception as error:  # somebody else's code: it may raise anything
        raise ConfigError(f"{where} cannot be loaded ({error}); mend or uninstall its package") from error
    if not (inspect.isclass(value) and issubclass(value, base)):
        raise ConfigError(f"{where} is no {base.__name__}; mend or uninstall its package")
    return value


def build_data(config: ChainConfig) -> RecursiveDataModule:
    """Return the data module a config names."""
    return typing.cast(RecursiveDataModule, _component("data", "data", config.data))


def build_model(config: ChainConfig, data: RecursiveDataModule) -> GenerativeModule:
    """Return the model a config names; a ``shape`` it takes and nobody gave is that of the data's rows."""
    arguments = dict(config.model)
    wanted = registry("models").get(str(arguments.get("name")))
    if wanted is not None and "shape" in wanted.constructor_parameters() and "shape" not in arguments:
        arguments["shape"] = tuple(int(side) for side in data.gold().x.shape[1:])
    return typing.cast(GenerativeModule, _component("models", "model", arguments))


def build_mitigations(config: ChainConfig) -> list[Mitigation]:
    """Return the mitigations a config lists, checked for conflicts."""
    built = []
    for index, entry in enumerate(config.mitigations):
        where = f"mitigations[{index}]"
        if isinstance(entry, str):
            node: dict[str, Any] = {"name": entry}
        elif (
            isinstance(entry, Mapping)
            and len(entry) == 1
            and isinstance(next(iter(entry.values())), Mapping | types.NoneType)
        ):
            name, arguments = next(iter(entry.items()))
            node = {"name": name, **(arguments or {})}
        else:
            raise ConfigError(
                f"{where}={entry!r} must be a name, or a name with arguments: {{Name: {{argument: value}}}}"
            )
        built.append(typing.cast(Mitigation, _component("mitigations", where, node)))
    try:
        MitigationStack(built)
    except ConflictError as error:
        raise ConfigError(f"mitigations: {error}") from None
    return built


def trainer_options(config: ChainConfig) -> dict[str, Any]:
    """Return ``trainer.*``, checked against the arguments Lightning's Trainer takes."""
    known = set(inspect.signature(pl.Trainer).parameters) - OWNED
    for key in config.trainer:
        if key in OWNED:
            raise ConfigError(
                f"trainer.{key} is decided by the chain (generations, epochs_per_generation, out, wandb); leave it out"
            )
        if key not in known:
            raise ConfigError(f"unknown key 'trainer.{key}'{did_you_mean(key, known)}")
    return dict(config.trainer)


def _component(kind: str, where: str, node: Mapping[str, Any]) -> Any:
    classes = registry(kind)
    arguments = dict(node)
    name = arguments.pop("name", None)
    if not isinstance(name, str):
        raise ConfigError(f"{where} needs a name{did_you_mean('', classes)}")
    if name not in classes:
        raise ConfigError(f"{where}: there is no {name!r}{did_you_mean(name, classes)}")
    _check_arguments(classes[name], where, arguments)
    try:
        return classes[name](**arguments)
    except (ValueError, TypeError, FileNotFoundError) as error:
        raise ConfigError(f"{where} ({name}): {error}") from None


def _check_arguments(wanted: type[Remembers], where: str, arguments: Mapping[str, Any]) -> None:
    parameters = wanted.constructor_parameters()
    hints = typing.get_type_hints(wanted.__init__)
    for key, value in arguments.items():
        if key not in parameters:
            raise ConfigError(f"{where}: {wanted.__name__} takes no {key!r}{did_you_mean(key, parameters)}")
        if not _fits(value, hints.get(key, Any)):
            shown = getattr(hints[key], "__name__", None) or str(hints[key])
            raise ConfigError(f"{where}.{key}={value!r} must be of type {shown}")
    missing = [
        key
        for key, parameter in parameters.items()
        if parameter.default is inspect.Parameter.empty and key not in arguments
    ]
    if missing:
        raise ConfigError(f"{where}: {wanted.__name__} needs {missing[0]!r}; give {missing[0]}=VALUE")


def _fits(value: Any, hint: Any) -> bool:
    """Whether a plain value fits a type hint; hints this does not know fit everything."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return any(_fits(value, option) for option in typing.get_args(hint))
    if hint in (int, float):
        return isinstance(value, int if hint is int else int | float) and not isinstance(value, bool)
    if hint in (str, bool, type(None)):
        return isinstance(value, type(None) if hint is None else hint)
    if typing.get_origin(hint) in (list, tuple, Sequence, typing.get_origin(Sequence[int])):
        return isinstance(value, list | tuple)
    return True
