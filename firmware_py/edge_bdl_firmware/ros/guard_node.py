"""The guard as a ROS 2 node: zeros for the base when the gate's heartbeat is lost."""

from __future__ import annotations

import time
from typing import Any

from rclpy.clock import Clock, ClockType
from rclpy.duration import Duration
from rclpy.node import Node
from std_msgs.msg import Bool

from edge_bdl_firmware.guard import HEARTBEAT_TIMEOUT_S, Guard
from edge_bdl_firmware.ros import topics
from edge_bdl_firmware.ros.log import NodeLog
from edge_bdl_firmware.ros.parameters import Row, declare, values_of
from edge_bdl_firmware.ros.velocity import velocity

_PERIOD_S = 0.05
_DELIVERY_S = 0.2

ROWS = (
    Row("heartbeat_timeout_s", HEARTBEAT_TIMEOUT_S, "Silence after which the gate is lost.", 0.15, 1.0, read_only=True),
    Row("enable_stamped_cmd_vel", False, "Commands are TwistStamped, as the gate's.", read_only=True),
    Row("ackermann", False, "Commands are AckermannDriveStamped, as the gate's.", read_only=True),
)


class GuardNode(Node):  # type: ignore[misc]
    """``edge_bdl_guard``.

    Raises:
        InputError: A parameter asks for messages that are not installed.
    """

    def __init__(self) -> None:
        super().__init__(topics.GUARD_NODE)
        self._log = NodeLog(self)
        declare(self, ROWS)
        values = values_of(self, ROWS)
        self._velocity = velocity(
            ackermann=bool(values["ackermann"]),
            stamped=bool(values["enable_stamped_cmd_vel"]),
            now=lambda: self.get_clock().now().to_msg(),
        )
        self._guard = Guard(float(values["heartbeat_timeout_s"]))
        self._stopping = False
        self._ticks = 0
        self.parts = {"tick": lambda: self._ticks}
        self._out = self.create_publisher(self._velocity.message, topics.CMD_VEL_OUT.name, topics.CMD_VEL_OUT.qos)
        self.create_subscription(Bool, topics.HEARTBEAT_IN.name, self._on_beat, topics.HEARTBEAT_IN.qos)
        self.create_timer(_PERIOD_S, self._tick, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def stop(self) -> None:
        """Nothing to say where the gate lives; the last zero, if there was one, is delivered."""
        self._out.wait_for_all_acked(Duration(seconds=_DELIVERY_S))
        self._log.finish()

    def _on_beat(self, message: Any) -> None:
        # Its receipt counts, not what it says: one that was held up somewhere is no news.
        self._guard.beat(time.monotonic())

    def _tick(self) -> None:
        self._ticks += 1
        must_stop = self._guard.must_stop(time.monotonic())
        if must_stop:
            self._out.publish(self._velocity.write((0.0,) * self._velocity.axes, (), False))
        if must_stop != self._stopping:
            self._stopping = must_stop
            self._log.warning("no heartbeat of the gate: zeros" if must_stop else "the gate is back")
