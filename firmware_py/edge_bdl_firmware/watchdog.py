"""Tells the service manager that this process is ready, stops, and lives: sd_notify(3) in a few lines.

Only a process that gets on with its work may say that it lives. Every part of it that can hang by itself counts what
it has done, and the watchdog is fed when all of the counters have risen; a timer in a process whose worker hangs would
otherwise vouch for it for ever. The service manager then ends the process with SIGABRT and starts it again.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Mapping


class Watchdog:
    """Speaks to the service manager that started this process; says nothing, at no cost, where none did.

    Args:
        parts: By name, a function that returns how much its part has done since the start, such as ticks. A part that
            has a reason to rest counts its waiting too: what counts is that it would notice work.
        clock: Monotonic, seconds.
    """

    def __init__(self, parts: Mapping[str, Callable[[], int]], clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._parts = dict(parts)
        self._address = _address(os.environ.get("NOTIFY_SOCKET", ""))
        self._socket: socket.socket | None = None
        if self._address is not None:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self._socket.setblocking(False)
        self.interval_s = _interval_s() if self._address is not None else None
        self._done = self._progress()
        self._sent_s = -float("inf")

    def ready(self, status: str = "") -> None:
        """Say that the start is over; the service manager counts the watchdog's time from here."""
        self._send("READY=1", *_status(status))

    def status(self, text: str) -> None:
        """Say in one line how things stand; ``systemctl status`` shows it."""
        self._send(*_status(text))

    def stopping(self) -> None:
        """Say that this process ends on purpose."""
        self._send("STOPPING=1")

    def beat(self) -> bool:
        """Ping if it is time to; call it in every round of the process's loop. Returns whether a ping went out."""
        if self.interval_s is None or self._clock() - self._sent_s < self.interval_s:
            return False
        return self.ping()

    def ping(self) -> bool:
        """Ping if every part has progressed since the last ping that went out; returns whether this one did."""
        done = self._progress()
        if not all(done[name] > before for name, before in self._done.items()):
            return False
        # A ping that nobody took has not been sent: the next round tries again.
        if not self._send("WATCHDOG=1"):
            return False
        self._done, self._sent_s = done, self._clock()
        return True

    def close(self) -> None:
        """Say no more."""
        if self._socket is not None:
            self._socket.close()
        self._socket = self.interval_s = None

    def _progress(self) -> dict[str, int]:
        return {name: done() for name, done in self._parts.items()}

    def _send(self, *lines: str) -> bool:
        """Send and never wait: a service manager that is behind must not hold up a tick."""
        if self._socket is None or self._address is None or not lines:
            return False
        try:
            self._socket.sendto("\n".join(lines).encode(), self._address)
        except OSError:
            return False
        return True


def _address(name: str) -> str | None:
    """Where to send: a path, or a name in the abstract namespace, which is written with an @ for its leading NUL."""
    if name.startswith("@"):
        return "\0" + name[1:]
    return name if name.startswith("/") else None


def _interval_s() -> float | None:
    """Half of what the service manager allows between two pings; None where it does not watch this process."""
    watched = os.environ.get("WATCHDOG_PID")
    if watched and watched != str(os.getpid()):
        return None
    allowed_us = os.environ.get("WATCHDOG_USEC", "")
    # Anything but a number never comes from systemd; without pings it would restart us, which is the safe mistake.
    return int(allowed_us) / 2e6 if allowed_us.isascii() and allowed_us.isdigit() and int(allowed_us) else None


def _status(text: str) -> tuple[str, ...]:
    """The text as one assignment; a line break in it would start another."""
    return (f"STATUS={' '.join(text.split())}",) if text else ()
