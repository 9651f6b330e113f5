"""A short drive that ends with silence, watched on odometry. Whatever happens, zeros are the last that is sent."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import msgspec
from rclpy.duration import Duration

from edge_bdl_firmware.doctor import observation as seen
from edge_bdl_firmware.doctor.base_timeout import LONGEST_STOP_S, moving_speed
from edge_bdl_firmware.doctor.observation import Drive, Motion, Observation
from edge_bdl_firmware.ros import topics
from edge_bdl_firmware.ros.doctor_node import DoctorNode, message_class
from edge_bdl_firmware.ros.velocity import Velocity, velocity

_PERIOD_S, _MATCH_S, _DELIVERY_S = 0.05, 2.0, 0.5
_LATEST_ODOMETRY_S = 0.5  # after the time by which the base should stand
_LISTEN_S = 1.0
_ZEROS = 5


class DriveOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What ``--move`` was asked to do.

    Attributes:
        base_topic: Command here; None: cmd_vel_in, through the gate.
        odometry: Topic that tells how the base moves.
        speed: Forward, m/s.
        seconds: How long commands are sent.
    """

    base_topic: str | None = None
    odometry: str = "odom"
    speed: float = 0.1
    seconds: float = 0.3


class _Driver:
    """Commands one topic, and watches odometry."""

    def __init__(self, node: DoctorNode, topic: str, kind: Velocity, options: DriveOptions) -> None:
        self._node, self._kind, self._options = node, kind, options
        self.motions: list[Motion] = []
        self.others = 0  # commands that somebody else sent
        odometry = message_class("nav_msgs/msg/Odometry")
        self._listening = (
            node.create_subscription(odometry, options.odometry, self._on_odometry, topics.IMAGE.qos),
            node.create_subscription(kind.message, topic, self._on_command, topics.CMD_VEL_IN.qos),
        )
        self._out: Any = None
        self._topic = topic

    def listen(self, interrupted: Callable[[], bool]) -> None:
        """See how things are before anything is sent."""
        self._node.spin(time.monotonic() + _LISTEN_S, interrupted)

    def go(self, interrupted: Callable[[], bool]) -> float:
        """Command, fall silent, wait until the base stands or should; returns when silence began.

        Raises:
            KeyboardInterrupt: A signal came; the base was told to stop.
        """
        node, options = self._node, self._options
        node.destroy_subscription(self._listening[1])  # or our own commands would come back
        self._out = node.create_publisher(self._kind.message, self._topic, topics.CMD_VEL_OUT.qos)
        try:
            node.spin(time.monotonic() + _MATCH_S, interrupted, lambda: self._out.get_subscription_count() > 0)
            last_s = end_s = time.monotonic()
            end_s += options.seconds
            while time.monotonic() < end_s:
                last_s = time.monotonic()
                self._send(options.speed)
                node.spin(min(last_s + _PERIOD_S, end_s), interrupted)
            limit_s = last_s + LONGEST_STOP_S
            node.spin(limit_s + _LATEST_ODOMETRY_S, interrupted, lambda: self.motions[-1].time_s >= limit_s)
            return last_s
        finally:
            self._stop()

    def _stop(self) -> None:
        for _ in range(_ZEROS):
            self._send(0.0)
            time.sleep(_PERIOD_S)
        self._out.wait_for_all_acked(Duration(seconds=_DELIVERY_S))

    def _send(self, speed: float) -> None:
        self._out.publish(self._kind.write((speed, *(0.0,) * (self._kind.axes - 1)), (), True))

    def _on_odometry(self, message: Any) -> None:
        linear, position = message.twist.twist.linear, message.pose.pose.position
        speed = math.hypot(linear.x, linear.y)
        # What is not a number does not stand still.
        speed = speed if math.isfinite(speed) else math.inf
        self.motions.append(Motion(time.monotonic(), speed, position.x, position.y))

    def _on_command(self, message: Any) -> None:
        self.others += 1


def drive(node: DoctorNode, observation: Observation, options: DriveOptions, interrupted: Callable[[], bool]) -> Drive:
    """Drive a little, fall silent, and see when the base stands.

    Args:
        node: Has watched the system.
        observation: What it saw.
        options: What to do.
        interrupted: Whether a signal came.

    Raises:
        KeyboardInterrupt: A signal came; the base was told to stop.
    """
    through_gate = options.base_topic is None
    topic = observation.topics[seen.CMD_VEL_IN].name if through_gate else observation.base_topic or ""
    planned = Drive(topic=topic, through_gate=through_gate, speed=options.speed)
    kinds = _types(observation, topic)
    if len(kinds) != 1 or message_class(next(iter(kinds))) is None:
        wrong = f"it is subscribed to with {' and '.join(sorted(kinds))}" if kinds else "nobody subscribes to it"
        return _refused(planned, f"{topic} cannot be commanded: {wrong}", "name the topic that the base listens to")
    driver = _Driver(node, topic, _velocity(node, next(iter(kinds))), options)
    driver.listen(interrupted)
    if driver.others:
        remedy = "end what commands it; the base's own timeout is seen without gate, guard and twist_mux"
        return _refused(planned, f"others send commands on {topic}, and would stop it or drive it", remedy)
    if not driver.motions:
        name = node.resolve_topic_name(options.odometry)
        return _refused(planned, f"no odometry comes on {name}", "name its topic with --odom")
    if driver.motions[-1].speed > moving_speed(options.speed):
        return _refused(planned, "it is moving already", "bring the robot to a stand first")
    last_s = driver.go(interrupted)
    return msgspec.structs.replace(planned, last_command_s=last_s, motions=tuple(driver.motions))


def _types(observation: Observation, topic: str) -> set[str]:
    known = observation.velocities.get(topic)
    return set() if known is None else {subscriber.type for subscriber in known.subscribers}


def _velocity(node: DoctorNode, type_name: str) -> Velocity:
    return velocity(
        ackermann=type_name.endswith("/AckermannDriveStamped"),
        stamped=type_name.endswith("/TwistStamped"),
        now=lambda: node.get_clock().now().to_msg(),
    )


def _refused(planned: Drive, why: str, remedy: str) -> Drive:
    return msgspec.structs.replace(planned, refusal=why, refusal_remedy=remedy)
