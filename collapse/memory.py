"""Memory of the process: what one training step gives back, the next one asks for again."""

from __future__ import annotations

import ctypes
import os
import sys

__all__ = ["keep_freed_memory"]

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
"""Names of two settings in <malloc.h> of the GNU C library."""

NAMES = ("trim_threshold", "mmap_threshold")
"""How a user sets them: ``MALLOC_TRIM_THRESHOLD_=BYTES``, or ``glibc.malloc.trim_threshold=BYTES`` in
``GLIBC_TUNABLES``."""

KEPT, LARGEST = 2**29, 2**25
"""Bytes: how much free memory at its end is kept, and the largest request served from it, as large as the library
allows."""


def keep_freed_memory() -> bool:
    """Have the GNU C library keep freed memory, up to half a GiB at its end, for the next tensors on the CPU.

    By default it returns large tensors' memory to the system when they are freed, and a training step gets it back
    page by page. Holds for the whole process from then on; results are the same. Where the environment has one of the
    two settings (``MALLOC_TRIM_THRESHOLD_``, ``MALLOC_MMAP_THRESHOLD_`` or their ``GLIBC_TUNABLES``), both stay as
    they are.

    Returns:
        Whether the settings were made; False where the environment has one, and with another C library.
    """
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    chosen = any(f"MALLOC_{name.upper()}_" in os.environ or f"malloc.{name}" in tunables for name in NAMES)
    if chosen or sys.platform != "linux":
        return False
    setting = getattr(ctypes.CDLL(None), "mallopt", None)
    return setting is not None and bool(setting(MMAP_THRESHOLD, LARGEST)) and bool(setting(TRIM_THRESHOLD, KEPT))
