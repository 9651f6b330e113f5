"""Work that may block, done by a thread: a tick must not wait for a disk or for whoever reads the log."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from contextlib import suppress

_MOST_WAITING = 64


class Background:
    """One thread that does jobs in their order; one that fails does not keep it from the next.

    Args:
        name: Of the thread.
    """

    def __init__(self, name: str) -> None:
        self._jobs: queue.Queue[Callable[[], object] | None] = queue.Queue(_MOST_WAITING)
        self._began_s: float | None = None
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def put(self, job: Callable[[], object]) -> bool:
        """Have a job done soon; returns False where too many wait already. Never waits."""
        try:
            self._jobs.put_nowait(job)
        except queue.Full:
            return False
        return True

    def busy_s(self) -> float:
        """How long the present job has taken; 0 where there is none."""
        began_s = self._began_s
        return 0.0 if began_s is None else time.monotonic() - began_s

    def finish(self, timeout_s: float) -> None:
        """Do what waits, then end; gives up after this time."""
        try:
            self._jobs.put(None, timeout=timeout_s)
        except queue.Full:
            return
        self._thread.join(timeout_s)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            self._began_s = time.monotonic()
            # Whoever puts a job that may fail for a reason that matters looks after it in the job: what is left are
            # logs that nobody reads, and this thread keeps the state too.
            with suppress(Exception):
                job()
            self._began_s = None
