"""What else is on a robot, each a node as simple as can be: what a doctor is shown.

    python players.py '{"camera": {"rate_hz": 20}, "base": {"timeout_s": null}}'

The keys are functions below, or such a name, a dot and anything, to have two of a kind.
"""

from __future__ import annotations

import json
import math
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from geometry_msgs.msg import Twist
from nav_msgs.msg import Odometry
from rclpy.duration import Duration
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import Image
from std_srvs.srv import SetBool

from edge_bdl.bundle import Bundle
from edge_bdl_firmware.ros.conversions import stamp_of

MASKS = Path(__file__).parents[2] / "bundles" / "tiny_masks.ebdl"
ODOMETRY_HZ = 50.0


def camera(rate_hz: float = 20.0, skew_s: float = 0.0, stamped: bool = True) -> Node:
    """Images on which the bundle is sure of itself, with a sensor's noise."""
    node, generator = Node("camera"), np.random.default_rng(0)
    clear = Bundle.open(MASKS).golden()["input.frame"][0, 0].astype(int)
    out = node.create_publisher(Image, "image", 1)

    def shoot() -> None:
        pixels = np.clip(clear + generator.integers(-2, 3, clear.shape), 0, 255).astype(np.uint8)
        height, width, _ = pixels.shape
        message = Image(height=height, width=width, step=3 * width, encoding="rgb8", data=pixels.tobytes())
        if stamped:
            message.header.stamp = stamp_of(time.time_ns() + round(skew_s * 1e9))
        out.publish(message)

    node.create_timer(1.0 / rate_hz, shoot)
    return node


def controller(
    topic: str = "cmd_vel_in",
    rate_hz: float = 20.0,
    speed: float = 0.0,
    reliable: bool = True,
    name: str = "controller",
) -> Node:
    """Always the same command."""
    node = Node(name)
    out = node.create_publisher(Twist, topic, _qos(reliable))
    message = Twist()
    message.linear.x = speed
    node.create_timer(1.0 / rate_hz, lambda: out.publish(message))
    return node


def base(topic: str = "cmd_vel_out", timeout_s: float | None = 0.5, name: str = "base", odometry: bool = True) -> Node:
    """Drives as commanded, until nothing has come for ``timeout_s`` (None: for ever), and prints every command."""
    node = Node(name)
    out = node.create_publisher(Odometry, "odom", 10) if odometry else None
    speed, x, last_s = 0.0, 0.0, -math.inf

    def take(message: Twist) -> None:
        nonlocal speed, last_s
        speed, last_s = message.linear.x, time.monotonic()
        print(speed, flush=True)

    def move() -> None:
        nonlocal speed, x
        if timeout_s is not None and time.monotonic() - last_s > timeout_s:
            speed = 0.0
        x += speed / ODOMETRY_HZ
        message = Odometry()
        message.twist.twist.linear.x, message.pose.pose.position.x = speed, x
        if out is not None:
            out.publish(message)

    node.create_subscription(Twist, topic, take, 10)
    node.create_timer(1.0 / ODOMETRY_HZ, move)
    return node


def mux(source: str, target: str) -> Node:
    """Passes commands on, as twist_mux does."""
    node = Node("twist_mux")
    out = node.create_publisher(Twist, target, 10)
    node.create_subscription(Twist, source, out.publish, 10)
    return node


def display(topic: str, deadline_s: float | None = None, name: str = "display") -> Node:
    """Listens."""
    node, qos = Node(name), _qos(True)
    if deadline_s is not None:
        qos.deadline = Duration(seconds=deadline_s)
    node.create_subscription(Twist, topic, lambda message: None, qos)
    return node


def clock() -> Node:
    """The time of a simulation."""
    node = Node("simulator")
    out = node.create_publisher(Clock, "/clock", 1)
    node.create_timer(0.05, lambda: out.publish(Clock(clock=stamp_of(time.monotonic_ns()))))
    return node


def person(service: str) -> Node:
    """Asks for something again and again."""
    node = Node("person")
    client = node.create_client(SetBool, service)
    node.create_timer(0.2, lambda: client.call_async(SetBool.Request(data=True)))
    return node


PLAYERS = {
    "camera": camera, "controller": controller, "base": base, "mux": mux, "display": display, "clock": clock,
    "person": person,
}  # fmt: skip


def _qos(reliable: bool) -> QoSProfile:
    return QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT)


def main(players: dict[str, dict[str, Any]]) -> None:
    rclpy.init()
    executor = SingleThreadedExecutor()
    nodes = [PLAYERS[name.partition(".")[0]](**options) for name, options in players.items()]
    for node in nodes:
        executor.add_node(node)
    executor.spin()


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
