"""What a process tells those who only listen: the recorder and the watchers. Lost where nobody is there."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import msgspec

from edge_bdl_firmware.local.channel import Outbox
from edge_bdl_firmware.messages import AnyMessage, Opening

_REFRESH_S = 1.0
_MOST_WATCHERS = 16


class Telemetry:
    """The listeners of one process; its threads may share it.

    Args:
        sockets: Folder of their sockets.
        opening: What the process runs with; told once a second, because anybody may come late.
    """

    def __init__(self, sockets: Path, opening: Opening) -> None:
        self.opening = opening
        self._sockets = sockets
        self._recorder = Outbox(sockets, "recorder")
        self._watchers: dict[str, Outbox] = {}
        # Nobody sends to a watcher that another thread is just closing; sending never waits, so nor does this lock.
        self._lock = threading.Lock()
        self._next_s = 0.0
        self._find_watchers()  # they shall not miss what comes before the first refresh

    @property
    def opening(self) -> Opening:
        """What the process runs with now."""
        return self._opening

    @opening.setter
    def opening(self, opening: Opening) -> None:
        self._opening = msgspec.structs.replace(opening, pid=os.getpid())

    def tell(self, message: AnyMessage) -> None:
        """Tell the recorder and everybody who watches."""
        self._recorder.send(message)
        with self._lock:
            for watcher in self._watchers.values():
                watcher.send(message)

    def record(self, message: AnyMessage) -> None:
        """Tell the recorder."""
        self._recorder.send(message)

    def refresh(self, now_s: float) -> bool:
        """Once a second: look who watches now, and say with what this process runs. Returns whether it was time.

        Args:
            now_s: CLOCK_MONOTONIC.
        """
        if now_s < self._next_s:
            return False
        self._next_s = now_s + _REFRESH_S
        self._find_watchers()
        self.tell(self.opening)
        return True

    def close(self) -> None:
        """Tell nobody any more."""
        with self._lock:
            for listener in (self._recorder, *self._watchers.values()):
                listener.close()
            self._watchers.clear()

    def _find_watchers(self) -> None:
        try:
            names = {name.removesuffix(".sock") for name in os.listdir(self._sockets) if _is_watcher(name)}
        except OSError:
            names = set()
        with self._lock:
            for name in self._watchers.keys() - names:
                self._watchers.pop(name).close()
            # Files of watchers that crashed add up, and a process has only so many descriptors.
            for name in sorted(names - self._watchers.keys())[: _MOST_WATCHERS - len(self._watchers)]:
                self._watchers[name] = Outbox(self._sockets, name)


def _is_watcher(name: str) -> bool:
    return name.startswith("watch.") and name.endswith(".sock")
