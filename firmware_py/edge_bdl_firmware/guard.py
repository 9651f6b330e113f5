"""Zeros when the gate's heartbeat is lost. No network, no policy: small enough to be right.

A base that holds its last command drives on when the gate dies; this is who stops it then.
"""

from __future__ import annotations

HEARTBEAT_TIMEOUT_S = 0.25


class Guard:
    """Listens to one gate's heart.

    Args:
        timeout_s: A heart that has not beaten for so long is lost. One that never did is as well.
    """

    def __init__(self, timeout_s: float = HEARTBEAT_TIMEOUT_S) -> None:
        self._timeout_s = timeout_s
        self._beat_s: float | None = None

    def beat(self, now_s: float) -> None:
        """The gate's heart beat.

        Args:
            now_s: CLOCK_MONOTONIC: when it did, where that is known, but no later than its receipt.
        """
        self._beat_s = now_s

    def must_stop(self, now_s: float) -> bool:
        """Whether a zero must be sent now."""
        return self._beat_s is None or not 0.0 <= now_s - self._beat_s <= self._timeout_s
