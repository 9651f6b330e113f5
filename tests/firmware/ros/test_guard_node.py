"""The guard's node as a process, beside a real gate."""

from __future__ import annotations

import signal
import time

import pytest

pytest.importorskip("rclpy", reason="needs the extra ros")

from geometry_msgs.msg import Twist, TwistStamped

from .robot import OUTPUTS, Robot, ended, ros_arguments


def test_it_sends_zeros_only_while_the_gate_is_lost(robot: Robot) -> None:
    outputs = robot.hear(Twist, OUTPUTS)
    guard = robot.start("ros-guard")
    robot.until(lambda: len(outputs) > 20, "zeros before there is a gate")
    gate = robot.gate()
    robot.until(lambda: "the gate is back" in robot.log(), "the gate's heartbeat")
    with robot.feeding(lambda: robot.send(0.5)):
        robot.drive()
        robot.spin(0.3)
        already = len(outputs)
        robot.spin(1.0)
        assert len(outputs) > already
        assert all(message.linear.x > 0.0 for message in outputs[already:]), "a zero of the guard among the commands"
        assert not any("edge_bdl_guard" in step.reason for step in robot.steps), "the guard is no stranger"
        gate.send_signal(signal.SIGSTOP)  # hangs: no publisher has gone, and nothing but the silence tells
        already = len(outputs)
        robot.until(lambda: len(outputs) > already + 20, "zeros")
        # What the gate said last may still have been on its way.
        zeros = [message.linear.x == 0.0 for message in outputs[already:]]
        assert all(zeros[zeros.index(True) :])
        gate.send_signal(signal.SIGCONT)
        robot.until(lambda: outputs[-1].linear.x > 0.0, "motion: the gate is back")
    assert ended(guard, signal.SIGTERM) == 0


def test_its_zeros_are_of_the_kind_that_the_base_hears(robot: Robot) -> None:
    outputs = robot.hear(TwistStamped, OUTPUTS)
    guard = robot.start("ros-guard", *ros_arguments(enable_stamped_cmd_vel=True))
    robot.until(lambda: outputs, "zeros")
    assert outputs[0].twist == Twist()
    assert outputs[0].header.stamp.sec == pytest.approx(time.time(), abs=60.0)
    assert ended(guard, signal.SIGINT) == 0
