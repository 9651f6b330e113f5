"""``edge-bdl ros-guard``: the guard as a ROS 2 node."""

from __future__ import annotations

from collections.abc import Sequence

from edge_bdl.commands.arguments import Parser
from edge_bdl_firmware.ros import require_ros, split_arguments


def ros_guard(argv: Sequence[str]) -> int:
    """Run the verb; returns the exit code: 1 where a callback raised.

    Raises:
        EdgeBdlError: Bad usage or parameters, or ROS is not installed.
    """
    own, ros = split_arguments(argv)
    Parser("ros-guard", "The guard as a ROS 2 node, until a signal ends it. All else are ROS parameters.").parse_args(
        own
    )
    require_ros("ros-guard", "geometry_msgs", "std_msgs")
    from edge_bdl_firmware.ros.guard_node import GuardNode
    from edge_bdl_firmware.ros.process import run

    return run(GuardNode, ros)
