"""``edge-bdl run``: the whole loop without ROS: starts monitor, gate and recorder, and says what was decided."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from edge_bdl.commands.arguments import BundleParser, add_engine, add_json, add_samples, open_bundle, positive
from edge_bdl.commands.output import columns, print_json
from edge_bdl.errors import EdgeBdlError
from edge_bdl.policy import Level
from edge_bdl_firmware.local.channel import Inbox
from edge_bdl_firmware.messages import AnyMessage, Assessment, Step
from edge_bdl_firmware.sources import open_source

_START_S = 20.0  # a gate on a busy board; a bundle's hashes take their time
_STOP_S = 10.0
_POLL_S = 0.1
_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class ProcessFailedError(EdgeBdlError):
    """One of the processes ended on its own; it has said why."""


def run(argv: Sequence[str]) -> int:
    """Run the verb; returns the exit code: 1 where not one frame could be assessed.

    Raises:
        EdgeBdlError: Bad usage, a bundle that is not sound, a source that cannot be opened, or a process that failed.
    """
    parser = BundleParser("run", "Run monitor and gate over a source of frames, and say what was decided.")
    parser.add_argument(
        "--source",
        required=True,
        help="a folder of frames, FILE.mcap[:TOPIC], /dev/videoN, or socket: what other programs send to --sockets",
    )
    parser.add_argument("--rate", metavar="HZ", type=positive, help="frames a second (default: 20, or the recording's)")
    add_samples(parser)
    parser.add_argument("--record", metavar="OUT.mcap", type=Path, help="record all of it")
    parser.add_argument("--sockets", metavar="DIR", type=Path, help="folder of the sockets (default: one of this run)")
    parser.add_argument("--state", metavar="FILE", type=Path, help="where a latched STOP is kept (default: nowhere)")
    add_engine(parser)
    add_json(parser)
    options = parser.parse_args(argv)
    # Whoever ends us, the processes are ended in their order and the recording is finished.
    for number in _ENDING:
        signal.signal(number, signal.default_int_handler)
    # What is wrong with the arguments is said once, here, and not by each of the processes.
    bundle = open_bundle(options)
    if options.rate is not None:
        bundle.manifest.policy.at_rate(options.rate)
    if options.source != "socket":
        open_source(options.source, options.rate).close()
    story = Story(loud=not options.json)
    with tempfile.TemporaryDirectory(prefix="edge-bdl-") as temporary:
        sockets = options.sockets or Path(temporary) / "sockets"
        with Inbox(sockets, f"watch.{os.getpid()}") as inbox:
            code = _loop(inbox, story, _command_lines(options, sockets, Path(temporary)))
    if options.json:
        print_json(story.facts())
    else:
        print(story.text())
    return code or story.exit_code()


def _command_lines(options: Any, sockets: Path, temporary: Path) -> dict[str, list[str]]:
    """The processes by name, in the order of their start."""
    key = [] if options.trusted_key is None else ["--trusted-key", str(options.trusted_key)]
    common = [str(options.bundle), *key, "--sockets", str(sockets)]
    lines = {}
    if options.record is not None:
        lines["record"] = ["record", "--continuous", str(options.record), "--sockets", str(sockets)]
    lines["gate"] = ["gate", *common, "--state", str(options.state or temporary / "gate.state")]
    source = f"socket:{sockets}" if options.source == "socket" else options.source
    lines["monitor"] = ["monitor", *common, "--source", source, "--threads", str(options.threads)]
    for name in ("engine", "samples"):
        value = getattr(options, name)
        lines["monitor"] += [] if value is None else [f"--{name}", str(value)]
    if options.rate is not None:
        lines["gate"] += ["--camera-rate", str(options.rate)]
        lines["monitor"] += ["--rate", str(options.rate)]
    return lines


class Story:
    """What a run was like, gathered from what its processes tell.

    Args:
        loud: Print every change of level as it comes.
    """

    def __init__(self, *, loud: bool) -> None:
        self._loud = loud
        self.steps: list[Step] = []  # those that were taken for an assessment
        self.assessments: dict[int, Assessment] = {}
        self.heard_gate = False
        self._level: str | None = None
        self._start_s: float | None = None

    def hear(self, message: AnyMessage) -> None:
        """Take note of a message."""
        if isinstance(message, Assessment):
            self.assessments[message.sequence] = message
        elif isinstance(message, Step):
            self.heard_gate = True
            self._start_s = message.now_s if self._start_s is None else self._start_s
            if message.trigger == "assessment":
                self.steps.append(message)
            if self._loud and message.level != self._level:
                print(f"{message.now_s - self._start_s:9.2f} s  {message.level}: {message.reason}", flush=True)
            self._level = message.level

    def exit_code(self) -> int:
        """1 where nothing could be assessed."""
        return int(self._faults() == len(self.assessments))

    def facts(self) -> dict[str, Any]:
        """For machines."""
        return {
            "frames": len(self.assessments),
            "faults": self._faults(),
            "dropped": self._dropped(),
            "level_s": self._times(),
            "p50_ms": self._latency_ms(),
            "ticks": [
                {
                    "time_s": step.now_s - self.steps[0].now_s,
                    "frame": step.assessment,
                    "level": step.level,
                    "speed_factor": step.speed_factor,
                    "reason": step.reason,
                    "scores": assessment.scores if assessment is not None else {},
                }
                for step, assessment in self._pairs()
            ],
        }

    def text(self) -> str:
        """For people."""
        if not self.assessments:
            return "no frames came"
        times = self._times()
        total_s = sum(times.values())
        rows = [(level, f"{s:.2f} s", f"{s / total_s:.0%}" if total_s > 0.0 else "") for level, s in times.items()]
        speed = sum(step.speed_factor for step in self.steps) / max(len(self.steps), 1)
        latency_ms = self._latency_ms()
        head = [
            f"{len(self.assessments)} frames, {self._faults()} without valid evidence, {self._dropped()} dropped",
            f"mean speed factor {speed:.2f}",
            *([] if latency_ms is None else [f"image in to assessment out p50 {latency_ms:.2f} ms"]),
        ]
        return "\n".join([", ".join(head), columns(rows), *self._first_fault()])

    def _first_fault(self) -> list[str]:
        faults = [entry.fault for entry in self.assessments.values() if entry.fault is not None]
        return [f"first fault: {faults[0]}"] if faults else []

    def _pairs(self) -> Iterator[tuple[Step, Assessment | None]]:
        for step in self.steps:
            yield step, None if step.assessment is None else self.assessments.get(step.assessment)

    def _times(self) -> dict[str, float]:
        """Seconds in each level; a decision lasts until the next."""
        seconds = {level.value: 0.0 for level in Level}
        for step, following in itertools.pairwise(self.steps):
            seconds[step.level] += following.now_s - step.now_s
        return seconds

    def _faults(self) -> int:
        return sum(entry.fault is not None for entry in self.assessments.values())

    def _dropped(self) -> int:
        return max((entry.dropped for entry in self.assessments.values()), default=0)

    def _latency_ms(self) -> float | None:
        latencies = [entry.stages_ms["all"] for entry in self.assessments.values() if "all" in entry.stages_ms]
        return float(np.median(latencies)) if latencies else None


def _loop(inbox: Inbox, story: Story, lines: dict[str, list[str]]) -> int:
    """Start the processes, listen until the monitor ends, and end the others; returns the monitor's exit code."""
    with ExitStack() as stack:
        processes: dict[str, subprocess.Popen[bytes]] = {}
        for name, line in lines.items():
            if name == "monitor":
                _await_gate(inbox, story, processes)
            processes[name] = stack.enter_context(_process(line))
        try:
            while processes["monitor"].poll() is None:
                _listen(inbox, story)
                _check_alive(processes)
            _listen(inbox, story)
        except KeyboardInterrupt:
            for number in _ENDING:
                signal.signal(number, signal.SIG_IGN)  # ending the others takes its time
            return 0
        return processes["monitor"].returncode


def _await_gate(inbox: Inbox, story: Story, processes: dict[str, subprocess.Popen[bytes]]) -> None:
    until_s = time.monotonic() + _START_S
    while not story.heard_gate:
        _listen(inbox, story)
        _check_alive(processes)
        if time.monotonic() > until_s:
            raise ProcessFailedError(f"the gate did not start within {_START_S:g} s")


def _listen(inbox: Inbox, story: Story) -> None:
    message = inbox.receive(_POLL_S)
    while message is not None:
        story.hear(message)
        message = inbox.receive()


def _check_alive(processes: dict[str, subprocess.Popen[bytes]]) -> None:
    for name, process in processes.items():
        if name != "monitor" and process.poll() is not None:
            raise ProcessFailedError(f"edge-bdl {name} ended with exit code {process.returncode}")


@contextmanager
def _process(line: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    """One of our verbs as a process, ended at the end. What it says is heard only where it fails: we tell the story."""
    with tempfile.TemporaryFile() as said:
        # A group of its own: Ctrl-C in the terminal is for us, and we end them in their order. Nobody outlives us.
        child = [sys.executable, "-m", "edge_bdl_firmware.child", str(os.getpid()), *line]
        process = subprocess.Popen(child, stderr=said, start_new_session=True)
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            if process.returncode:
                said.seek(0)
                print(said.read().decode(errors="replace"), end="", file=sys.stderr)
