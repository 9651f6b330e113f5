"""What is worth a recording: the level fell."""

from __future__ import annotations

from edge_bdl_firmware.messages import AnyMessage, Step

_DRIVING = ("NOMINAL", "SLOW")
_ALARMING = ("SLOW", "HANDOFF", "STOP")


class LevelFell:
    """Answers each message with a reason to record, where it is one.

    A level that is there when the recorder starts has not fallen, and the HOLD that a robot comes up in, or is
    acknowledged into, is no incident.
    """

    def __init__(self) -> None:
        self._level: str | None = None

    def __call__(self, message: AnyMessage) -> str | None:
        """Why to record from here on; None where this message is no reason."""
        if not isinstance(message, Step):
            return None
        before, self._level = self._level, message.level
        if before in (None, message.level):
            return None
        fell = message.level in _ALARMING or (message.level == "HOLD" and before in _DRIVING)
        return f"{before} -> {message.level}: {message.reason}" if fell else None
