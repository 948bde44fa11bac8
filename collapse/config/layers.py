"""How the layers of a config are put together: files first, then the command line, a later one over those before."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["COMMAND", "leaves", "merge"]

COMPONENTS = ("data", "data.source", "model")

COMMAND = "command line"
"""Origin of what the command line says itself."""

BUDGETS = ("epochs_per_generation", "steps_per_generation")
"""Two ways to say how long a generation trains."""


def merge(tree: dict[str, Any], layer: Mapping[str, Any], origin: str, origins: dict[str, str]) -> None:
    """Put a layer over a config.

    Another class takes other arguments: a component whose name changes starts afresh. And another budget counts in
    another unit: epochs take the place of the steps that an earlier layer gave, and steps that of epochs. Both stay
    if one file gives them, or if the command line gave the first; two budgets are refused where a chain is built.

    Args:
        tree: The config so far; changed in place.
        layer: What is said now.
        origin: Who says it.
        origins: Who said each leaf, by dotted key; changed in place.
    """
    for given, other in (BUDGETS, BUDGETS[::-1]):
        if layer.get(given) is not None and layer.get(other) is None and origins.get(other) not in (origin, COMMAND):
            tree.pop(other, None)
            origins.pop(other, None)
    _merge(tree, layer, origin, origins, "")


def _merge(tree: dict[str, Any], layer: Mapping[str, Any], origin: str, origins: dict[str, str], prefix: str) -> None:
    for key, value in layer.items():
        dotted = f"{prefix}{key}"
        known = tree.get(key)
        renamed = dotted in COMPONENTS and isinstance(value, Mapping) and "name" in value
        if (
            isinstance(value, Mapping)
            and isinstance(known, dict)
            and not (renamed and value["name"] != known.get("name"))
        ):
            _merge(known, value, origin, origins, f"{dotted}.")
            continue
        for old in [name for name in origins if name == dotted or name.startswith(f"{dotted}.")]:
            del origins[old]
        tree[key] = value
        origins.update(dict.fromkeys(leaves({key: value}, prefix), origin))


def leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Yield the dotted keys of everything that holds no keys itself."""
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"
