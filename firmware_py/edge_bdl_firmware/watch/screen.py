"""The terminal, borrowed: a second screen to draw on, and everything as it was afterwards."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from edge_bdl_firmware.watch.view import Look

# DEC private modes as every terminal of today knows them: the second screen, no line wrap, no cursor.
_ENTER = "\x1b[?1049h\x1b[?7l\x1b[?25l"
_LEAVE = "\x1b[?25h\x1b[?7h\x1b[?1049l"
_HOME, _CLEAR_LINE, _CLEAR_BELOW = "\x1b[H", "\x1b[K", "\x1b[J"


class Screen:
    """A context in which whole frames are drawn over each other."""

    def __enter__(self) -> Screen:
        self._write(_ENTER)
        return self

    def __exit__(self, *exception: object) -> None:
        self._write(_LEAVE)

    @property
    def size(self) -> tuple[int, int]:
        """Columns and rows, as they are now."""
        columns, rows = os.get_terminal_size(sys.stdout.fileno())
        return columns or 80, rows or 24

    def draw(self, lines: Sequence[str]) -> None:
        """Show these lines and nothing else; in one piece, so that nothing flickers."""
        self._write(_HOME + "\r\n".join(_CLEAR_LINE + text for text in lines) + _CLEAR_BELOW)

    def _write(self, text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()


def is_terminal() -> bool:
    """Whether stdout is a terminal that can be drawn on."""
    return sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"


def look_of_stdout() -> Look:
    """What stdout can show: text alone where it is no terminal, no colour where NO_COLOR (no-color.org) is set."""
    terminal = is_terminal()
    try:
        "█░│→".encode(sys.stdout.encoding)
        unicode = True
    except UnicodeEncodeError:
        unicode = False
    return Look(attributes=terminal, colour=terminal and not os.environ.get("NO_COLOR"), unicode=unicode)
