"""What comes instead of one good command after the other."""

from __future__ import annotations

import math
import threading
import time

import rclpy
from geometry_msgs.msg import Twist

from edge_bdl_firmware.ros import topics
from fault_campaign.base import Axes
from fault_campaign.bounds import CONTROLLER_S, HANDOFF_S, MARGIN_S, NO_COMMAND_S, TICK_S
from fault_campaign.fault import HANDOFF, NOMINAL, Fault
from fault_campaign.harness import Run
from fault_campaign.robot import MARK, twist_of

_NO_NUMBER = (math.nan, math.inf, -math.inf)
_LOOK_S = 1.0  # how often a gate looks who else commands the base
_HANDOFF = "one camera period, the ramp of a second, one tick and the margin"


def _not_finite(run: Run) -> None:
    """One axis of six, any of them."""
    robot, usual = run.robot, run.robot.axes
    axis, value = int(run.rng.integers(6)), float(run.rng.choice(_NO_NUMBER))

    def axes(now_s: float) -> Axes:
        command = list(usual(now_s))
        command[axis] = value
        return tuple(command)

    run.strike()
    robot.axes = axes


def _stops(run: Run) -> None:
    run.strike()
    run.robot.commands_paused = True


def _bursts(run: Run) -> None:
    """A hundred commands at once, twenty times a second."""
    robot, usual = run.robot, run.robot.axes

    def axes(now_s: float) -> Axes:
        for _ in range(99):
            robot.send(usual(time.monotonic()))
        return usual(time.monotonic())

    run.strike()
    robot.axes = axes


class _Stranger:
    """Another node that commands: on the way to the base, or on the way to the gate."""

    def __init__(self, topic: str, axes: Axes, name: str) -> None:
        self._node = rclpy.create_node(name)
        self._publisher = self._node.create_publisher(Twist, topic, 10)
        self._ending = threading.Event()
        self._message = twist_of(axes)
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def kill(self) -> None:
        """Stop."""
        self._ending.set()
        self._thread.join()
        self._node.destroy_node()

    def wait(self) -> None:
        """As of a process: it has ended."""

    def _work(self) -> None:
        while not self._ending.wait(CONTROLLER_S):
            self._publisher.publish(self._message)


def _second_publisher(run: Run) -> None:
    run.strike()
    run.harness.extras.append(_Stranger(topics.CMD_VEL_OUT.name, (0.2, 0.0, MARK, 0.0, 0.0, 0.0), "stranger"))


def _turning(run: Run) -> None:
    """The robot turns on the spot, and then sees what it does not know."""
    run.robot.axes = lambda now_s: (0.0, 0.0, 0.0, 0.0, 0.0, run.robot.turn * (1.2 + math.sin(3.0 * now_s)))
    _alarm_soon(run)


def _reversing(run: Run) -> None:
    """The robot drives backward in a curve, and then sees what it does not know."""
    robot = run.robot
    robot.axes = lambda now_s: (-robot.speed, 0.0, 0.0, 0.0, 0.0, robot.turn * math.sin(3.0 * now_s))
    _alarm_soon(run)


def _alarm_soon(run: Run) -> None:
    time.sleep(0.3)
    run.strike()
    run.robot.see(run.robot.scenery.alarming)


FAULTS = {
    "NaN in the command": Fault(_not_finite, NOMINAL, CONTROLLER_S + MARGIN_S, "one controller period and the margin"),
    "command stops": Fault(_stops, NOMINAL, NO_COMMAND_S, "command timeout, one tick and the margin"),
    "command bursts": Fault(_bursts, NOMINAL, watch_s=1.5),
    "second publisher": Fault(
        _second_publisher,
        frozenset({"HOLD"}),
        _LOOK_S + TICK_S + 3 * MARGIN_S,
        "the gate's own output: it looks once a second; discovery, one tick and the margin",
        watch_s=2.0,
    ),
    "reverse": Fault(_reversing, HANDOFF, HANDOFF_S, _HANDOFF, watch_s=1.8, bad_evidence=True),
    "rotate in place": Fault(_turning, HANDOFF, HANDOFF_S, _HANDOFF, watch_s=1.8, bad_evidence=True),
}
