"""The doctor as a process, on systems of real processes: every check is seen to fail, and to pass."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from edge_bdl_firmware.doctor.checks import CHECKS

HERE = Path(__file__).parent
MASKS = HERE.parents[1] / "bundles" / "tiny_masks.ebdl"
PATIENCE_S = 60.0
LISTEN_S = 0.5  # after discovery, which takes longer

Visit = Callable[..., dict[str, Any]]


class System:
    """Processes in a ROS domain of their own."""

    def __init__(self, environment: Mapping[str, str], stack: ExitStack) -> None:
        self.environment, self._stack = environment, stack

    def popen(self, *command: object, stack: ExitStack | None = None) -> subprocess.Popen[str]:
        started = subprocess.Popen(
            list(map(str, command)), env=self.environment, text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        (stack or self._stack).callback(end, started)
        return started

    def verb(self, *command: object, stack: ExitStack | None = None) -> subprocess.Popen[str]:
        return self.popen(sys.executable, "-m", "edge_bdl.cli", *command, stack=stack)

    @contextmanager
    def players(self, **players: Mapping[str, object]) -> Iterator[subprocess.Popen[str]]:
        with ExitStack() as stack:
            yield self.popen(sys.executable, HERE / "players.py", json.dumps(players), stack=stack)

    def visit(self, *arguments: object, duration_s: float = LISTEN_S, expected: int | None = None) -> dict[str, Any]:
        """What the doctor says, as JSON."""
        process = self.verb("doctor", "--json", "--duration", duration_s, *arguments)
        output, complaints = process.communicate(timeout=PATIENCE_S)
        assert process.returncode in ((0, 1) if expected is None else (expected,)), output + complaints
        report: dict[str, Any] = json.loads(output)
        assert report["good"] == (process.returncode == 0)
        return report

    def until_good(self) -> None:
        """Until the processes have come up: as an integrator would, look again."""
        until_s = time.monotonic() + PATIENCE_S
        while not (report := self.visit("--only", "gate", "--only", "endpoints"))["good"]:
            assert time.monotonic() < until_s, report


def end(process: subprocess.Popen[str]) -> None:
    """Kill what still runs; what fell over by itself is a broken test."""
    fell = process.poll()
    process.kill()
    if not process.stdout.closed:  # type: ignore[union-attr]
        _, complaints = process.communicate()
        assert not (fell and "Traceback" in complaints), complaints


@contextmanager
def system() -> Iterator[System]:
    """An empty domain that no other test of this machine uses now."""
    folder = Path(tempfile.gettempdir()) / f"edge-bdl-domains-{os.getuid()}"
    folder.mkdir(exist_ok=True)
    for domain in range(99, 0, -1):
        with (folder / str(domain)).open("w") as lock, ExitStack() as stack:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            own = stack.enter_context(tempfile.TemporaryDirectory(prefix="ebdl-"))
            names = {"ROS_LOG_DIR": own, "EDGE_BDL_SOCKETS": own, "STATE_DIRECTORY": own, "ROS_DOMAIN_ID": str(domain)}
            fixed = {"ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST", "OMP_NUM_THREADS": "1"}
            yield System({**os.environ, **names, **fixed}, stack)
            return
    raise AssertionError("every ROS domain is in use")


@pytest.fixture
def empty() -> Iterator[System]:
    with system() as made:
        yield made


@pytest.fixture(scope="module")
def chain() -> Iterator[System]:
    """The real gate and guard, and a monitor that waits for a camera; controller -> gate -> twist_mux -> base."""
    with system() as made:
        made.verb("ros-gate", MASKS)
        made.verb("ros-monitor", MASKS, "--ros-args", "-p", "samples:=16")
        made.verb("ros-guard")
        rest = {"controller": {}, "mux": {"source": "cmd_vel_out", "target": "cmd_vel"}, "base": {"topic": "cmd_vel"}}
        with made.players(**rest):
            with made.players(camera={}):
                made.until_good()
            yield made


def status(report: Mapping[str, Any], check: str) -> str:
    order = ("ok", "skipped", "warn", "fail")
    return max((finding["status"] for finding in report["checks"][check]), key=order.index)


def found(report: Mapping[str, Any], check: str, at: str) -> str:
    return "\n".join(finding["found"] for finding in report["checks"][check] if finding["status"] == at)


def commands(process: subprocess.Popen[str]) -> list[float]:
    """What a base that plays alone was commanded, now that it ends."""
    process.terminate()
    output, _ = process.communicate(timeout=PATIENCE_S)
    return [float(line) for line in output.splitlines()]


# --- a running chain ---


def test_a_sound_chain_passes_every_check(chain: System) -> None:
    with chain.players(camera={}):
        chain.until_good()
        report = chain.visit("--base-topic", "cmd_vel", expected=0)
    assert tuple(report["checks"]) == tuple(CHECKS)
    statuses = {check: status(report, check) for check in CHECKS}
    assert {check: at for check, at in statuses.items() if at == "fail"} == {}
    assert statuses["base-timeout"] == "skipped"
    for check in ("endpoints", "qos", "stamps", "sim-time", "second-publishers", "ungated", "base-publishers", "lock"):
        assert statuses[check] == "ok", report["checks"][check]
    assert "/cmd_vel_out -> /cmd_vel" in found(report, "base-publishers", "ok")


def test_without_a_camera_it_names_what_lacks(chain: System) -> None:
    report = chain.visit(expected=1)
    assert "nobody publishes /image" in found(report, "endpoints", "fail")
    assert status(report, "stamps") == "skipped"
    assert status(report, "gate") == "fail"


def test_a_slow_camera_fails(chain: System) -> None:
    with chain.players(camera={"rate_hz": 3.0}):
        report = chain.visit(duration_s=5.0, expected=1)
    assert "/image comes at" in found(report, "rates", "fail")


@pytest.mark.parametrize(
    ("camera", "words"),
    [({"skew_s": 1.0}, "in the future"), ({"skew_s": -2.0}, "old by their stamps"), ({"stamped": False}, "no stamp")],
)
def test_stamps_of_another_clock_fail(chain: System, camera: dict[str, object], words: str) -> None:
    with chain.players(camera=camera):
        report = chain.visit("--only", "stamps", expected=1)
    assert words in found(report, "stamps", "fail")


@pytest.fixture(scope="module")
def crowded(chain: System) -> dict[str, Any]:
    """What the doctor says of a chain beside which others do what they should not."""
    others = {
        "controller.1": {"topic": "cmd_vel_out", "name": "joystick"},
        "controller.2": {"topic": "cmd_vel", "name": "rogue"},
        "controller.3": {"topic": "cmd_vel_in", "name": "careless", "reliable": False},
        "base": {"topic": "cmd_vel_in", "name": "wheels"},
        "display.1": {"topic": "cmd_vel_in"},
        "display.2": {"topic": "cmd_vel_out", "deadline_s": 0.1, "name": "hasty"},
    }
    with chain.players(**others):
        return chain.visit(expected=1)


@pytest.mark.parametrize(
    ("check", "at", "words"),
    [
        ("second-publishers", "fail", "/joystick publishes on /cmd_vel_out"),
        ("base-publishers", "fail", "/rogue commands the base on /cmd_vel, past the gate"),
        ("ungated", "fail", "/wheels obeys /cmd_vel_in, past the gate"),
        ("ungated", "warn", "/display listens to /cmd_vel_in"),
        ("qos", "fail", "/cmd_vel_in: /edge_bdl_gate receives nothing from /careless: best effort publisher"),
        ("qos", "fail", "/cmd_vel_out: /hasty receives nothing from /edge_bdl_gate: subscription deadline"),
    ],
)
def test_who_does_what_he_should_not_is_named(crowded: dict[str, Any], check: str, at: str, words: str) -> None:
    assert words in found(crowded, check, at)


def test_a_base_topic_that_the_gate_does_not_reach_fails(chain: System) -> None:
    report = chain.visit("--only", "base-publishers", "--base-topic", "elsewhere", expected=1)
    assert "does not reach /elsewhere" in found(report, "base-publishers", "fail")


@pytest.mark.parametrize(
    ("service", "check", "words"), [("set_bypass", "gate", "bypass is set"), ("take_control", "lock", "is true")]
)
def test_a_bypass_and_a_lock_fail(chain: System, service: str, check: str, words: str) -> None:
    with chain.players(camera={}, person={"service": f"edge_bdl_gate/{service}"}):
        report = chain.visit("--only", check, expected=1)
    assert words in found(report, check, "fail")
    undo = chain.popen(
        sys.executable, "-c", UNDO, f"edge_bdl_gate/{service}"
    )  # fmt: skip
    assert undo.wait(PATIENCE_S) == 0


UNDO = """
import sys, rclpy
from std_srvs.srv import SetBool
rclpy.init()
node = rclpy.create_node("undo")
client = node.create_client(SetBool, sys.argv[1])
assert client.wait_for_service(20.0)
rclpy.spin_until_future_complete(node, client.call_async(SetBool.Request(data=False)))
"""


# --- what does not need the whole chain ---


def test_an_empty_system_fails_without_hanging(empty: System) -> None:
    report = empty.visit(duration_s=1.0, expected=1)
    assert "nobody publishes /edge_bdl_gate/heartbeat" in found(report, "endpoints", "fail")
    assert [status(report, check) for check in ("gate", "lock")] == ["fail", "fail"]
    assert [status(report, check) for check in ("rates", "stamps", "sim-time", "base-publishers")] == ["skipped"] * 4


def test_sim_time_without_a_clock_fails_and_with_one_passes(empty: System) -> None:
    empty.verb("ros-guard", "--ros-args", "-p", "use_sim_time:=true")
    until_s = time.monotonic() + PATIENCE_S
    while status(report := empty.visit("--only", "sim-time"), "sim-time") == "skipped":
        assert time.monotonic() < until_s
    assert "edge_bdl_guard, and no /clock comes" in found(report, "sim-time", "fail")
    with empty.players(clock={}):
        assert status(empty.visit("--only", "sim-time", expected=0), "sim-time") == "ok"


def test_remapped_names_are_followed(empty: System) -> None:
    with empty.players(controller={"topic": "/nav/cmd_vel"}):
        report = empty.visit("--only", "rates", "--ros-args", "-r", "cmd_vel_in:=/nav/cmd_vel", expected=0)
    assert "/nav/cmd_vel comes at" in found(report, "rates", "ok")


def test_a_controller_that_is_too_slow_fails(empty: System) -> None:
    with empty.players(controller={"rate_hz": 1.5}):
        report = empty.visit("--only", "rates", expected=1)
    assert "/cmd_vel_in comes at" in found(report, "rates", "fail")


def test_arguments_that_ros_does_not_take_are_bad_usage(empty: System) -> None:
    process = empty.verb("doctor", "--ros-args", "-r", "not a remapping")
    _, complaints = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 2
    assert "edge-bdl: ROS does not take these arguments" in complaints
    assert "Traceback" not in complaints


# --- moving ---

DIRECT = ("--only", "base-timeout", "--move", "--yes", "--base-topic", "cmd_vel")


def test_a_base_with_a_timeout_stops_by_itself(empty: System) -> None:
    with empty.players(base={"topic": "cmd_vel", "timeout_s": 0.5}) as base:
        report = empty.visit(*DIRECT, expected=0)
        heard = commands(base)
    (finding,) = report["checks"]["base-timeout"]
    assert finding["found"].startswith("the base stopped 0.")
    assert max(heard) == 0.1
    assert heard[-1] == 0.0


def test_a_base_that_holds_the_last_command_fails_and_is_stopped(empty: System) -> None:
    with empty.players(base={"topic": "cmd_vel", "timeout_s": None}) as base:
        report = empty.visit(*DIRECT, "--speed", 0.2, expected=1)
        heard = commands(base)
    assert "still moves at 0.20 m/s" in found(report, "base-timeout", "fail")
    assert max(heard) == 0.2
    assert heard[-1] == 0.0


def test_an_interrupt_while_moving_stops_the_base(empty: System) -> None:
    with empty.players(base={"topic": "cmd_vel", "timeout_s": None}) as base:
        process = empty.verb("doctor", *DIRECT, "--duration", 0.5, "--seconds", 30)
        assert base.stdout is not None
        assert float(base.stdout.readline()) == 0.1
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE_S) == 130
        assert commands(base)[-1] == 0.0


def test_a_base_that_others_command_is_not_moved(empty: System) -> None:
    with empty.players(base={"topic": "cmd_vel"}, controller={"topic": "cmd_vel"}) as robot:
        report = empty.visit(*DIRECT, expected=1)
        assert set(commands(robot)) == {0.0}
    assert "others send commands on /cmd_vel" in found(report, "base-timeout", "fail")


def test_without_odometry_nothing_moves(empty: System) -> None:
    with empty.players(base={"topic": "cmd_vel", "odometry": False}) as base:
        report = empty.visit(*DIRECT, expected=1)
        assert commands(base) == []
    assert "no odometry comes on /odom" in found(report, "base-timeout", "fail")


def test_a_topic_that_nobody_listens_to_is_not_commanded(empty: System) -> None:
    report = empty.visit(*DIRECT, expected=1)
    assert "nobody subscribes to it" in found(report, "base-timeout", "fail")


def test_nothing_moves_where_nobody_can_agree(empty: System) -> None:
    process = empty.verb("doctor", "--move")
    _, complaints = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 2
    assert "THE ROBOT WILL MOVE" in complaints
    assert "--yes" in complaints


def test_through_the_gate_the_robot_stops_when_its_controller_falls_silent(empty: System) -> None:
    empty.verb("ros-gate", MASKS)
    empty.verb("ros-monitor", MASKS)
    with empty.players(camera={}, base={"topic": "cmd_vel_out", "timeout_s": None}) as robot:
        until_s = time.monotonic() + PATIENCE_S
        while status(empty.visit("--only", "gate"), "gate") == "fail":
            assert time.monotonic() < until_s
        report = empty.visit("--only", "base-timeout", "--move", "--yes", expected=0)
        heard = commands(robot)
    text = found(report, "base-timeout", "ok")
    assert text.startswith("the gate and the base stopped 0.")
    assert "the base's own timeout shows only without the gate" in text
    assert 0.0 < max(heard) <= 0.1
    assert heard[-1] == 0.0
