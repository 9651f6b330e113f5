"""``edge-bdl guard``: zeros when the gate's heartbeat is lost."""

from __future__ import annotations

from collections.abc import Sequence

from edge_bdl.commands.arguments import Parser
from edge_bdl_firmware.commands.arguments import add_axes, add_sockets
from edge_bdl_firmware.local.guard import run_guard


def guard(argv: Sequence[str]) -> int:
    """Run the verb; returns the exit code.

    Raises:
        EdgeBdlError: Bad usage, or another guard that runs here.
    """
    parser = Parser("guard", "Send zeros when the gate's heartbeat is lost, until a signal ends it.")
    add_sockets(parser)
    add_axes(parser)
    options = parser.parse_args(argv)
    return run_guard(options.sockets, options.axes)
