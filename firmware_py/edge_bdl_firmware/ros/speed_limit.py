"""The speed factor for Nav2's controllers, so that they plan with what the gate will let pass."""

from __future__ import annotations

from typing import Any

from edge_bdl.errors import InputError
from edge_bdl_firmware.ros import topics

_LOWEST_PERCENT = 1.0  # 0 means "no limit" in Nav2


class SpeedLimitOut:
    """Publishes ``nav2_msgs/SpeedLimit`` in per cent of the largest speed.

    Args:
        node: Publishes.

    Raises:
        InputError: nav2_msgs is not installed.
    """

    def __init__(self, node: Any) -> None:
        try:
            from nav2_msgs.msg import SpeedLimit
        except ModuleNotFoundError as error:
            raise InputError(
                "the parameter speed_limit needs nav2_msgs: apt-get install ros-$ROS_DISTRO-nav2-msgs"
            ) from error
        self._message = SpeedLimit(percentage=True)
        self._clock = node.get_clock()
        self._out = node.create_publisher(SpeedLimit, topics.SPEED_LIMIT.name, topics.SPEED_LIMIT.qos)

    def tell(self, speed_factor: float) -> None:
        """Publish this factor."""
        self._message.header.stamp = self._clock.now().to_msg()
        self._message.speed_limit = max(_LOWEST_PERCENT, 100.0 * speed_factor)
        self._out.publish(self._message)
