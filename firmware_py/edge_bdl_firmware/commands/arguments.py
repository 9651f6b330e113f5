"""What the verbs of the vehicle have in common on their command lines."""

from __future__ import annotations

import argparse
from pathlib import Path

from edge_bdl.commands.arguments import Parser
from edge_bdl_firmware.local.channel import socket_folder


def add_sockets(parser: Parser) -> None:
    """``--sockets`` of processes that talk to each other without ROS."""
    parser.add_argument(
        "--sockets",
        metavar="DIR",
        type=Path,
        default=socket_folder(),
        help="folder of the sockets between the processes (default: $EDGE_BDL_SOCKETS, else %(default)s)",
    )


def whole_number(text: str) -> int:
    """A whole number, 0 included."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a whole number, got {text!r}")
    return int(text)
