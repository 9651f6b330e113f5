"""Room for one item between threads: the newest. Whoever is slow sees fewer frames, never older ones."""

from __future__ import annotations

import threading
from typing import Generic, TypeVar

Item = TypeVar("Item")


class LatestSlot(Generic[Item]):
    """Holds the newest item until somebody takes it.

    Attributes:
        received: Items that were put.
        dropped: Items that a newer one replaced before anybody took them.
    """

    def __init__(self) -> None:
        self.received = 0
        self.dropped = 0
        self._item: Item | None = None
        self._changed = threading.Condition()

    def put(self, item: Item) -> None:
        """Put an item in the place of whatever is there; never waits for the taker."""
        with self._changed:
            self.received += 1
            self.dropped += self._item is not None
            self._item = item
            self._changed.notify()

    def take(self, timeout_s: float) -> Item | None:
        """Take the item out; None where none came in time."""
        with self._changed:
            if self._item is None:
                self._changed.wait(timeout_s)
            item, self._item = self._item, None
            return item
