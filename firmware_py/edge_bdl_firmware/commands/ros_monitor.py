"""``edge-bdl ros-monitor``: the monitor as a ROS 2 node."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edge_bdl.commands.arguments import Parser
from edge_bdl_firmware.ros import require_ros, split_arguments


def ros_monitor(argv: Sequence[str]) -> int:
    """Run the verb; returns the exit code: 1 where a callback raised or the worker died.

    Raises:
        EdgeBdlError: Bad usage or parameters, a bundle that is not sound, or ROS is not installed.
    """
    own, ros = split_arguments(argv)
    parser = Parser("ros-monitor", "The monitor as a ROS 2 node, until a signal ends it. All else are ROS parameters.")
    parser.add_argument("bundle", metavar="BUNDLE", type=Path, nargs="?", help="as the parameter bundle")
    options = parser.parse_args(own)
    require_ros("ros-monitor", "diagnostic_msgs", "lifecycle_msgs", "sensor_msgs")
    from edge_bdl_firmware.ros.monitor_node import MonitorNode
    from edge_bdl_firmware.ros.process import run

    return run(lambda: MonitorNode(options.bundle), ros)
