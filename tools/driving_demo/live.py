"""One drive in real time, through the very processes that run on a robot: ``edge-bdl run`` and a simulated car.

The car is its own program, as a vehicle without ROS would be: it sends camera frames to the monitor and commands to the
gate, and obeys what the gate lets pass. The network steers; the gate limits the speed and never touches the steering.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from drives import PERIOD_S, WITH_HUMAN, Human, Log, Plan
from edge_bdl import Decision, EngineError, Level
from edge_bdl_firmware.local.channel import Inbox, Outbox
from edge_bdl_firmware.messages import Assessment, Command, Frame, Step
from edge_bdl_firmware.messages import Human as HumanAct
from edge_bdl_train.carracing.environment import DrivingEnvironment
from edge_bdl_train.carracing.expert import Expert, hold_speed
from edge_bdl_train.carracing.weather import apply_weather

_STEPS_PER_FRAME = 2  # a camera of 25 Hz
_COMMAND_TIMEOUT_S = 0.5  # what a base must have of its own
_START_S = 30.0


def drive_live(bundle: Path, plan: Plan, record: Path | None = None) -> Log:
    """Drive one plan in real time.

    Args:
        bundle: Of the network that steers.
        plan: What to drive; never without the gate.
        record: Where to record all of it, an MCAP file.

    Raises:
        EngineError: The processes did not start.
    """
    with tempfile.TemporaryDirectory(prefix="edge-bdl-car-") as folder, ExitStack() as stack:
        sockets = Path(folder)
        base = stack.enter_context(Inbox(sockets, "base"))
        watch = stack.enter_context(Inbox(sockets, f"watch.{os.getpid()}"))
        line = ["run", str(bundle), "--source", "socket", "--sockets", str(sockets), "--rate", "25"]
        line += [] if record is None else ["--record", str(record)]
        processes = stack.enter_context(
            subprocess.Popen([sys.executable, "-m", "edge_bdl.cli", *line], stdout=subprocess.DEVNULL)
        )
        try:
            return _Car(plan, sockets, base, watch, lambda: processes.poll() is None).drive()
        finally:
            processes.terminate()


class _Car:
    """The simulated car and who sits in it."""

    def __init__(self, plan: Plan, sockets: Path, base: Inbox, watch: Inbox, alive: Callable[[], bool]) -> None:
        self._plan, self._base, self._watch, self._alive = plan, base, watch, alive
        self._monitor, self._gate = Outbox(sockets, "monitor"), Outbox(sockets, "gate")
        self._environment, self._expert = DrivingEnvironment(), Expert()
        self._human = Human(answers=plan.mode == WITH_HUMAN)
        self._rng = np.random.default_rng(plan.seed)
        self._log = Log(plan)
        self._step: Step | None = None
        self._step_s = 0.0
        self._assessment: Assessment | None = None
        self._sequence = 0

    def drive(self) -> Log:
        """All steps of the plan, 50 a second."""
        self._environment.reset(self._plan.seed)
        self._await_first_assessment()
        next_s = time.monotonic()
        for step in range(self._plan.steps):
            self._listen()
            if step % _STEPS_PER_FRAME == 0:
                self._show(step)
            self._environment.step(self._control(step))
            next_s += PERIOD_S
            time.sleep(max(0.0, next_s - time.monotonic()))
        self._environment.close()
        return self._log

    def _await_first_assessment(self) -> None:
        until_s = time.monotonic() + _START_S
        while self._assessment is None or self._step is None:
            if not self._alive() or time.monotonic() > until_s:
                raise EngineError("monitor and gate did not start; see above")
            self._show(0)
            time.sleep(_STEPS_PER_FRAME * PERIOD_S)
            self._listen()

    def _show(self, step: int) -> None:
        """One camera frame, with the weather of this moment and a sensor's noise."""
        pixels = self._environment.frame
        if self._plan.in_weather(step):
            pixels = apply_weather(self._plan.weather, pixels, self._plan.severity_at(step), self._rng)
        self._monitor.send(_frame(self._sequence, _noisy(pixels, self._rng)))
        self._sequence += 1

    def _listen(self) -> None:
        while (message := self._watch.receive()) is not None:
            if isinstance(message, Assessment):
                self._assessment = message
        while (message := self._base.receive()) is not None:
            if isinstance(message, Step):
                self._step, self._step_s = message, time.monotonic()

    def _control(self, step: int) -> object:
        """Gas, brake and steering of this moment."""
        assert self._step is not None
        assert self._assessment is not None
        car, plan = self._environment.car, self._plan
        decision = Decision(Level(self._step.level), self._step.speed_factor, self._step.reason)
        self._ask_human(decision, clear=not plan.in_weather(step))
        mean = self._assessment.mean
        self._gate.send(Command(axes=(plan.target_speed,), kept=mean[:1]))
        fresh = time.monotonic() - self._step_s <= _COMMAND_TIMEOUT_S
        speed = self._step.output[0] if fresh else 0.0
        self._log.add(
            decision.level, speed / plan.target_speed, self._human.driving, self._environment, self._assessment.scores
        )
        if self._human.driving:
            return self._expert.control(car, self._environment.track, plan.target_speed)
        return hold_speed(mean[0] if mean else 0.0, car, speed)

    def _ask_human(self, decision: Decision, clear: bool) -> None:
        drove = self._human.driving
        self._human.step(decision, clear)
        if self._human.driving != drove:
            self._gate.send(HumanAct(act="take_control" if self._human.driving else "release_control"))


def _noisy(pixels: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """A camera's pixels are never twice the same; a simulator's are, and look like a camera that hangs."""
    noise = rng.integers(-1, 2, pixels.shape, dtype=np.int16)
    return np.clip(pixels + noise, 0, 255).astype(np.uint8)


def _frame(sequence: int, pixels: NDArray[np.uint8]) -> Frame:
    now_ns = time.monotonic_ns()
    height, width, channels = pixels.shape
    return Frame(
        sequence=sequence,
        stamp_ns=now_ns,
        received_s=now_ns * 1e-9,
        encoding="rgb8",
        height=height,
        width=width,
        step=width * channels,
        data=pixels.tobytes(),
    )
