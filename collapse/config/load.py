"""Compose a config from files and overrides, strictly, and remember where each value came from."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from collapse.config.errors import ConfigError, did_you_mean
from collapse.config.layers import COMMAND, leaves, merge
from collapse.config.reading import exists, parse_override, read_file, sentence_of, unusual
from collapse.config.schema import ChainConfig

__all__ = ["LoadedConfig", "cells", "config_root", "load", "load_run", "names_in"]

GROUPS = {"data": "data", "model": "model", "mitigation": "mitigations"}
"""Folder of config files -> the key that one of them sets."""

MOST_CELLS = 10_000


@dataclass(frozen=True)
class LoadedConfig:
    """A resolved config.

    Attributes:
        config: The values, checked against the schema.
        tree: The same as plain dicts and lists.
        origins: Where each leaf came from, by dotted key.
    """

    config: ChainConfig
    tree: dict[str, Any]
    origins: dict[str, str]

    @property
    def digest(self) -> str:
        """SHA-256 of everything that decides the results: not of where they go, nor of who watches."""
        content = {key: value for key, value in self.essence.items() if key != "seed"}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    @property
    def essence(self) -> dict[str, Any]:
        """What makes the run this run: everything but where its files lie, who reads them, and who watches.

        A path is left out only where the SHA-256 of what lies there stands beside it, which a run writes down at its
        start and holds the files to from then on.
        """
        content = {key: value for key, value in self.tree.items() if key not in ("out", "wandb", "sweep")}
        parts = {"data": _placeless(content["data"], ("root", "num_workers")), "model": _placeless(content["model"])}
        return content | parts

    @property
    def out(self) -> Path:
        """The run folder."""
        return Path(self.config.out or f"runs/{self.digest[:8]}-{self.config.seed}")


def config_root() -> Path:
    """Return the folder of the config files: inside an installed package, or beside it in a checkout."""
    installed = Path(str(files("collapse"))) / "configs"
    checkout = Path(str(files("collapse"))).parent / "configs"
    for root in (installed, checkout):
        if (root / "base.yaml").exists():
            return root
    raise ConfigError(f"no config files in {installed} or {checkout}; reinstall collapse")


def names_in(group: str) -> list[str]:
    """Return the config names in a group's folder, ``vae/conv`` for a file in a subfolder."""
    folder = config_root() / group
    return sorted(str(path.relative_to(folder).with_suffix("")) for path in folder.rglob("*.yaml"))


def load(config: str | None = None, overrides: Sequence[str] = ()) -> LoadedConfig:
    """Compose a config: base, then the file with its includes, then the command line.

    Args:
        config: Path of a YAML file, or the name of one under ``configs/experiment``; None for the defaults.
        overrides: ``key=value``. A key that names a group (``data=mnist``, ``model=vae/conv``, ``mitigation=anchor``)
            takes that group's file.

    Raises:
        ConfigError: On anything unknown, misspelled, or of the wrong type.
    """
    layers = [*_file_layers(config_root() / "base.yaml")]
    if config is not None:
        layers += _file_layers(_find(config))
    layers += [layer for override in overrides for layer in _override_layers(override)]
    tree: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for origin, content in layers:
        merge(tree, content, origin, origins)
    return _checked(tree, origins)


def cells(config: str | None, overrides: Sequence[str] = ()) -> list[tuple[str, LoadedConfig]]:
    """Return every cell of a config's sweep with the settings that make it one; a config without a sweep is one cell.

    An axis is a key with its values, or several keys joined by commas with a list of their values each time; cells are
    all combinations of axes. An axis of which ``overrides`` set a key is left out.

    Raises:
        ConfigError: As ``load``.
    """
    given = {_target(override.partition("=")[0]) for override in overrides} - {"sweep"}
    axes = []
    for name, values in load(config, overrides).config.sweep.items():
        keys = [key.strip() for key in name.split(",")]
        if not values:
            raise ConfigError(f"sweep.{name} has no values; give a list of them, or leave the key out")
        if given.isdisjoint(map(_target, keys)):
            axes.append([_together(name, keys, value) for value in values])
    if math.prod(map(len, axes)) > MOST_CELLS:
        raise ConfigError(
            f"sweep has {math.prod(map(len, axes))} cells; leave axes or values out, down to {MOST_CELLS}"
        )
    return [
        _cell([setting for together in places for setting in together], config, overrides)
        for places in itertools.product(*axes)
    ]


def _cell(settings: list[str], config: str | None, overrides: Sequence[str]) -> tuple[str, LoadedConfig]:
    """Return one cell and its name. A component is chosen before the overrides that give it arguments, and gets those
    of an axis after the overrides that may choose it."""
    label = " ".join(settings)
    chosen = [setting for setting in settings if "." not in setting.partition("=")[0]]
    given = [setting for setting in settings if setting not in chosen]
    try:
        return label, load(config, [*chosen, *overrides, *given])
    except ConfigError as error:
        raise ConfigError(f"{error} (sweep: {label})" if label else str(error)) from None


def _target(key: str) -> str:
    """Return the key that ``key`` sets: ``mitigations`` for the group ``mitigation``."""
    return GROUPS.get(key, key)


def _together(name: str, keys: list[str], value: Any) -> list[str]:
    """Return the overrides of one place on an axis."""
    values = [value] if len(keys) == 1 else value
    if not all(keys):
        raise ConfigError(f"sweep.{name!r} names no key; write {{key: [values]}}, or {{'key,key': [[values]]}}")
    if not isinstance(values, list) or len(values) != len(keys):
        raise ConfigError(f"sweep.{name}: {value!r} must be a list of {len(keys)} values, one for each key")
    return [f"{key}={_written(one)}" for key, one in zip(keys, values, strict=True)]


def _written(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def load_run(out: Path) -> LoadedConfig:
    """Read the config of an existing run folder."""
    path = out / "config.yaml"
    if not exists(path):
        raise ConfigError(f"{out} is no run folder: it has no config.yaml")
    tree = read_file(path)
    if not tree:
        raise ConfigError(f"{path} is empty: {out} is no run folder")
    loaded = _checked(tree, dict.fromkeys(leaves(tree), str(path)))
    return dataclasses.replace(loaded, config=dataclasses.replace(loaded.config, out=str(out)))


def _find(name: str) -> Path:
    path = Path(name)
    if path.suffix in (".yaml", ".yml"):
        if not exists(path) or not path.is_file():
            raise ConfigError(f"there is no config file {name}")
        return path
    known = names_in("experiment")
    short = name.removeprefix("experiment/")
    if short not in known:
        raise ConfigError(f"there is no experiment {name!r}{did_you_mean(short, known)}")
    return config_root() / "experiment" / f"{short}.yaml"


def _file_layers(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    content = read_file(path)
    included = content.pop("include", [])
    if not isinstance(included, list):
        raise ConfigError(f"{path}: include={included!r} must be a list; write include: [data/digits]")
    for name in included:
        if name not in names_in(""):
            raise ConfigError(f"{path}: include {name!r} is no file under {config_root()}")
        yield from _file_layers(config_root() / f"{name}.yaml")
    yield _shown(path), content


def _shown(path: Path) -> str:
    root = config_root()
    return f"configs/{path.relative_to(root)}" if root in path.parents else str(path)


def _override_layers(override: str) -> Iterator[tuple[str, dict[str, Any]]]:
    key, equals, value = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"{override!r} is no override; write key=value")
    if key in GROUPS and not value.startswith(("{", "[")):
        known = names_in(key)
        if value not in known:
            raise ConfigError(f"{key}={value}: there is no such config{did_you_mean(value, known)}")
        yield from _file_layers(config_root() / key / f"{value}.yaml")
        return
    yield COMMAND, parse_override(override)


def _placeless(tree: Mapping[str, Any], names: tuple[str, ...] = ()) -> dict[str, Any]:
    """Leave out, at every level, keys of these names, and a path beside the hash of its content."""
    aside = (*names, "path") if tree.get("sha256") else names
    kept = {key: value for key, value in tree.items() if key not in aside}
    return {key: _placeless(value, names) if isinstance(value, Mapping) else value for key, value in kept.items()}


def _checked(tree: dict[str, Any], origins: dict[str, str]) -> LoadedConfig:
    _check_keys(tree, ChainConfig, origins)
    for key, fault in unusual(tree):
        raise ConfigError(f"{key}{fault}{_from(origins, key)}")
    try:
        merged = OmegaConf.merge(OmegaConf.structured(ChainConfig), tree)
        config = OmegaConf.to_object(merged)
        resolved = OmegaConf.to_container(OmegaConf.structured(config))
    except (OmegaConfBaseException, ValueError, TypeError) as error:
        key = str(getattr(error, "full_key", "") or "")
        raise ConfigError(f"{key or 'config'}: {sentence_of(error)}{_from(origins, key)}") from None
    if not isinstance(config, ChainConfig) or not isinstance(resolved, dict):
        raise ConfigError("the config does not describe a chain")
    plain = {str(key): value for key, value in resolved.items()}
    return LoadedConfig(config, plain, {leaf: origins.get(leaf, "default") for leaf in leaves(plain)})


def _check_keys(tree: Mapping[str, Any], schema: Any, origins: dict[str, str], prefix: str = "") -> None:
    fields = {field.name: field for field in dataclasses.fields(schema)}
    for key, value in tree.items():
        if key not in fields:
            where = _from(origins, f"{prefix}{key}")
            raise ConfigError(f"unknown key {prefix + str(key)!r}{where}{did_you_mean(str(key), fields)}")
        factory = fields[key].default_factory
        if factory is list and not isinstance(value, list):
            raise ConfigError(
                f"{prefix}{key}={value!r}{_from(origins, prefix + key)} must be a list; write [{value or ''}]"
            )
        if (factory is dict or dataclasses.is_dataclass(factory)) and not isinstance(value, Mapping):
            where = _from(origins, prefix + key)
            raise ConfigError(f"{prefix}{key}={value!r}{where} must hold keys; write {prefix}{key}.KEY=VALUE")
        if dataclasses.is_dataclass(factory):
            _check_keys(value, factory, origins, f"{prefix}{key}.")


def _from(origins: Mapping[str, str], key: str) -> str:
    found = next(
        (origin for name, origin in origins.items() if key and (name == key or name.startswith(f"{key}."))), None
    )
    return f" (from {found})" if found else ""
