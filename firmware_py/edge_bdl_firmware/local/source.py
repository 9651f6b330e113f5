"""Frames that another program sends: a camera of one's own, or a simulator."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from edge_bdl_firmware.local.channel import Inbox
from edge_bdl_firmware.messages import Frame

_PERIOD_S = 0.1


class SocketSource:
    """Receives frames at the socket ``monitor``; their stamps are in CLOCK_MONOTONIC.

    Args:
        text: ``socket:FOLDER``, the folder of the sockets.
        rate_hz: Not used: frames come when they come.

    Raises:
        InputError: Another monitor receives there.
    """

    def __init__(self, text: str, rate_hz: float | None = None) -> None:
        self.clock_ns: Callable[[], int] | None = time.monotonic_ns
        self._inbox = Inbox(Path(text.removeprefix("socket:")), "monitor")
        self._ended = False

    def frames(self) -> Iterator[Frame]:
        """See `Source.frames`. The time of receipt is the receiver's: a sender's word is no evidence."""
        with self._inbox:
            while not self._ended:
                message = self._inbox.receive(_PERIOD_S)
                if isinstance(message, Frame):
                    yield msgspec.structs.replace(message, received_s=time.monotonic())

    def close(self) -> None:
        """See `Source.close`."""
        self._ended = True
