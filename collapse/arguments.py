"""Arguments of constructors: objects that remember theirs, and names looked up in a table."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Mapping
from typing import Any, Self, TypeVar

__all__ = ["Remembers", "chosen"]

T = TypeVar("T")


class Remembers:
    """Mix-in that keeps the constructor's arguments, so that an object can be described and made again.

    No call in ``__init__`` is needed and none can be forgotten: the arguments are caught in ``__new__``.
    """

    incidental: frozenset[str] = frozenset()
    """Arguments that do not change what the object does: where files lie, how many processes read them."""

    _arguments: tuple[tuple[Any, ...], dict[str, Any]]

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        instance = super().__new__(cls)
        object.__setattr__(instance, "_arguments", (args, kwargs))
        return instance

    @classmethod
    def constructor_parameters(cls) -> dict[str, inspect.Parameter]:
        """The constructor's parameters by name, without ``self``."""
        return dict(list(inspect.signature(cls.__init__).parameters.items())[1:])

    @property
    def arguments(self) -> dict[str, Any]:
        """The constructor's arguments by name, defaults included."""
        args, kwargs = self._arguments
        bound = inspect.signature(type(self).__init__).bind(self, *args, **kwargs)
        bound.apply_defaults()
        return dict(list(bound.arguments.items())[1:])

    def describe(self) -> str:
        """Return ``ClassName(argument=value, ...)``, defaults and incidentals left out."""
        defaults = {name: parameter.default for name, parameter in self.constructor_parameters().items()}
        given = [
            f"{name}={value!r}"
            for name, value in self.arguments.items()
            if name not in self.incidental and value is not defaults[name] and value != defaults[name]
        ]
        return f"{type(self).__name__}({', '.join(given)})"

    def pinned(self) -> Mapping[str, Any]:
        """Return arguments that make the object again where the given ones may not: its files may have changed."""
        return {}

    def twin(self) -> Self:
        """Make the object again from the same arguments."""
        args, kwargs = self._arguments
        return type(self)(*args, **kwargs)


def chosen(argument: str, value: str, options: Mapping[str, T]) -> T:
    """Look an argument's value up in a table.

    Raises:
        ValueError: If it is no key of it; the sentence has the nearest one.
    """
    if value not in options:
        nearest = difflib.get_close_matches(str(value), options, n=1, cutoff=0)[0]
        raise ValueError(f"{argument} = {value!r} is not one of {', '.join(options)}; did you mean {nearest!r}?")
    return options[value]
