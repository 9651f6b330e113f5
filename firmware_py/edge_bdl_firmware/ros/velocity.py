"""The kinds of commands that a gate can take and give: one class each.

What a kind does not scale it keeps, such as a steering angle: to slow a car down by straightening its wheels would send
it off the road.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from geometry_msgs.msg import Twist, TwistStamped, Vector3

from edge_bdl.errors import InputError
from edge_bdl_firmware.messages import Command


class Velocity(Protocol):
    """One kind of command.

    Attributes:
        message: The ROS type.
        axes: How many numbers the gate scales.
    """

    message: Any
    axes: int

    def read(self, message: Any) -> Command:
        """What came in."""

    def write(self, output: Sequence[float], kept: Sequence[float], whole: bool) -> Any:
        """What goes out.

        Args:
            output: The axes, scaled.
            kept: What passes untouched; empty before the first command.
            whole: Nothing limits the command.
        """


class PlainTwist:
    """``geometry_msgs/Twist``: all six axes, alike, so that a curve keeps its radius."""

    message, axes = Twist, 6

    def read(self, message: Any) -> Command:
        """What came in."""
        return Command(axes=_axes_of(message))

    def write(self, output: Sequence[float], kept: Sequence[float], whole: bool) -> Any:
        """What goes out."""
        return _twist_of(output)


class StampedTwist:
    """``geometry_msgs/TwistStamped``: the same, stamped when it goes out.

    Args:
        now: The present ROS time.
    """

    message, axes = TwistStamped, 6

    def __init__(self, now: Callable[[], Any]) -> None:
        self._now = now
        self._frame_id = ""

    def read(self, message: Any) -> Command:
        """What came in."""
        self._frame_id = message.header.frame_id
        return Command(axes=_axes_of(message.twist))

    def write(self, output: Sequence[float], kept: Sequence[float], whole: bool) -> Any:
        """What goes out."""
        message = TwistStamped(twist=_twist_of(output))
        message.header.stamp, message.header.frame_id = self._now(), self._frame_id
        return message


class Ackermann:
    """``ackermann_msgs/AckermannDriveStamped``: the speed is scaled, the steering is kept.

    Acceleration and jerk are what the speed may be reached with, and 0 means as fast as the vehicle can. They pass with
    a speed that passes whole; one that was made smaller must not be approached as gently as the old one.

    Args:
        now: The present ROS time.

    Raises:
        InputError: ackermann_msgs is not installed.
    """

    axes = 1

    def __init__(self, now: Callable[[], Any]) -> None:
        try:
            from ackermann_msgs.msg import AckermannDriveStamped
        except ModuleNotFoundError as error:
            raise InputError(
                "the parameter ackermann needs ackermann_msgs: apt-get install ros-$ROS_DISTRO-ackermann-msgs"
            ) from error
        self.message = AckermannDriveStamped
        self._now = now
        self._frame_id = ""

    def read(self, message: Any) -> Command:
        """What came in."""
        self._frame_id = message.header.frame_id
        drive = message.drive
        kept = (drive.steering_angle, drive.steering_angle_velocity, drive.acceleration, drive.jerk)
        return Command(axes=(drive.speed,), kept=kept)

    def write(self, output: Sequence[float], kept: Sequence[float], whole: bool) -> Any:
        """What goes out."""
        message = self.message()
        message.header.stamp, message.header.frame_id = self._now(), self._frame_id
        drive = message.drive
        (drive.speed,) = output
        if kept:
            drive.steering_angle, drive.steering_angle_velocity, acceleration, jerk = kept
            if whole:
                drive.acceleration, drive.jerk = acceleration, jerk
        return message


def velocity(*, ackermann: bool, stamped: bool, now: Callable[[], Any]) -> Velocity:
    """The kind of command that the parameters ask for.

    Raises:
        InputError: It is not installed.
    """
    if ackermann:
        return Ackermann(now)
    return StampedTwist(now) if stamped else PlainTwist()


def _axes_of(twist: Any) -> tuple[float, ...]:
    linear, angular = twist.linear, twist.angular
    return (linear.x, linear.y, linear.z, angular.x, angular.y, angular.z)


def _twist_of(axes: Sequence[float]) -> Any:
    x, y, z, roll, pitch, yaw = axes
    return Twist(linear=Vector3(x=x, y=y, z=z), angular=Vector3(x=roll, y=pitch, z=yaw))
