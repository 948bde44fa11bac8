"""From names to objects. The namespaces are the registry: what one exports can be named, and nothing else can."""

from __future__ import annotations

import errno
import inspect
import re
import types
import typing
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.utilities.exceptions import MisconfigurationException

import collapse.data
import collapse.mitigations
import collapse.models
from collapse.arguments import Remembers
from collapse.config.errors import ConfigError, did_you_mean
from collapse.config.hints import fits, shown
from collapse.config.schema import ChainConfig
from collapse.data import RecursiveDataModule
from collapse.mitigations import ConflictError, Mitigation, MitigationStack
from collapse.models import GenerativeModule

__all__ = ["build_data", "build_mitigations", "build_model", "registry", "rows_of", "trainer_options", "usage"]

FAULTS = (ValueError, TypeError, FileNotFoundError, MisconfigurationException)
"""What the library and Lightning raise about arguments."""

OVERSIZED = re.compile(
    "allocat|overflow|out of memory|too (big|large)|maximum (allowed )?dimension|negative dimension", re.I
)
"""What torch and NumPy say of a size beyond memory, or beyond the integers they count with."""

NO_PATH = {errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.ELOOP}

TOO_LARGE = "it is too large for this machine's memory; lower its sizes"

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

LEAST = {
    "accumulate_grad_batches": 1,
    "check_val_every_n_epoch": 1,
    "gradient_clip_val": 0,
    "log_every_n_steps": 0,
    "num_nodes": 1,
}
"""Least values of Trainer arguments, which Lightning finds out in the middle of a run, or never."""


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


def rows_of(data: RecursiveDataModule, config: ChainConfig) -> int:
    """Return the number of gold rows; they, and the reference rows where they are needed, are drawn or read here.

    Raises:
        ConfigError: If there are none, or no memory for them.
    """
    measured = config.evaluation.enabled and data.replicates is None
    with usage(f"data ({config.data.get('name')}): "):
        rows, reference = len(data.gold()), len(data.reference()) if measured else None
    if not rows:
        raise ConfigError(f"data={config.data} leaves no gold rows; a chain starts from real data")
    if reference == 0:
        raise ConfigError(
            f"data={config.data} leaves no reference rows to measure with; evaluation.enabled=false does without"
        )
    return rows


def build_model(config: ChainConfig, data: RecursiveDataModule) -> GenerativeModule:
    """Return the model a config names; what it takes of ``shape``, ``vocabulary`` and ``length`` is the data's own."""
    arguments = dict(config.model)
    wanted = registry("models").get(str(arguments.get("name")))
    if wanted is not None:
        shape = tuple(int(side) for side in data.gold().x.shape[1:])
        known: dict[str, Any] = {"shape": shape}
        if data.vocabulary is not None:
            known |= {"vocabulary": data.vocabulary, "length": shape[-1]}  # behind a replicate axis, if there is one
        arguments = {key: known[key] for key in known if key in wanted.constructor_parameters()} | arguments
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
    hints = typing.get_type_hints(pl.Trainer.__init__)
    for key, value in config.trainer.items():
        if key in OWNED:
            raise ConfigError(
                f"trainer.{key} is decided by the chain (generations, epochs_per_generation, out, wandb); leave it out"
            )
        if key not in known:
            raise ConfigError(f"unknown key 'trainer.{key}'{did_you_mean(key, known)}")
        if not fits(value, hints[key]):
            raise ConfigError(f"trainer.{key}={value!r} must be of type {shown(hints[key])}")
        if key in LEAST and value is not None and value < LEAST[key]:
            raise ConfigError(f"trainer.{key}={value} must be at least {LEAST[key]}")
    return dict(config.trainer)


@contextmanager
def usage(where: str = "") -> Iterator[None]:
    """Turn what arguments raise into errors of use that say where.

    Raises:
        ConfigError: In place of an error about an argument, or about a size for which there is no memory.
    """
    try:
        yield
    except ConfigError:
        raise
    except FAULTS as error:
        raise ConfigError(f"{where}{TOO_LARGE if OVERSIZED.search(str(error)) else error}") from error
    except (MemoryError, OverflowError) as error:
        raise ConfigError(f"{where}{TOO_LARGE}") from error
    except OSError as error:
        if error.errno not in NO_PATH:
            raise
        raise ConfigError(f"{where}{error.strerror}: {error.filename!r}; give another path") from error
    except RuntimeError as error:
        if not OVERSIZED.search(str(error)):
            raise
        raise ConfigError(f"{where}{TOO_LARGE}") from error


def _component(kind: str, where: str, node: Mapping[str, Any]) -> Any:
    classes = registry(kind)
    arguments = dict(node)
    name = arguments.pop("name", None)
    if not isinstance(name, str):
        raise ConfigError(f"{where} needs a name{did_you_mean('', classes)}")
    if name not in classes:
        raise ConfigError(f"{where}: there is no {name!r}{did_you_mean(name, classes)}")
    _check_arguments(classes[name], where, arguments)
    arguments = {key: _nested(classes[name], f"{where}.{key}", key, value) for key, value in arguments.items()}
    with usage(f"{where} ({name}): "):
        return classes[name](**arguments)


def _nested(wanted: type[Remembers], where: str, key: str, value: Any) -> Any:
    """Build an argument that is a component itself, such as the data that other data are made of."""
    hint = typing.get_type_hints(wanted.__init__).get(key)
    kind = next((kind for kind, (_, base) in KINDS.items() if hint is base), None)
    if kind is None:
        return value
    node = {"name": value} if isinstance(value, str) else value
    if not isinstance(node, Mapping):
        raise ConfigError(f"{where}={value!r} must be a name, or hold keys; write {where}.name=NAME")
    return _component(kind, where, node)


def _check_arguments(wanted: type[Remembers], where: str, arguments: Mapping[str, Any]) -> None:
    parameters = wanted.constructor_parameters()
    hints = typing.get_type_hints(wanted.__init__)
    for key, value in arguments.items():
        if key not in parameters:
            raise ConfigError(f"{where}: {wanted.__name__} takes no {key!r}{did_you_mean(str(key), parameters)}")
        if not fits(value, hints.get(key, Any)):
            raise ConfigError(f"{where}.{key}={value!r} must be of type {shown(hints[key])}")
    missing = [
        key
        for key, parameter in parameters.items()
        if parameter.default is inspect.Parameter.empty and key not in arguments
    ]
    if missing:
        raise ConfigError(f"{where}: {wanted.__name__} needs {missing[0]!r}; give {missing[0]}=VALUE")
