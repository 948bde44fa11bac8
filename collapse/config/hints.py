"""Whether a plain value, as configs hold them, is what a parameter's type hint says."""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["fits", "shown"]

PLAIN: dict[Any, tuple[type, ...]] = {
    int: (int,),
    float: (int, float),
    str: (str,),
    bool: (bool,),
    Path: (str,),
    None: (types.NoneType,),
    types.NoneType: (types.NoneType,),
}
"""Type hint -> types of the values that fit it."""

LISTS = (list, tuple, Sequence)
MAPPINGS = (dict, Mapping)


def fits(value: Any, hint: Any) -> bool:
    """Return whether a plain value fits a type hint; one this does not know fits everything, unless it is one of
    several of which others are known."""
    origin, options = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        known = [option for option in options if _known(option)] or options
        return any(fits(value, option) for option in known)
    if origin is typing.Literal:
        return any(value == option and type(value) is type(option) for option in options)
    if hint in PLAIN:
        return isinstance(value, PLAIN[hint]) and (not isinstance(value, bool) or hint is bool)
    if origin in LISTS:
        return isinstance(value, list | tuple) and all(fits(item, options[0]) for item in value)
    if origin in MAPPINGS:
        return isinstance(value, Mapping) and all(fits(item, options[1]) for item in value.values())
    return True


def shown(hint: Any) -> str:
    """Return a type hint as it is written."""
    return hint.__name__ if isinstance(hint, type) and not typing.get_args(hint) else _without_modules(str(hint))


def _without_modules(text: str) -> str:
    for module in ("collections.abc.", "typing.", "pathlib.", "datetime."):
        text = text.replace(module, "")
    return text


def _known(hint: Any) -> bool:
    origin = typing.get_origin(hint)
    return hint in PLAIN or origin is typing.Literal or origin in LISTS or origin in MAPPINGS
