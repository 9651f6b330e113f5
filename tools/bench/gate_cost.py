"""What the gate costs beside a bare rclpy node with the same endpoints, as Markdown, and as JSON on the last line.

    .venv/bin/python tools/bench/gate_cost.py [--repeats 3] [--seconds 20] [--nodes bare gate]

Both get the same: 30 assessments and 20 commands a second. One runs at a time, in turns, each turn alone and beside a
process that keeps one core busy, as the monitor's engine does. PSS counts what is shared with other processes in part,
so it depends on which others run. Jitter is how far the time between two heartbeats, one per tick, is from 50 ms: as
received here, and as sent (DDS stamps what it sends), which leaves the receiver out.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

# Before rclpy is imported: nobody else's nodes in here, and ours nowhere else.
os.environ.update(ROS_DOMAIN_ID=str(1 + os.getpid() % 100))

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import Twist
from rclpy.node import Node
from std_msgs.msg import Bool

from edge_bdl.bundle import Bundle
from edge_bdl.machine import read_machine
from edge_bdl.profiling import percentile_ms
from edge_bdl_firmware.messages import Assessment, boot_id
from edge_bdl_firmware.ros import topics
from edge_bdl_firmware.ros.conversions import diagnostics_of_assessment

ROOT = Path(__file__).parents[2]
PERIOD_S, ASSESSMENT_HZ, COMMAND_HZ = 0.05, 30.0, 20.0
COMMAND_M_S = 0.5
BEFORE_EVIDENCE_S, WARM_UP_S, PATIENCE_S = 1.0, 2.5, 30.0
MOST_ABOVE_BARE_MB, MOST_CPU_PERCENT, MOST_JITTER_MS = 20.0, 7.0, 10.0


class Turn(msgspec.Struct, frozen=True, kw_only=True):
    """One node's measurement in one turn."""

    node: str
    busy_core: bool
    rss_mb: float
    pss_mb: float
    cpu_percent: float
    received_ms: list[float]
    sent_ms: list[float]


class Robot(Node):
    """Everything around the node under test: feeds it, and notes what comes out.

    Args:
        bundle: Digest that the assessments name.
        scores: Value per score, below every threshold.
        samples: Members that the assessments say were used.
    """

    def __init__(self, bundle: str, scores: dict[str, float], samples: int) -> None:
        super().__init__("gate_cost")
        self._bundle, self._scores, self._samples = bundle, scores, samples
        self._sequence = 0
        self.outputs: list[float] = []
        self.received_s: list[float] = []
        self.sent_s: list[float] = []
        self.assessing = False
        self._assessments = self.create_publisher(DiagnosticArray, *topics.ASSESSMENT_IN)
        self._commands = self.create_publisher(Twist, *topics.CMD_VEL_IN)
        self.create_subscription(Twist, topics.CMD_VEL_OUT.name, self._on_output, 10)
        self.create_subscription(Bool, topics.HEARTBEAT_IN.name, self._on_heartbeat, 10)

    def connect(self, process: subprocess.Popen[bytes]) -> None:
        """Wait until everything that is fed is heard, and something comes out."""
        self.create_timer(1 / COMMAND_HZ, self._command)
        self.create_timer(1 / ASSESSMENT_HZ, self._assess)
        matched = (self._assessments.get_subscription_count, self._commands.get_subscription_count)

        def connected() -> bool:
            assert process.poll() is None, f"the node ended with exit code {process.returncode}"
            return bool(self.outputs and self.received_s and all(count() for count in matched))

        wait_for(self, connected)
        self.forget()

    def forget(self) -> None:
        """Start noting anew."""
        self.outputs, self.received_s, self.sent_s = [], [], []

    def _command(self) -> None:
        message = Twist()
        message.linear.x = COMMAND_M_S
        self._commands.publish(message)

    def _assess(self) -> None:
        if not self.assessing:
            return
        self._sequence += 1
        assessment = Assessment(
            sequence=self._sequence,
            stamp_ns=time.time_ns(),
            received_s=time.monotonic(),
            boot_id=boot_id(),
            bundle=self._bundle,
            scores=self._scores,
            samples=self._samples,
        )
        self._assessments.publish(diagnostics_of_assessment(assessment))

    def _on_output(self, message: Twist) -> None:
        self.outputs.append(
            max(abs(axis) for part in (message.linear, message.angular) for axis in (part.x, part.y, part.z))
        )

    def _on_heartbeat(self, message: Bool, info: dict[str, int]) -> None:
        self.received_s.append(time.monotonic())
        self.sent_s.append(info["source_timestamp"] * 1e-9)


def wait_for(robot: Robot, ready: Callable[[], bool]) -> None:
    """Spin until something is so."""
    deadline = time.monotonic() + PATIENCE_S
    while not ready():
        assert time.monotonic() < deadline, f"nothing after {PATIENCE_S:g} s"
        rclpy.spin_once(robot, timeout_sec=0.1)


def spin_for(robot: Robot, seconds: float) -> None:
    """Spin for a time."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        rclpy.spin_once(robot, timeout_sec=left)


def measure(name: str, command: list[str], robot: Robot, busy_core: bool, seconds: float) -> Turn:
    """Start a node, feed it, check what it says, measure it, and stop it."""
    with running(command) as process, keeping_a_core_busy(busy_core):
        robot.connect(process)
        spin_for(robot, BEFORE_EVIDENCE_S)
        assert len(robot.outputs) >= 0.8 * BEFORE_EVIDENCE_S / PERIOD_S, f"{name}: only {len(robot.outputs)} outputs"
        assert not any(robot.outputs), f"{name} let a command pass before there was any evidence"
        robot.assessing = True
        spin_for(robot, WARM_UP_S)
        robot.forget()
        start, cpu = time.monotonic(), _cpu_s(process.pid)
        spin_for(robot, seconds)
        cpu_percent = 100 * (_cpu_s(process.pid) - cpu) / (time.monotonic() - start)
        rss_mb, pss_mb = _memory_mb(process.pid, "status", "VmRSS"), _memory_mb(process.pid, "smaps_rollup", "Pss")
    assert len(robot.outputs) >= 0.95 * seconds / PERIOD_S, f"{name}: only {len(robot.outputs)} outputs"
    assert max(robot.outputs) <= COMMAND_M_S, f"{name} commands more than it was told"
    # The bare one never passes a command on. A gate that did not either would be cheap for the wrong reason.
    assert (max(robot.outputs) > 0) == (name == "gate"), f"{name}: the largest output is {max(robot.outputs)}"
    return Turn(
        node=name,
        busy_core=busy_core,
        rss_mb=rss_mb,
        pss_mb=pss_mb,
        cpu_percent=cpu_percent,
        received_ms=_jitter_ms(robot.received_s),
        sent_ms=_jitter_ms(robot.sent_s),
    )


@contextlib.contextmanager
def running(command: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    """A node process with folders of its own, ended by SIGTERM."""
    with tempfile.TemporaryDirectory() as folder:
        own = {
            name: folder for name in ("HOME", "XDG_STATE_HOME", "XDG_RUNTIME_DIR", "EDGE_BDL_SOCKETS", "ROS_LOG_DIR")
        }
        process = subprocess.Popen(command, env=os.environ | own | {"OMP_NUM_THREADS": "1"})
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(10.0)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                raise


@contextlib.contextmanager
def keeping_a_core_busy(wanted: bool) -> Iterator[None]:
    """A process that computes all the time on the last core that we may use."""
    if not wanted:
        yield
        return
    core = max(os.sched_getaffinity(0))
    script = f"import os\nos.sched_setaffinity(0, [{core}])\nwhile True:\n    pass"
    process = subprocess.Popen([sys.executable, "-c", script])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def _cpu_s(pid: int) -> float:
    # The name of the program, in brackets, may hold blanks: count from behind it. User and system time are 14 and 15.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _memory_mb(pid: int, file: str, field: str) -> float:
    lines = Path(f"/proc/{pid}/{file}").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:")) / 1024


def _jitter_ms(times_s: list[float]) -> list[float]:
    return [float(value) for value in np.abs(np.diff(times_s) - PERIOD_S) * 1e3]


def report(turns: list[Turn]) -> dict[str, Any]:
    """Print the table, and return what it says."""
    rows: dict[tuple[bool, str], dict[str, Any]] = {}
    print("| node | one core busy | RSS MB | PSS MB | CPU % of a core | n | jitter p50 ms | p99 | as sent p50 | p99 |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for busy, node in sorted({(turn.busy_core, turn.node) for turn in turns}):
        same = [turn for turn in turns if (turn.busy_core, turn.node) == (busy, node)]
        row: dict[str, Any] = {"node": node, "busy_core": busy, "turns": len(same)}
        for field in ("rss_mb", "pss_mb", "cpu_percent"):
            row[field] = statistics.median(getattr(turn, field) for turn in same)
        row["cpu_percent_range"] = [pick(turn.cpu_percent for turn in same) for pick in (min, max)]
        for field in ("received_ms", "sent_ms"):
            pooled = np.sort(np.concatenate([getattr(turn, field) for turn in same]))
            row |= {
                "n": len(pooled),
                f"{field}_p50": percentile_ms(pooled, 50),
                f"{field}_p99": percentile_ms(pooled, 99),
            }
        rows[busy, node] = row
        cells = [_cell(row[f"{field}_p{p}"]) for field in ("received_ms", "sent_ms") for p in (50, 99)]
        low, high = row["cpu_percent_range"]
        print(
            f"| {node} | {'yes' if busy else 'no'} | {row['rss_mb']:.1f} | {row['pss_mb']:.1f} "
            f"| {row['cpu_percent']:.2f} ({low:.2f}-{high:.2f}) | {row['n']} | {' | '.join(cells)} |"
        )
    result: dict[str, Any] = {"rows": list(rows.values()), "machine": msgspec.to_builtins(read_machine())}
    if len(rows) == 4:
        result["promises"] = _promises(rows)
    return result


def _cell(value: float | None) -> str:
    return "n too small" if value is None else f"{value:.2f}"


def _promises(rows: dict[tuple[bool, str], dict[str, Any]]) -> list[dict[str, Any]]:
    gate, bare = rows[False, "gate"], rows[False, "bare"]
    promises = []
    print("\n| promise | measured | at most | kept |\n|---|---|---|---|")
    for name, value, most in (
        ("gate above bare, RSS MB", gate["rss_mb"] - bare["rss_mb"], MOST_ABOVE_BARE_MB),
        ("gate, CPU % of a core", gate["cpu_percent"], MOST_CPU_PERCENT),
        ("gate, jitter p99 beside a busy core, ms", rows[True, "gate"]["received_ms_p99"], MOST_JITTER_MS),
    ):
        kept = value is not None and value <= most
        promises.append({"promise": name, "measured": value, "at_most": most, "kept": kept})
        print(f"| {name} | {_cell(value)} | {most:g} | {'yes' if kept else 'no'} |")
    return promises


def main() -> None:
    """Measure in turns, and print."""
    parser = argparse.ArgumentParser(description="What the gate costs beside a bare rclpy node.")
    parser.add_argument("--bundle", type=Path, default=ROOT / "tests" / "bundles" / "tiny_masks.ebdl")
    parser.add_argument("--repeats", type=int, default=3, help="turns per node and load (default: 3)")
    parser.add_argument("--seconds", type=float, default=20.0, help="measuring time per turn (default: 20)")
    parser.add_argument("--nodes", nargs="+", choices=("bare", "gate"), default=["bare", "gate"])
    options = parser.parse_args()
    commands = {
        "bare": [sys.executable, str(ROOT / "tools" / "bench" / "bare_node.py")],
        "gate": [sys.executable, "-m", "edge_bdl.cli", "ros-gate", "--ros-args", "-p", f"bundle:={options.bundle}"],
    }
    opened = Bundle.open(options.bundle)
    samples = max(count for score in opened.manifest.policy.scores for count in score.thresholds)
    limits = {score.name: score.thresholds[samples].slow for score in opened.manifest.policy.scores}
    scores = {name: limit - abs(limit) / 2 for name, limit in limits.items()}
    rclpy.init()
    turns = []
    for turn in range(options.repeats):
        # Who goes first alternates, so that a machine that warms up does it to both.
        for name in options.nodes[:: 1 if turn % 2 == 0 else -1]:
            for busy_core in (False, True):
                robot = Robot(opened.digest, scores, samples)
                turns.append(measure(name, commands[name], robot, busy_core, options.seconds))
                robot.destroy_node()
    rclpy.shutdown()
    print(f"{time.strftime('%Y-%m-%d')}, {options.repeats} turns of {options.seconds:g} s\n")
    result = report(turns)
    print("\n" + json.dumps(result))


if __name__ == "__main__":
    main()
