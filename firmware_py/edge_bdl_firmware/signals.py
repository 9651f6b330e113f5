"""SIGTERM, SIGINT and SIGHUP as a flag: a process that owns the wheels says a last zero before it goes."""

from __future__ import annotations

import os
import signal
import time
from types import FrameType

_SAME_WISH_S = 1.0  # Ctrl-C comes twice where a launcher passes on what the terminal has sent already


class StopSignals:
    """Takes these signals from now on. The first one asks to stop; one that comes later ends the process at once."""

    def __init__(self) -> None:
        self.asked = False
        self._asked_s = 0.0
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            # Who started us with nohup wants us to outlive the terminal.
            if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._ask)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if not self.asked:
            self.asked, self._asked_s = True, time.monotonic()
        elif time.monotonic() - self._asked_s > _SAME_WISH_S:
            os._exit(128 + number)
