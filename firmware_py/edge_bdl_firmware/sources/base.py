"""What every source of frames offers, and the pace at which recorded ones come."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Protocol

from edge_bdl_firmware.messages import Frame


class Source(Protocol):
    """Frames of one camera, real or recorded.

    Attributes:
        clock_ns: What the frames' stamps are counted in; None where it is no clock of this machine.
    """

    clock_ns: Callable[[], int] | None

    def frames(self) -> Iterator[Frame]:
        """Every frame when it is due, until there are no more or `close` was called by whichever thread.

        Raises:
            InputError: What comes next cannot be read.
        """
        ...

    def close(self) -> None:
        """End the frames, now, and give back what was opened."""
        ...


class Pace:
    """Lets things happen when they are due, on CLOCK_MONOTONIC.

    Args:
        clock: Seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._start_s: float | None = None
        self._ended = threading.Event()

    def wait(self, due_s: float) -> bool:
        """Wait until so many seconds after the first call's; returns whether to go on.

        Whoever comes late is not hurried to catch up: what is due after it moves by as much.
        """
        now_s = self._clock()
        if self._start_s is None or now_s > self._start_s + due_s:
            self._start_s = now_s - due_s
        return not self._ended.wait(self._start_s + due_s - now_s)

    def end(self) -> None:
        """Wake whoever waits; there is nothing to wait for any more."""
        self._ended.set()
