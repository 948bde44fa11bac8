"""Errors of use: one sentence with the key, the value and the way out."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = ["ConfigError", "did_you_mean", "one_line"]


class ConfigError(ValueError):
    """A config or command line that cannot be run; its message is all a user needs to see."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ``; did you mean 'x'?`` for the nearest known name, or the list of them when none is near."""
    names = sorted(known)
    folded = {candidate.lower(): candidate for candidate in names}
    near = difflib.get_close_matches(name.lower(), folded, n=1, cutoff=0.5)
    if near:
        return f"; did you mean {folded[near[0]]!r}?"
    return f"; there are: {', '.join(names)}" if names else ""


def one_line(text: str, most: int | None = None) -> str:
    """Return a text as one line that any terminal can show: what is not printable escaped, and the middle of what is
    longer than ``most`` characters left out."""
    line = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in " ".join(text.split()))
    return line if most is None or len(line) <= most else f"{line[: most * 2 // 3]} ... {line[-(most // 3) :]}"
