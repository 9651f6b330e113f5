"""The processes under test in one ROS domain, and one run of a fault after the other."""

from __future__ import annotations

import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from edge_bdl.bundle import Bundle
from fault_campaign.canary import latest_s
from fault_campaign.robot import Robot
from fault_campaign.scenery import Scenery

_HERE = Path(__file__).parent
# This machine may have others to serve. A robot's computer has not: the processes under test come before them, and the
# harness, which stands for other computers, comes first.
_UNDER_TEST, _FIRST = -10, -15  # nice values
_READY_S, _END_S = 25.0, 3.0
_FULL_SPEED = 0.999

#: The campaign loosens faster than the default 0.5 per second: nothing is asked here of how slowly speed comes back.
LOOSEN = {"loosen_per_s": 2.0}


@dataclass(frozen=True)
class Setup:
    """Which processes a fault needs.

    Attributes:
        faulty_monitor: The real monitor, with an engine and callbacks that fail on demand.
        faulty_gate: The real gate, with callbacks that fail on demand.
        compressed: The camera sends JPEG files.
        gate: Parameters of the gate besides `LOOSEN`.
        recorder: A recorder runs too.
        small_disks: State file and recordings are on file systems of 256 kB of their own.
    """

    faulty_monitor: bool = False
    faulty_gate: bool = False
    compressed: bool = False
    gate: dict[str, Any] = field(default_factory=dict)
    recorder: bool = False
    small_disks: bool = False


class NotReady(Exception):  # noqa: N818
    """The system did not come to NOMINAL."""


class Skip(Exception):  # noqa: N818
    """This machine cannot make this fault."""


class Harness:
    """Robot and processes of one lane.

    Args:
        bundle: What monitor and gate run with.
        scenery: Of the bundle.
        setup: See there.
        domain: ROS domain, of this process's environment too.
    """

    def __init__(self, bundle: Path, scenery: Scenery, setup: Setup, domain: int) -> None:
        self.bundle, self.setup, self.domain = bundle.resolve(), setup, domain
        manifest = Bundle.open(bundle).manifest
        self.spec = manifest.policy
        samples = manifest.bank.members
        limits = {score.name: score.at(samples) for score in self.spec.scores}
        self.slow_limits = {name: limit.slow for name, limit in limits.items() if limit is not None}
        self.folder = Path(tempfile.mkdtemp(prefix="faults-"))
        self.sockets = self.folder / "s"
        self.control = self.folder / "control"
        self.mounts: list[Path] = []
        self.state_folder = self._disk("state")
        self.recordings = self._disk("recordings")
        self._output = (self.folder / "processes.log").open("wb")
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.extras: list[Any] = []
        self.canary_file = self.folder / "canary"
        self._canary: subprocess.Popen[bytes] | None = None
        self.order("")
        self.robot = Robot(scenery, self.sockets, compressed=setup.compressed)

    def __enter__(self) -> Harness:
        with self.canary_file.open("wb") as output:
            canary = [sys.executable, str(_HERE / "canary.py")]
            self._canary = subprocess.Popen(canary, stdout=output, preexec_fn=_under_test)
        self.robot.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.end_extras()
        self._end_processes()
        if self._canary is not None:
            self._canary.kill()
            self._canary.wait()
        self.robot.end()
        self._output.close()
        for mount in self.mounts:
            subprocess.run(["umount", "-l", str(mount)], check=False)
        shutil.rmtree(self.folder, ignore_errors=True)

    def order(self, word: str) -> None:
        """Tell the faulty nodes what to do wrong; the empty word: nothing."""
        fresh = self.control.with_suffix(".new")
        fresh.write_text(word)
        fresh.rename(self.control)

    def start(self, name: str, *, bundle: Path | None = None) -> None:
        """Start a process under test.

        Args:
            name: ``monitor``, ``gate``, ``guard`` or ``recorder``.
            bundle: Another one than the harness's.
        """
        environment = {
            **os.environ,
            "ROS_DOMAIN_ID": str(self.domain),
            "OMP_NUM_THREADS": "1",
        }
        self.processes[name] = subprocess.Popen(
            self._arguments(name, bundle or self.bundle),
            env=environment,
            stdout=self._output,
            stderr=self._output,
            start_new_session=True,
            preexec_fn=_under_test,
        )
        self.robot.log.starts.append((time.monotonic(), name))

    def kill(self, name: str, number: int = signal.SIGKILL) -> None:
        """Send a signal; after a deadly one wait for the end, at most a few seconds."""
        process = self.processes[name]
        self.robot.log.ends.append((time.monotonic(), name))
        process.send_signal(number)
        if number in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT):
            process.wait(_END_S)
            del self.processes[name]

    def alive(self, name: str) -> bool:
        """Whether a process runs."""
        return name in self.processes and self.processes[name].poll() is None

    def run_extra(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Start a Python process of an injection's own, at the priority of those under test."""
        process = subprocess.Popen(
            [sys.executable, *arguments], stdout=self._output, stderr=self._output, preexec_fn=_under_test
        )
        self.extras.append(process)
        return process

    def end_extras(self) -> None:
        """End what an injection started."""
        for process in self.extras:
            process.kill()
            process.wait()
        self.extras.clear()

    def ready(self) -> None:
        """Bring everything to NOMINAL at full speed, as a person would.

        Raises:
            NotReady: It did not get there.
        """
        robot = self.robot
        names = ("guard", "gate", "monitor", *(("recorder",) if self.setup.recorder else ()))
        end_s = time.monotonic() + _READY_S
        if not self.alive("guard"):
            self.start("guard")
            while not robot.log.outputs and time.monotonic() < end_s:  # there is no gate yet: it says zeros
                time.sleep(0.05)
        for name in names:
            if not self.alive(name):
                self.start(name)
        while time.monotonic() < end_s:
            time.sleep(0.1)
            for name in names:
                if not self.alive(name):
                    raise NotReady(f"{name} ended by itself: {self.last_words()}")
            step = robot.log.steps[-1] if robot.log.steps else None
            if step is None or time.monotonic() - step.now_s > 0.5 or not robot.log.outputs:
                continue
            if step.bypass:
                robot.set_bypass(False)
            if step.human_in_control:
                robot.take_control(False)
            if step.level in ("HANDOFF", "STOP") and self._clear():
                robot.acknowledge()
                time.sleep(0.2)
            if step.level == "NOMINAL" and step.speed_factor >= _FULL_SPEED and any(robot.log.outputs[-1].axes):
                return
        raise NotReady(f"not NOMINAL after {_READY_S:g} s: {robot.log.steps[-1:]}; {self.last_words()}")

    def _end_processes(self) -> None:
        """In good order: those who come next in this domain shall not take the dead for strangers."""
        for process in self.processes.values():
            process.send_signal(signal.SIGCONT)
            process.terminate()
        for process in self.processes.values():
            try:
                process.wait(_END_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def last_words(self) -> str:
        """What the processes wrote last."""
        self._output.flush()
        return (self.folder / "processes.log").read_bytes()[-600:].decode(errors="replace")

    def _clear(self) -> bool:
        return bool(self.robot.log.assessments) and self.robot.log.assessments[-1][1].fault is None

    def _arguments(self, name: str, bundle: Path) -> list[str]:
        if name == "recorder":
            return _cli("record", "--folder", self.recordings, "--sockets", self.sockets, "--after", "0.5")
        parameters: dict[str, Any] = {}
        if name == "gate":
            state = self.state_folder / "gate.state"
            parameters = {"bundle": bundle, "state_file": state, "sockets": self.sockets, **LOOSEN, **self.setup.gate}
        elif name == "monitor":
            transport = "compressed" if self.setup.compressed else "raw"
            parameters = {"bundle": bundle, "sockets": self.sockets, "image_transport": transport}
        faulty = (name == "gate" and self.setup.faulty_gate) or (name == "monitor" and self.setup.faulty_monitor)
        start = _cli(f"ros-{name}")
        if faulty:
            start = [sys.executable, str(_HERE / "faulty_node.py"), name, str(self.control)]
        given = [text for key, value in parameters.items() for text in ("-p", f"{key}:={value}")]
        return [*start, "--ros-args", *given] if given else start

    def _disk(self, name: str) -> Path:
        folder = self.folder / name
        folder.mkdir()
        if self.setup.small_disks:
            made = subprocess.run(
                ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)], capture_output=True, text=True
            )
            if made.returncode:
                raise Skip(f"no small file system can be mounted: {made.stderr.strip()}")
            self.mounts.append(folder)
        return folder


class Run:
    """One run of a fault: what an injection may use.

    Args:
        harness: The lane's.
        rng: Of this run.

    Attributes:
        log: Of this run.
        violations: What should never happen, and did.
        begin_s: When the run began.
        fault_s: When the fault was injected.
        end_s: When its consequences were last looked at; after it, the system was healed.
        calm_s: Until when the base should not go far; the end, unless the injection itself lets it drive again.
        final_level: At the end.
    """

    def __init__(self, harness: Harness, rng: np.random.Generator) -> None:
        self.harness, self.robot, self.rng = harness, harness.robot, rng
        self.log = harness.robot.log
        self.violations: list[str] = []
        self.begin_s = self.fault_s = self.end_s = time.monotonic()
        self.calm_s = math.inf
        self.final_level = "?"

    def drives(self) -> bool:
        """Whether the robot drives at the gate's full speed now."""
        outputs, level = self.log.outputs, self.level()
        return level == "NOMINAL" and bool(outputs) and any(outputs[-1].axes)

    def end(self, *, silent: bool) -> None:
        """The consequences have been watched.

        Args:
            silent: Nobody speaks for the gate: its last word says nothing.
        """
        self.end_s = time.monotonic()
        self.calm_s = min(self.calm_s, self.end_s)
        self.final_level = "silent" if silent else self.level()
        self.log.gate_was_silent = silent

    def late_s(self) -> float:
        """How late the machine let processes run, or DDS the harness send, at worst, until now."""
        stalls = [end_s - begin_s for begin_s, end_s in self.log.stalls if begin_s <= self.end_s]
        return max([*stalls, latest_s(self.harness.canary_file, self.begin_s, time.monotonic())])

    def strike(self) -> None:
        """The fault happens now."""
        self.fault_s = time.monotonic()

    def check(self, holds: bool, otherwise: str) -> None:
        """Note a violation unless something holds."""
        if not holds:
            self.violations.append(otherwise)

    def level(self) -> str:
        """The newest, from the gate's state topic."""
        states = self.robot.log.states
        return states[-1][1] if states else "?"

    def until(self, what: str, true: Callable[[], object], within_s: float) -> bool:
        """Wait for something; a violation if it does not come."""
        end_s = time.monotonic() + within_s
        while not true():
            if time.monotonic() > end_s:
                self.violations.append(f"not within {within_s:g} s: {what} (level {self.level()})")
                return False
            time.sleep(0.01)
        return True

    def until_level(self, *levels: str, within_s: float) -> bool:
        """Wait for one of some levels."""
        return self.until(f"level {' or '.join(levels)}", lambda: self.level() in levels, within_s)


def come_first() -> bool:
    """Give this thread, and all that it starts, the harness's priority; returns whether that is permitted."""
    return _set_priority(_FIRST)


def step_back() -> None:
    """Give this thread a priority at which it is in nobody's way."""
    _set_priority(10)


def _under_test() -> None:
    _set_priority(_UNDER_TEST)


def _set_priority(nice: int) -> bool:
    try:
        os.setpriority(os.PRIO_PROCESS, 0, nice)
    except PermissionError:
        return False
    return True


def _cli(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "edge_bdl.cli", *map(str, arguments)]
