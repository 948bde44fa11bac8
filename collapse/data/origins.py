"""Origins by name, as configs and command lines give them."""

from __future__ import annotations

import difflib

from collapse.data.rows import Origin

__all__ = ["ORIGINS", "origin_named"]

ORIGINS = {origin.name.lower(): origin for origin in Origin}


def origin_named(name: str) -> Origin:
    """Return the origin called ``name``.

    Raises:
        ValueError: If there is none, with the nearest name.
    """
    if name not in ORIGINS:
        near = difflib.get_close_matches(str(name).lower(), ORIGINS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"origin must be one of {', '.join(ORIGINS)}, got {name!r}{hint}")
    return ORIGINS[name]
