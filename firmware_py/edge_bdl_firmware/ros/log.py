"""What a node says to people: on stderr and on /rosout, without ever making the node wait for who reads it."""

from __future__ import annotations

import sys
from typing import Any

from edge_bdl_firmware.background import Background

_SLOWEST_READER_S = 0.2


class NodeLog:
    """The log of one node. Lines are lost where nobody has read the last ones for long.

    Args:
        node: Whose.
    """

    def __init__(self, node: Any) -> None:
        self._name = node.get_name()
        self._rosout = node.get_logger()
        self._background = Background("log")

    def info(self, line: str) -> None:
        """Something worth knowing."""
        self._rosout.info(line)
        self._write("INFO", line)

    def warning(self, line: str) -> None:
        """Something that a person should look at."""
        self._rosout.warning(line)
        self._write("WARN", line)

    def finish(self) -> None:
        """Say what waits, and no more."""
        self._background.finish(_SLOWEST_READER_S)

    def _write(self, severity: str, line: str) -> None:
        self._background.put(lambda: print(f"[{severity}] [{self._name}]: {line}", file=sys.stderr, flush=True))
