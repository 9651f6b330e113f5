"""The main of all nodes: how they start, end, and fail."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

pytest.importorskip("rclpy", reason="needs the extra ros")

from std_msgs.msg import String

from edge_bdl_firmware.ros import split_arguments

from .robot import MASKS, PATIENCE_S, Robot

NODE = """
import sys, time
from rclpy.duration import Duration
from rclpy.node import Node
from std_msgs.msg import String

from edge_bdl_firmware.ros import split_arguments
from edge_bdl_firmware.ros.process import run

class Told(Node):
    def __init__(self):
        super().__init__("told")
        self.rounds = 0
        self.parts = {"rounds": lambda: self.rounds}
        self.out = self.create_publisher(String, "words", 10)
        self.create_timer(0.05, self.say)

    def say(self):
        self.rounds += 1
        self.out.publish(String(data="alive"))
        if "raise" in sys.argv and self.out.get_subscription_count() and self.rounds > 10:
            raise RuntimeError("a callback is stuck")

    def stop(self):
        self.out.publish(String(data="last words"))
        self.out.wait_for_all_acked(Duration(seconds=1.0))
        if "hang" in sys.argv:
            time.sleep(1000.0)

sys.exit(run(Told, []))
"""


def told(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", NODE, *arguments], stderr=subprocess.PIPE, text=True)


def refusal(*arguments: object) -> str:
    """The one line that a node which cannot start says."""
    command = [sys.executable, "-m", "edge_bdl.cli", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE_S)
    assert done.returncode == 2, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("edge-bdl: ")]
    assert "Traceback" not in done.stderr
    return line


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_the_last_words_out_and_ends_well(robot: Robot, number: signal.Signals) -> None:
    words = robot.hear(String, "words")
    with told() as process:
        robot.until(lambda: words, "words")
        process.send_signal(number)
        robot.until(lambda: process.poll() is not None, "its end")
    robot.spin(0.2)
    assert process.returncode == 0
    assert words[-1].data == "last words"


def test_a_callback_that_raises_ends_the_process_after_the_last_words(robot: Robot) -> None:
    words = robot.hear(String, "words")
    with told("raise") as process:
        robot.until(lambda: process.poll() is not None, "its end")
        assert process.stderr is not None
        said = process.stderr.read()
    robot.spin(0.2)
    assert process.returncode == 1
    assert "a callback is stuck" in said
    assert words[-1].data == "last words"


def test_a_second_signal_ends_at_once(robot: Robot) -> None:
    words = robot.hear(String, "words")
    with told("hang") as process:
        robot.until(lambda: words, "words")
        process.send_signal(signal.SIGTERM)
        robot.until(lambda: words[-1].data == "last words", "its last words")
        assert process.poll() is None

        def ends() -> bool:
            # Two that come together are one wish.
            process.send_signal(signal.SIGTERM)
            return process.poll() is not None

        robot.until(ends, "its end")
    assert process.returncode == 128 + signal.SIGTERM


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "which bundle"),
        (("nowhere.ebdl",), "nowhere.ebdl does not exist"),
        ((MASKS, "another"), "unrecognized arguments: another"),
        ((MASKS, "--ros-args", "--what"), "ROS does not take these arguments"),
        ((MASKS, "--ros-args", "--params-file", "nowhere.yaml"), "ROS does not take these arguments"),
        ((MASKS, "--ros-args", "-p", "rate_hz:=20"), "expecting type 'DOUBLE'"),
        ((MASKS, "--ros-args", "-p", "rate_hz:=90.0"), "rate_hz out of range"),
        ((MASKS, "--ros-args", "-p", "slow_votes:=9"), "slow_votes at most slow_window"),
        ((MASKS, "--ros-args", "-p", "trusted_key:=nowhere.pem"), "trusted_key: nowhere.pem cannot be read"),
        ((MASKS, "--ros-args", "-r", "cmd_vel_in:=no topic"), "ROS does not take|cannot start"),
    ],
)
def test_what_makes_no_sense_is_one_line(domain: int, arguments: tuple[object, ...], said: str) -> None:
    line = refusal("ros-gate", *arguments)
    assert any(part in line for part in said.split("|")), line


@pytest.mark.parametrize("verb", ["ros-gate", "ros-guard"])
def test_without_ros_the_way_to_it_is_said(verb: str) -> None:
    code = "import sys; sys.modules['rclpy'] = None; from edge_bdl.cli import main; sys.exit(main([sys.argv[1]]))"
    done = subprocess.run([sys.executable, "-c", code, verb], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "rclpy is not installed" in done.stderr
    assert "setup.bash" in done.stderr
    assert "pip install 'edge-bdl[ros]'" in done.stderr


def test_the_arguments_of_ros_are_told_from_our_own() -> None:
    argv = ["a.ebdl", "--ros-args", "-p", "x:=1", "--", "--help", "--ros-args", "-r", "a:=b"]
    assert split_arguments(argv) == (
        ["a.ebdl", "--help"],
        ["--ros-args", "-p", "x:=1", "--", "--ros-args", "-r", "a:=b"],
    )
