"""A bare rclpy node with the gate's endpoints and none of its work: what ROS alone costs, for gate_cost.py.

Every 50 ms it publishes a zero Twist and a heartbeat, like the gate; its callbacks do nothing.
"""

from __future__ import annotations

import signal
import sys
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from geometry_msgs.msg import Twist
from rclpy.clock import Clock, ClockType
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions
from std_msgs.msg import Bool
from std_srvs.srv import SetBool, Trigger

from edge_bdl_firmware.ros import topics

PERIOD_S = 0.05


class BareNode(Node):
    """The gate's name, topics, services and QoS."""

    def __init__(self) -> None:
        super().__init__(topics.GATE_NODE)
        self.create_subscription(DiagnosticArray, topics.ASSESSMENT_IN.name, _nothing, topics.ASSESSMENT_IN.qos)
        self.create_subscription(Twist, topics.CMD_VEL_IN.name, _nothing, topics.CMD_VEL_IN.qos)
        self._out = self.create_publisher(Twist, *topics.CMD_VEL_OUT)
        self._heartbeat = self.create_publisher(Bool, *topics.HEARTBEAT)
        self.create_publisher(DiagnosticStatus, *topics.STATE)
        self.create_publisher(DiagnosticArray, *topics.DIAGNOSTICS)
        self.create_publisher(Bool, *topics.LOCK)
        self.create_service(Trigger, topics.ACKNOWLEDGE, _answer)
        self.create_service(SetBool, topics.TAKE_CONTROL, _answer)
        self.create_service(SetBool, topics.SET_BYPASS, _answer)
        self.create_timer(PERIOD_S, self._tick, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def _tick(self) -> None:
        self._out.publish(Twist())
        self._heartbeat.publish(Bool(data=True))


def _nothing(message: object) -> None:
    pass


def _answer(request: object, response: Any) -> Any:
    return response


def main() -> None:
    """Spin until a signal comes."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    executor = SingleThreadedExecutor()
    node = BareNode()
    executor.add_node(node)
    try:
        executor.spin()
    finally:
        node.destroy_node()
        rclpy.try_shutdown()


if __name__ == "__main__":
    main()
