"""What a process tells those who only listen: the recorder and the watchers. Lost where nobody is there."""

from __future__ import annotations

import os
from pathlib import Path

from edge_bdl_firmware.local.channel import Outbox
from edge_bdl_firmware.messages import AnyMessage, Opening

_REFRESH_S = 1.0


class Telemetry:
    """The listeners of one process.

    Args:
        sockets: Folder of their sockets.
        opening: What the process runs with; told once a second, because anybody may come late.
    """

    def __init__(self, sockets: Path, opening: Opening) -> None:
        self.opening = opening
        self._sockets = sockets
        self._recorder = Outbox(sockets, "recorder")
        self._watchers: dict[str, Outbox] = {}
        self._next_s = 0.0

    def tell(self, message: AnyMessage) -> None:
        """Tell the recorder and everybody who watches."""
        self._recorder.send(message)
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

    def _find_watchers(self) -> None:
        try:
            names = {name.removesuffix(".sock") for name in os.listdir(self._sockets) if _is_watcher(name)}
        except OSError:
            names = set()
        for name in self._watchers.keys() - names:
            self._watchers.pop(name).close()
        for name in names - self._watchers.keys():
            self._watchers[name] = Outbox(self._sockets, name)


def _is_watcher(name: str) -> bool:
    return name.startswith("watch.") and name.endswith(".sock")
