"""SIGTERM and SIGINT as a flag: a process that owns the wheels says a last zero before it goes."""

from __future__ import annotations

import os
import signal
from types import FrameType


class StopSignals:
    """Takes both signals from now on. The first one asks to stop; a second one ends the process at once."""

    def __init__(self) -> None:
        self.asked = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._ask)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            os._exit(128 + number)
        self.asked = True
