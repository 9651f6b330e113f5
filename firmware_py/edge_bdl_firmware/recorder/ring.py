"""The last seconds, in memory: what a trigger finds that comes after what it is about."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from edge_bdl_firmware.messages import AnyMessage, Frame

#: What a message other than a frame takes in memory, generously.
_SMALL_BYTES = 2048


class Received(NamedTuple):
    """A message, and CLOCK_MONOTONIC in nanoseconds when it came."""

    received_ns: int
    message: AnyMessage

    @property
    def bytes(self) -> int:
        """Memory that it takes, about."""
        return _SMALL_BYTES + (len(self.message.data) if isinstance(self.message, Frame) else 0)


class Ring:
    """What came last, bounded in time and in memory; the oldest goes first.

    Args:
        seconds: How far back it reaches.
        most_bytes: How much it may hold. Frames are kept as they came: those of a camera do not compress at a speed
            that a robot can spare.
    """

    def __init__(self, seconds: float, most_bytes: int) -> None:
        self._reach_ns = round(seconds * 1e9)
        self._most_bytes = most_bytes
        self._entries: deque[Received] = deque()
        self._bytes = 0
        self.evicted = 0

    def add(self, entry: Received) -> None:
        """Take what came now; let go what is too old, or what there is no room for, which is counted."""
        self._entries.append(entry)
        self._bytes += entry.bytes
        while self._entries[0].received_ns < entry.received_ns - self._reach_ns:
            self._drop()
        while self._bytes > self._most_bytes:
            self._drop()
            self.evicted += 1

    def entries(self) -> list[Received]:
        """All that is in it, the oldest first."""
        return list(self._entries)

    def _drop(self) -> None:
        self._bytes -= self._entries.popleft().bytes
