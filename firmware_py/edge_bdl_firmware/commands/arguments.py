"""What the verbs of the vehicle have in common on their command lines."""

from __future__ import annotations

import argparse
from pathlib import Path

from edge_bdl.commands.arguments import Parser
from edge_bdl_firmware.local.channel import socket_folder

_MOST_AXES = 64


def add_sockets(parser: Parser) -> None:
    """``--sockets`` of processes that talk to each other without ROS."""
    parser.add_argument(
        "--sockets",
        metavar="DIR",
        type=Path,
        default=socket_folder(),
        help="folder of the sockets between the processes (default: $EDGE_BDL_SOCKETS, else %(default)s)",
    )


def add_axes(parser: Parser) -> None:
    """``--axes`` of processes that send commands."""
    parser.add_argument(
        "--axes", metavar="N", type=_axes, default=6, help="numbers of a command (default: %(default)s, a Twist's)"
    )


def _axes(text: str) -> int:
    number = whole_number(text)
    if not 1 <= number <= _MOST_AXES:
        raise argparse.ArgumentTypeError(f"expected 1 to {_MOST_AXES} numbers of a command, got {text}")
    return number


def whole_number(text: str) -> int:
    """A whole number, 0 included."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a whole number, got {text!r}")
    return int(text)
