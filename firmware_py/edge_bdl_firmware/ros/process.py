"""The main of every node of ours: start, spin in one thread until a signal comes, say a last word, end.

rclpy's own signal handlers shut the context down before a node can publish anything, so they are not used. A callback
that raises ends the process: the service manager starts it again, and until then a node that is half alive would be
worse than none.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import rclpy
from rclpy.exceptions import NameValidationException, ParameterException
from rclpy.executors import SingleThreadedExecutor
from rclpy.signals import SignalHandlerOptions

from edge_bdl.errors import InputError
from edge_bdl_firmware.signals import StopSignals
from edge_bdl_firmware.watchdog import Watchdog

_LONGEST_WAIT_S = 0.1  # a signal that comes while nothing else does is seen after this time
# ROS writes to stderr and to log files with the interpreter locked: where their reader hangs, so would every thread.
# What our nodes say goes out by `NodeLog`, to stderr and to /rosout.
_LOG_ARGUMENTS = ("--ros-args", "--disable-stdout-logs", "--disable-external-lib-logs")
#: Fast DDS without shared memory. There it checks the health of a port whenever a process joins or leaves, and every
#: publisher, whomever it speaks to, waits a third of a second for that, with the interpreter locked
#: (github.com/eProsima/Fast-DDS/issues/6535). Large images need as much room in a socket as the kernel gives.
TRANSPORTS = ("FASTDDS_BUILTIN_TRANSPORTS", "UDPv4?sockets_size=4194304B")


class ProcessNode(Protocol):
    """What `run` needs of a ``Node`` besides being one.

    Attributes:
        parts: What the watchdog watches: by name, a function that counts how much this part has done.
    """

    parts: Mapping[str, Callable[[], int]]

    def stop(self) -> None:
        """Say the last words, such as a zero, and wait a moment until they are delivered."""

    def destroy_node(self) -> None:
        """As every ``Node``."""


def run(make_node: Callable[[], ProcessNode], argv: Sequence[str]) -> int:
    """Be this node until a signal ends it; returns the exit code: 0 after a signal, 1 after a callback raised.

    Args:
        make_node: Builds the node; called when rclpy is ready.
        argv: ROS arguments, ``--ros-args ...``.

    Raises:
        EdgeBdlError: The arguments or parameters make no sense, or the node cannot be built with them.
    """
    signals = StopSignals()
    os.environ.setdefault(*TRANSPORTS)
    try:
        rclpy.init(args=[*argv, *_LOG_ARGUMENTS], signal_handler_options=SignalHandlerOptions.NO)
    except RuntimeError as error:  # all that rcl raises
        raise InputError(f"ROS does not take these arguments: {_first_line(error)}") from error
    try:
        node = _made(make_node)
        try:
            return _spin(node, signals)
        finally:
            node.destroy_node()
    finally:
        rclpy.try_shutdown()


def _made(make_node: Callable[[], ProcessNode]) -> ProcessNode:
    try:
        return make_node()
    except (ParameterException, NameValidationException) as error:
        raise InputError(f"the node cannot start with these ROS arguments: {_first_line(error)}") from error


def _spin(node: ProcessNode, signals: StopSignals) -> int:
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    watchdog = Watchdog(node.parts)
    watchdog.ready()
    failure = None
    try:
        while not signals.asked:
            executor.spin_once(_LONGEST_WAIT_S)
            watchdog.beat()
    except Exception:
        failure = traceback.format_exc()
    # The last zero goes first, whatever the reason is and however long it takes to tell.
    watchdog.stopping()
    node.stop()
    executor.shutdown(0.0)
    watchdog.close()
    if failure is None:
        return 0
    print(failure, file=sys.stderr)
    return 1


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
