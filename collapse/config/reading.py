"""YAML, read with care: plain values only, whatever a file or an argument holds."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import MarkedYAMLError, YAMLError

from collapse.config.errors import ConfigError

__all__ = ["check_place", "exists", "parse_override", "read_file", "sentence_of", "unusual"]

FAULTS = (
    YAMLError,
    OmegaConfBaseException,
    OSError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    RecursionError,
)
"""What PyYAML and OmegaConf raise on a text: their own errors, and those of constructors on a value that is not what
its tag says (``!!timestamp x``)."""

KEY = re.compile(r"\w+(\.\w+)*")
LARGEST = 2**63
LONGEST_NAME = 255  # bytes, of most file systems


def exists(path: Path) -> bool:
    """Return whether there is such a file or folder; a name that no file can have has none."""
    try:
        return path.exists()
    except OSError:  # too long; or not ours to see
        return False


def check_place(out: Path) -> None:
    """Check that a run folder could stand where it is to stand.

    Raises:
        ConfigError: If there is a file, or a file on the way, or no folder can have such a name.
    """
    if exists(out) and not out.is_dir():
        raise ConfigError(f"out={out} is a file; choose a folder")
    try:
        if any(len(os.fsencode(part)) > LONGEST_NAME for part in out.parts):
            raise ValueError("too long")
        out.lstat()
    except FileNotFoundError:
        return
    except NotADirectoryError:
        raise ConfigError(f"out={out} lies under a file; choose a folder") from None
    except (OSError, ValueError):
        raise ConfigError(f"out={str(out)!r} cannot be the name of a folder; choose another") from None


def read_file(path: Path) -> dict[str, Any]:
    """Return the keys and values of a YAML file, interpolations resolved.

    Raises:
        ConfigError: If it is no file of keys and values.
    """
    try:
        content = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
    except FAULTS as error:
        raise ConfigError(f"{path} cannot be read as YAML: {sentence_of(error)}") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path} must hold keys and values at its top level")
    return {str(key): value for key, value in content.items()}


def parse_override(override: str) -> dict[str, Any]:
    """Return what ``key=value`` sets, as nested keys.

    Raises:
        ConfigError: If it cannot be read.
    """
    key, _, value = override.partition("=")
    if not KEY.fullmatch(key):
        raise ConfigError(f"{override!r} is no override: {key!r} is no key; write key=value, or key.key=value")
    try:
        content = OmegaConf.to_container(OmegaConf.from_dotlist([f"{key}={_spaced(value)}"]), resolve=True)
    except FAULTS as error:
        raise ConfigError(f"{override!r} cannot be read: {sentence_of(error)}") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{override!r} is no override; write key=value")
    return {str(name): part for name, part in content.items()}


def _spaced(value: str) -> str:
    """Put the space that YAML wants after a key's colon into ``[{Name:{argument:value}}]``, outside of quotes."""
    if not value.startswith(("[", "{")):
        return value
    parts = re.split(r"""("[^"]*"|'[^']*')""", value)
    return "".join(
        part if index % 2 else re.sub(r"([\[{,]\s*[\w.]+):(?!\s)", r"\1: ", part) for index, part in enumerate(parts)
    )


def sentence_of(error: BaseException) -> str:
    """Return what an error says, in one line."""
    if isinstance(error, MarkedYAMLError) and error.problem_mark is not None:
        return f"{error.problem}, line {error.problem_mark.line + 1}"
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, AttributeError | LookupError):
        return "a value is not what its tag says"
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def unusual(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Yield what no argument takes, with its key and what it must be: numbers that are NaN, infinite or beyond 64 bits,
    and texts that would be interpolated when they are read again."""
    if isinstance(value, dict):
        for name, part in value.items():
            yield from unusual(part, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list):
        for part in value:
            yield from unusual(part, key)
    elif isinstance(value, int) and not -LARGEST <= value < LARGEST:
        yield key, f"={value} must be an integer of 64 bits"
    elif isinstance(value, float) and not math.isfinite(value):
        yield key, f"={value} must be a finite number"
    elif isinstance(value, str) and "${" in value:
        yield key, f"={value!r} must not hold '${{' once it is resolved"
