"""A robot around the gate and the guard: they are real processes, it is a node in here."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import IO, Any

from edge_bdl.bundle import Bundle
from edge_bdl_firmware.local.channel import Inbox
from edge_bdl_firmware.messages import AnyMessage, Assessment, Step, boot_id

PATIENCE_S = 30.0
MASKS = Path(__file__).parents[2] / "bundles" / "tiny_masks.ebdl"
ASSESSMENTS, COMMANDS, OUTPUTS, STATE = (
    "edge_bdl_monitor/assessment", "cmd_vel_in", "cmd_vel_out", "edge_bdl_gate/state",
)  # fmt: skip


class Robot:
    """Everything around the nodes: their processes, and a node that feeds and hears them."""

    def __init__(self, node: Any, executor: Any, folder: Path, inbox: Inbox) -> None:
        self.node, self.folder = node, folder
        self._executor, self._inbox = executor, inbox
        self.processes: list[subprocess.Popen[str]] = []
        self._sequence = count()
        self.steps: list[Step] = []
        self.told: list[AnyMessage] = []
        self.heard: dict[str, list[Any]] = {}
        self.manifest = Bundle.open(MASKS).manifest
        self.digest = Bundle.open(MASKS).digest
        self.scores = {name: 0.5 * at.slow for name, at in self.limits().items()}
        self._publishers: dict[str, Any] = {}

    # --- processes ---

    def start(self, verb: str, *arguments: object, stderr: int | IO[str] | None = None) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "edge_bdl.cli", verb, *map(str, arguments)]
        log = self.folder / f"{len(self.processes)}-{verb}.stderr"
        with log.open("w") as file:
            process = subprocess.Popen(command, text=True, stdout=subprocess.DEVNULL, stderr=stderr or file)
        self.processes.append(process)
        return process

    def gate(self, **parameters: object) -> subprocess.Popen[str]:
        """A gate whose steps come in here; it loosens fast where nothing else is said."""
        process = self.start("ros-gate", MASKS, *ros_arguments(**{"loosen_per_s": 10.0, **parameters}))
        self.hear_steps()
        return process

    def log(self) -> str:
        """What the processes said."""
        return "".join(path.read_text() for path in sorted(self.folder.glob("*.stderr")))

    # --- time ---

    def spin(self, seconds: float) -> None:
        until_s = time.monotonic() + seconds
        while time.monotonic() < until_s:
            self._executor.spin_once(0.01)
            while (message := self._inbox.receive()) is not None:
                self.told.append(message)
                if isinstance(message, Step):
                    self.steps.append(message)

    def until(self, true: Callable[[], Any], what: str) -> None:
        """Spin until something is so."""
        until_s = time.monotonic() + PATIENCE_S
        while not true():
            assert time.monotonic() < until_s, f"not within {PATIENCE_S:g} s: {what}\n{self.steps[-1:]}\n{self.log()}"
            self.spin(0.01)

    # --- topics ---

    def hear(self, kind: Any, topic: str, qos: Any = 10) -> list[Any]:
        messages: list[Any] = self.heard.setdefault(topic, [])
        self.node.create_subscription(kind, topic, messages.append, qos)
        return messages

    def hear_steps(self) -> None:
        """Until the gate's steps come in here: it looks for its watchers once a second."""
        already = len(self.steps)
        self.until(lambda: len(self.steps) > already, "steps of the gate")

    def publisher(self, kind: Any, topic: str) -> Any:
        """A publisher that somebody hears."""
        if topic not in self._publishers:
            self._publishers[topic] = self.node.create_publisher(kind, topic, 10)
        publisher = self._publishers[topic]
        self.until(lambda: publisher.get_subscription_count() > 0, f"a subscriber of {topic}")
        return publisher

    def twist(self, *axes: float) -> Any:
        from edge_bdl_firmware.ros.velocity import PlainTwist

        return PlainTwist().write((*axes, *(0.0,) * (6 - len(axes))), (), True)

    def send(self, *axes: float) -> None:
        """A command."""
        from geometry_msgs.msg import Twist

        self.publisher(Twist, COMMANDS).publish(self.twist(*axes))

    def assess(self, **fields: Any) -> Assessment:
        """An assessment of a good frame that came just now, where nothing else is said."""
        from diagnostic_msgs.msg import DiagnosticArray

        from edge_bdl_firmware.ros.conversions import diagnostics_of_assessment

        sequence = next(self._sequence)
        whole: dict[str, Any] = {
            "sequence": sequence, "stamp_ns": sequence, "received_s": time.monotonic(), "boot_id": boot_id(),
            "bundle": self.digest, "scores": self.scores, "samples": self.manifest.bank.members,
        }  # fmt: skip
        assessment = Assessment(**{**whole, **fields})
        self.publisher(DiagnosticArray, ASSESSMENTS).publish(diagnostics_of_assessment(assessment))
        return assessment

    def limits(self) -> dict[str, Any]:
        at = {score.name: score.at(self.manifest.bank.members) for score in self.manifest.policy.scores}
        return {name: limits for name, limits in at.items() if limits is not None}

    @contextmanager
    def feeding(self, send: Callable[[], object] | None = None, **fields: Any) -> Iterator[None]:
        """Assessments and commands at 30 and 20 a second, whenever the robot spins."""
        timers = [self.node.create_timer(1 / 30, lambda: self.assess(**fields))]
        if send is not None:
            timers.append(self.node.create_timer(1 / 20, send))
        try:
            yield
        finally:
            for timer in timers:
                self.node.destroy_timer(timer)

    def drive(self) -> None:
        """Spin, while fed, until a command passes whole."""
        self.until(lambda: self.steps and self.steps[-1].speed_factor == 1.0 and any(self.steps[-1].output), "driving")

    def until_level(self, level: str) -> Step:
        already = len(self.steps)
        self.until(lambda: any(step.level == level for step in self.steps[already:]), level)
        return next(step for step in self.steps[already:] if step.level == level)

    def call(self, kind: Any, service: str, request: Any) -> Any:
        """The answer of a service; a request that went to a node which was killed is made again."""
        client = self.node.create_client(kind, service)
        future = None
        while future is None or not future.done():
            self.until(client.service_is_ready, service)
            future = client.call_async(request)
            for _ in range(200):
                if not future.done():
                    self.spin(0.01)
        self.node.destroy_client(client)
        return future.result()


def ros_arguments(**parameters: object) -> list[str]:
    texts = {name: str(value).lower() if isinstance(value, bool) else str(value) for name, value in parameters.items()}
    return ["--ros-args", *(part for name, text in texts.items() for part in ("-p", f"{name}:={text}"))]


def ended(process: subprocess.Popen[str], number: signal.Signals | None = None) -> int:
    """Its exit code, after a signal."""
    if number is not None:
        process.send_signal(number)
    return process.wait(PATIENCE_S)
