"""Where what takes long to make is kept for other runs."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["cache_folder"]


def cache_folder() -> Path:
    """Return where trained feature extractors and tokens of long texts are kept.

    It is $COLLAPSE_CACHE, or ``collapse`` in the user's cache folder. Everything in it can be made again.
    """
    own = os.environ.get("COLLAPSE_CACHE")
    return Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "collapse"
