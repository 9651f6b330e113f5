"""Somebody who comes late: what the gate said last, and what the base is told, must reach them; exit code 0 then."""

from __future__ import annotations

import sys
import time
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticStatus
from geometry_msgs.msg import Twist

from edge_bdl_firmware.ros import topics

_PATIENCE_S = 8.0


def main() -> int:
    """Join, listen, leave."""
    heard: dict[str, Any] = {}
    rclpy.init()
    node = rclpy.create_node("late_joiner")
    state = f"/{topics.GATE_NODE}/state"
    node.create_subscription(DiagnosticStatus, state, lambda said: heard.update(state=said), topics.STATE.qos)
    node.create_subscription(Twist, topics.CMD_VEL_OUT.name, lambda said: heard.update(command=said), 10)
    end_s = time.monotonic() + _PATIENCE_S
    while len(heard) < 2 and time.monotonic() < end_s:
        rclpy.spin_once(node, timeout_sec=0.1)
    node.destroy_node()
    rclpy.shutdown()
    return 0 if len(heard) == 2 else 1


if __name__ == "__main__":
    sys.exit(main())
