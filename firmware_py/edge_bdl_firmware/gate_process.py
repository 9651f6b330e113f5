"""What the gates with and without ROS have in common: every event becomes a step, and every step is told to all.

The order is the point: the command goes out first, then the step to whoever records or watches, and what may block, the
disk and the log, is done by a thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from edge_bdl.policy_spec import PolicySpec
from edge_bdl_firmware.background import Background
from edge_bdl_firmware.gate import Gate, GateConfig
from edge_bdl_firmware.local.channel import Outbox
from edge_bdl_firmware.messages import Assessment, Command, Heartbeat, Human, Opening, Step
from edge_bdl_firmware.state_file import Latch, StateFile
from edge_bdl_firmware.telemetry import Telemetry

_SLOWEST_JOB_S = 1.0  # a disk or a log that takes longer may never come back


class GateProcess:
    """A gate and its surroundings.

    Args:
        gate: Decides.
        state_file: Where a latched STOP is kept.
        sockets: Folder of the sockets of recorder, guard and watchers.
        opening: What is told to the recorder and to watchers.
        publish: Sends a step's output to the wheels; called first of all.
        log: Writes one line for people; called by a thread.
    """

    def __init__(
        self,
        gate: Gate,
        state_file: StateFile,
        sockets: Path,
        opening: Opening,
        publish: Callable[[Step], object],
        log: Callable[[str], object],
    ) -> None:
        self.gate = gate
        self.ticks = 0
        self.telemetry = Telemetry(sockets, opening)
        self._state_file, self._publish, self._log = state_file, publish, log
        self._guard = Outbox(sockets, "guard")
        self._background = Background("state and log")
        self._disk_fault: str | None = None
        self._latched = False  # a STOP that the gate comes up in is written too: its file may have been unusable
        self._last: Step | None = None
        self._tell_start(time.monotonic())

    @property
    def last(self) -> Step | None:
        """The newest step."""
        return self._last

    def tick(self, late_ms: float = 0.0) -> Step:
        """Time passed."""
        slow = self._background.busy_s() > _SLOWEST_JOB_S
        self.gate.object("disk", "the disk or the log does not answer" if slow else self._disk_fault)
        now_s = time.monotonic()
        step = self._take(self.gate.tick(now_s, late_ms))
        self._guard.send(Heartbeat(now_s=now_s))
        self.ticks += 1
        if self.telemetry.refresh(now_s):
            self.telemetry.record(self.gate.snapshot(now_s))
            if self._disk_fault is not None:
                self._persist(step)
        return step

    def assess(self, assessment: Assessment) -> Step:
        """An assessment came."""
        return self._take(self.gate.assess(time.monotonic(), assessment))

    def refuse(self, fault: str) -> Step:
        """Something came instead of an assessment."""
        return self._take(self.gate.refuse(time.monotonic(), fault))

    def command(self, command: Command) -> Step | None:
        """A command came."""
        step = self.gate.command(time.monotonic(), command)
        return None if step is None else self._take(step)

    def human(self, human: Human) -> Step:
        """A person did something."""
        self.telemetry.record(human)
        return self._take(self.gate.human(time.monotonic(), human))

    def reconfigure(self, spec: PolicySpec, config: GateConfig, opening: Opening) -> None:
        """Take other times, and tell it to whoever records: a replay begins anew here."""
        self.gate.reconfigure(spec, config)
        self.telemetry.opening = opening
        self._tell_start(time.monotonic())

    def stop(self) -> None:
        """Send a last zero, whatever the level, and end the thread."""
        self.gate.object("stop", "the gate is being stopped")
        step = self.gate.tick(time.monotonic())
        self._take(msgspec.structs.replace(step, output=(0.0,) * len(step.output)))
        self._background.finish(_SLOWEST_JOB_S)

    def _tell_start(self, now_s: float) -> None:
        """Say from what on a replay can begin anew."""
        self.telemetry.tell(self.telemetry.opening)
        self.telemetry.record(self.gate.snapshot(now_s))

    def _take(self, step: Step) -> Step:
        before, self._last = self._last, step
        # An assessment that changes nothing needs no command of its own.
        if before is None or step.trigger != "assessment" or step.output != before.output:
            self._publish(step)
        self.telemetry.tell(step)
        if before is None or step.level != before.level:
            self.telemetry.record(self.gate.snapshot(step.now_s))
            self._background.put(lambda: self._log(f"{step.level}: {step.reason}"))
        if self.gate.latched != self._latched:
            self._persist(step)
        return step

    def _persist(self, step: Step) -> None:
        latch = Latch(self.gate.latched, f"{step.level}: {step.reason}")

        def write() -> None:
            try:
                self._state_file.write(latch)
            except (OSError, ValueError) as error:
                self._disk_fault = f"a latched STOP cannot be kept: {error}"
            else:
                self._disk_fault = None

        # Where it is not taken it is tried again at the next step, for as long as the two differ.
        if self._background.put(write):
            self._latched = latch.latched
