"""Kinds of commands, in the gate's process: what is scaled, and what is not."""

from __future__ import annotations

import importlib.util
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("rclpy", reason="needs the extra ros")

from builtin_interfaces.msg import Time
from geometry_msgs.msg import Twist, TwistStamped, Vector3

from edge_bdl.errors import InputError
from edge_bdl_firmware.ros.velocity import PlainTwist, StampedTwist, velocity

from .robot import COMMANDS, OUTPUTS, Robot, ended

BUILDER = Path(__file__).parents[1] / "build_messages.py"


@pytest.fixture(scope="session")
def built_messages() -> Path:
    """The folder with ackermann_msgs and nav2_msgs, built where the machine can."""
    specification = importlib.util.spec_from_file_location("build_messages", BUILDER)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    try:
        return Path(module.build(module.CACHE))
    except module.CannotBuildError as error:
        pytest.skip(str(error))


@pytest.fixture
def more_messages(built_messages: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Both message packages can be imported, here and in processes that are started."""
    monkeypatch.setenv("PYTHONPATH", str(built_messages))
    monkeypatch.syspath_prepend(str(built_messages))
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] in ("ackermann_msgs", "nav2_msgs")]:
        del sys.modules[name]


def test_a_twist_is_its_six_axes() -> None:
    twist = Twist(linear=Vector3(x=1.0, y=2.0, z=3.0), angular=Vector3(x=-1.0, y=-2.0, z=-3.0))
    command = PlainTwist().read(twist)
    assert command.axes == (1.0, 2.0, 3.0, -1.0, -2.0, -3.0)
    assert PlainTwist().write(command.axes, (), True) == twist


def test_a_stamped_twist_keeps_its_frame_and_gets_the_present_stamp() -> None:
    kind = StampedTwist(lambda: Time(sec=5, nanosec=6))
    message = TwistStamped()
    message.header.frame_id, message.twist.linear.x = "base_link", 0.5
    written = kind.write(kind.read(message).axes, (), True)
    assert (written.header.frame_id, written.header.stamp, written.twist) == (
        "base_link",
        Time(sec=5, nanosec=6),
        message.twist,
    )


def test_messages_that_are_not_installed_are_said_with_how_to_get_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ackermann_msgs", None)
    with pytest.raises(InputError, match="apt-get install ros-\\$ROS_DISTRO-ackermann-msgs"):
        velocity(ackermann=True, stamped=False, now=Time)


def test_a_gate_of_stamped_twists_stamps_what_it_lets_pass(robot: Robot) -> None:
    outputs = robot.hear(TwistStamped, OUTPUTS)
    robot.gate(enable_stamped_cmd_vel=True)
    message = TwistStamped(twist=robot.twist(0.5))
    message.header.frame_id = "base_link"
    with robot.feeding(lambda: robot.publisher(TwistStamped, COMMANDS).publish(message)):
        robot.drive()
        robot.until(lambda: outputs[-1].twist == message.twist, "the command")
    assert outputs[-1].header.frame_id == "base_link"
    assert outputs[-1].header.stamp.sec > 0


def test_a_car_is_slowed_down_and_steers_on(robot: Robot, more_messages: None) -> None:
    from ackermann_msgs.msg import AckermannDriveStamped
    from nav2_msgs.msg import SpeedLimit

    outputs = robot.hear(AckermannDriveStamped, OUTPUTS)
    limits = robot.hear(SpeedLimit, "speed_limit")
    process = robot.gate(ackermann=True, speed_limit=True, slow_budget_s=60.0)
    message = AckermannDriveStamped()
    wanted: Any = message.drive
    wanted.speed, wanted.acceleration, wanted.jerk = 2.0, 0.5, 0.25
    wanted.steering_angle, wanted.steering_angle_velocity = -0.25, 0.125

    def send() -> None:
        robot.publisher(AckermannDriveStamped, COMMANDS).publish(message)

    robot.until(lambda: limits, "a limit")
    assert {(limit.percentage, limit.speed_limit) for limit in limits} == {(True, 1.0)}, "0 would mean no limit"
    with robot.feeding(send):
        robot.drive()
        robot.until(lambda: outputs[-1].drive == wanted, "the whole command")
        robot.until(lambda: limits[-1].speed_limit == 100.0, "no limit")
    limit = robot.limits()["total"]
    with robot.feeding(send, scores={**robot.scores, "total": 0.5 * (limit.slow + limit.handoff)}):
        robot.until(lambda: robot.steps[-1].level == "SLOW" and any(robot.steps[-1].output), "SLOW")
        robot.spin(0.3)
        drive = outputs[-1].drive
    assert 0.0 < drive.speed < 2.0
    assert (drive.acceleration, drive.jerk) == (0.0, 0.0), "as fast as the vehicle can"
    robot.until_level("HOLD")
    robot.until(lambda: outputs[-1].drive.speed == 0.0, "zeros")
    for said in (drive, outputs[-1].drive):
        assert (said.steering_angle, said.steering_angle_velocity) == (
            wanted.steering_angle,
            wanted.steering_angle_velocity,
        )
    assert ended(process, signal.SIGTERM) == 0
