"""Being asked to stop: what SIGUSR1 and SIGTERM leave behind, for whoever can stop in a good place."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

__all__ = ["SIGNALS", "StopRequest", "StoppedForRequeue"]

SIGNALS = (signal.SIGUSR1, signal.SIGTERM)  # a cluster's warning before the time is up; a preemption


class StoppedForRequeue(Exception):
    """Ends a chain that was asked to stop and can be continued exactly; its message says how."""


class StopRequest:
    """A signal handler that only remembers: at the moment it is called anything may be half done.

    Attributes:
        received: The first signal that came; None before.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._before: dict[int, Any] = {}

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Remember the signal."""
        self.received = self.received or number

    def install(self) -> None:
        """Handle the signals from now on, and take over what an earlier request has received.

        Outside of the main thread Python allows no handlers, and nothing is installed.
        """
        if threading.current_thread() is not threading.main_thread():
            return
        for number in SIGNALS:
            before = signal.signal(number, self)
            self._before.setdefault(number, signal.SIG_DFL if before is None else before)
            if isinstance(before, StopRequest):
                self.received = self.received or before.received

    def restore(self, *, heeded: bool) -> None:
        """Put back the handlers that were there before.

        Args:
            heeded: Whether somebody stopped because of this request. A signal that nobody heeded is sent again, to the
                handler that would have got it: it must not be lost.
        """
        installed = bool(self._before)
        for number, before in self._before.items():
            signal.signal(number, before)
        self._before = {}
        if installed and self.received is not None and not heeded:
            signal.raise_signal(self.received)
