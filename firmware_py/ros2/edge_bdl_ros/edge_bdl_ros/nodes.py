"""``ros2 run edge_bdl_ros monitor``, ``gate`` and ``guard``: the same as the verbs of ``edge-bdl``."""

from __future__ import annotations

import sys

from edge_bdl.cli import main


def monitor() -> int:
    """Be the monitor; returns the exit code."""
    return main(["ros-monitor", *sys.argv[1:]])


def gate() -> int:
    """Be the gate; returns the exit code."""
    return main(["ros-gate", *sys.argv[1:]])


def guard() -> int:
    """Be the guard; returns the exit code."""
    return main(["ros-guard", *sys.argv[1:]])
