"""The ROS 2 side: the same monitor, gate and guard as nodes. Only what is below here imports rclpy and its messages."""

from __future__ import annotations

from collections.abc import Sequence

from edge_bdl.errors import require


def require_ros(verb: str, *packages: str) -> None:
    """Import rclpy and message packages, or say how to get them.

    Args:
        verb: Who needs them, such as ``ros-gate``.
        packages: Of messages.

    Raises:
        MissingExtraError: One of them is not installed.
    """
    for package in ("rclpy", *packages):
        require(package, "ros", f"by edge-bdl {verb} (on a robot source its ROS first, /opt/ros/NAME/setup.bash; else)")


def split_arguments(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """A verb's own arguments, and those of ROS: from ``--ros-args`` to the end or to ``--``."""
    own: list[str] = []
    ros: list[str] = []
    inside = False
    for argument in argv:
        inside = inside or argument == "--ros-args"
        (ros if inside else own).append(argument)
        inside = inside and argument != "--"
    return own, ros
