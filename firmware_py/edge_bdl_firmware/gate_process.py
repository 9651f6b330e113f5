"""What the gates with and without ROS have in common: every event becomes a step, and every step is told to all.

The order is the point: the command goes out first, then the step to whoever records or watches, and what may block, the
disk and the log, is done by a thread.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from edge_bdl_firmware.background import Background
from edge_bdl_firmware.gate import Gate
from edge_bdl_firmware.local.channel import Outbox
from edge_bdl_firmware.messages import AnyMessage, Assessment, Command, Heartbeat, Human, Opening, Step
from edge_bdl_firmware.state_file import Latch, StateFile

_SLOWEST_JOB_S = 1.0  # a disk or a log that takes longer may never come back
_SNAPSHOT_S = 1.0


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
        publish: Callable[[Step], None],
        log: Callable[[str], None],
    ) -> None:
        self.gate = gate
        self.ticks = 0
        self.opening = opening
        self._state_file, self._publish, self._log = state_file, publish, log
        self._background = Background("state and log")
        self._latched = gate.latched
        self._last: Step | None = None
        self._sockets = sockets
        self._recorder = Outbox(sockets, "recorder")
        self._guard = Outbox(sockets, "guard")
        self._watchers: dict[str, Outbox] = {}
        self._next_snapshot_s = 0.0
        self._objection: str | None = None  # of the disk

    @property
    def last(self) -> Step | None:
        """The newest step."""
        return self._last

    def tick(self, late_ms: float = 0.0) -> Step:
        """Time passed."""
        now_s = time.monotonic()
        self._look_after_background()
        step = self._take(self.gate.tick(now_s, late_ms))
        self._guard.send(Heartbeat(now_s=now_s))
        self.ticks += 1
        if now_s >= self._next_snapshot_s:
            self._next_snapshot_s = now_s + _SNAPSHOT_S
            self._find_watchers()
            self._tell(self.opening)
            self._recorder.send(self.gate.snapshot(now_s))
        return step

    def assess(self, assessment: Assessment) -> Step:
        """An assessment came."""
        return self._take(self.gate.assess(time.monotonic(), assessment))

    def command(self, command: Command) -> Step | None:
        """A command came."""
        step = self.gate.command(time.monotonic(), command)
        return None if step is None else self._take(step)

    def human(self, human: Human) -> Step:
        """A person did something."""
        self._recorder.send(human)
        return self._take(self.gate.human(time.monotonic(), human))

    def stop(self) -> None:
        """Send a last zero, whatever the level, and end the thread."""
        self.gate.object("stop", "the gate is being stopped")
        step = self.gate.tick(time.monotonic())
        self._take(msgspec.structs.replace(step, output=(0.0,) * len(step.output)))
        self._background.finish(_SLOWEST_JOB_S)

    def _take(self, step: Step) -> Step:
        before, self._last = self._last, step
        # An assessment that changes nothing needs no command of its own.
        if before is None or step.trigger != "assessment" or step.output != before.output:
            self._publish(step)
        self._tell(step)
        if before is None or step.level != before.level:
            self._recorder.send(self.gate.snapshot(step.now_s))
            self._background.put(lambda: self._log(f"{step.level}: {step.reason}"))
        if self.gate.latched != self._latched:
            self._persist(Latch(self.gate.latched, f"{step.level}: {step.reason}"))
        return step

    def _persist(self, latch: Latch) -> None:
        def write() -> None:
            try:
                self._state_file.write(latch)
            except OSError as error:
                self._objection = f"a latched STOP could not be kept: {error}"
            else:
                self._objection = None

        # Not taken: tried again at the next step, for as long as the two differ.
        if self._background.put(write):
            self._latched = latch.latched

    def _look_after_background(self) -> None:
        slow = self._background.busy_s() > _SLOWEST_JOB_S
        self.gate.object("disk", "the disk or the log does not answer" if slow else self._objection)

    def _tell(self, message: AnyMessage) -> None:
        self._recorder.send(message)
        for watcher in self._watchers.values():
            watcher.send(message)

    def _find_watchers(self) -> None:
        try:
            names = {name[: -len(".sock")] for name in os.listdir(self._sockets) if _is_watcher(name)}
        except OSError:
            names = set()
        for name in self._watchers.keys() - names:
            self._watchers.pop(name).close()
        for name in names - self._watchers.keys():
            self._watchers[name] = Outbox(self._sockets, name)


def _is_watcher(name: str) -> bool:
    return name.startswith("watch.") and name.endswith(".sock")
