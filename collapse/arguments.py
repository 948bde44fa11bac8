"""Objects that remember how they were made: the base of twins, of ``repr`` and of a run's identity."""

from __future__ import annotations

import inspect
from typing import Any, Self

__all__ = ["Remembers"]


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

    def twin(self) -> Self:
        """Make the object again from the same arguments."""
        args, kwargs = self._arguments
        return type(self)(*args, **kwargs)
