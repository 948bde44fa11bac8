"""A thread that writes what it is handed, while its owner goes on sampling."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

__all__ = ["BackgroundWriter"]

QUEUE = 8
"""Jobs on their way before the owner has to wait."""


class BackgroundWriter:
    """Runs jobs in order, in one thread. It lives from the first job to the next ``flush``, as it cannot be pickled."""

    def __init__(self) -> None:
        self._thread: ThreadPoolExecutor | None = None
        self._jobs: list[Future[None]] = []

    def submit(self, job: Callable[..., None], *arguments: Any) -> None:
        """Hand over a job; what an earlier one raised is raised here, or by ``flush``."""
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="collapse-store")
        self._jobs.append(self._thread.submit(job, *arguments))
        self._wait(QUEUE)

    def flush(self) -> None:
        """Wait until every job is done, and end the thread."""
        self._wait(0)
        if self._thread is not None:
            self._thread.shutdown()
            self._thread = None

    def _wait(self, most: int) -> None:
        """Wait until at most so many jobs are left; after an error none is."""
        try:
            while len(self._jobs) > most:
                self._jobs.pop(0).result()
        except BaseException:
            for job in self._jobs:
                job.cancel()
            wait(self._jobs)
            self._jobs.clear()
            self.flush()
            raise
