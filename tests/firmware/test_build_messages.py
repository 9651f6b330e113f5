"""The message packages built for the tests are real: rclpy carries them from one process to another."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType

import pytest

pytest.importorskip("rclpy", reason="needs the extra ros")

TALKER = """
import rclpy
from ackermann_msgs.msg import AckermannDriveStamped
from nav2_msgs.msg import SpeedLimit

rclpy.init()
node = rclpy.create_node("talker")
drives = node.create_publisher(AckermannDriveStamped, "drive", 1)
limits = node.create_publisher(SpeedLimit, "speed_limit", 1)
drive = AckermannDriveStamped()
drive.header.frame_id = "base_link"
drive.header.stamp.sec, drive.header.stamp.nanosec = 12, 345
drive.drive.steering_angle, drive.drive.steering_angle_velocity = 0.25, -0.5
drive.drive.speed, drive.drive.acceleration, drive.drive.jerk = 1.5, -2.0, 0.125
limit = SpeedLimit(percentage=True, speed_limit=12.5)
limit.header.frame_id = "map"


def publish():
    drives.publish(drive)
    limits.publish(limit)


node.create_timer(0.05, publish)
rclpy.spin(node)
"""

LISTENER = """
import rclpy
from ackermann_msgs.msg import AckermannDriveStamped
from nav2_msgs.msg import SpeedLimit

rclpy.init()
node = rclpy.create_node("listener")
heard = {}
node.create_subscription(AckermannDriveStamped, "drive", lambda message: heard.update(drive=message), 1)
node.create_subscription(SpeedLimit, "speed_limit", lambda message: heard.update(limit=message), 1)
while len(heard) < 2:
    rclpy.spin_once(node)
drive, limit = heard["drive"], heard["limit"]
print(drive.header.frame_id, drive.header.stamp.sec, drive.header.stamp.nanosec)
for name in ("steering_angle", "steering_angle_velocity", "speed", "acceleration", "jerk"):
    print(getattr(drive.drive, name))
print(limit.header.frame_id, limit.percentage, limit.speed_limit)
"""


@pytest.fixture(scope="module")
def builder() -> ModuleType:
    spec = importlib.util.spec_from_file_location("build_messages", Path(__file__).parent / "build_messages.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def built(builder: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    try:
        return builder.build(tmp_path_factory.mktemp("messages"))
    except builder.CannotBuildError as reason:
        pytest.skip(str(reason))


def test_two_processes_exchange_the_built_messages_and_every_field_arrives(built: Path) -> None:
    environment = os.environ | {
        "PYTHONPATH": str(built),
        "ROS_DOMAIN_ID": str(1 + os.getpid() % 100),
        "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
    }
    talker = subprocess.Popen([sys.executable, "-c", TALKER], env=environment)
    try:
        listener = subprocess.run(
            [sys.executable, "-c", LISTENER],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
    finally:
        talker.kill()
        talker.wait()
    assert listener.returncode == 0, listener.stderr
    assert listener.stdout.splitlines() == ["base_link 12 345", "0.25", "-0.5", "1.5", "-2.0", "0.125", "map True 12.5"]


def test_what_is_built_is_built_once(builder: ModuleType, built: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in built.rglob("*.so")}
    assert builder.build(built.parent) == built
    assert {path: path.stat().st_mtime_ns for path in built.rglob("*.so")} == before


def test_two_builders_at_once_end_up_with_one_whole_result(builder: ModuleType, built: Path, tmp_path: Path) -> None:
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(builder.build, [tmp_path, tmp_path])
    assert first == second
    assert list(tmp_path.iterdir()) == [first]
    names = {path.relative_to(first) for path in first.rglob("*.so")}
    assert names == {path.relative_to(built) for path in built.rglob("*.so")}


def test_without_a_compiler_the_reason_says_what_to_install(
    builder: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(builder.CannotBuildError, match="no gcc and g\\+\\+ on PATH: apt-get install"):
        builder.build(tmp_path)


def test_a_definition_that_does_not_compile_is_an_error_and_leaves_nothing(
    builder: ModuleType, built: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "build_messages.py"
    copy.write_bytes(Path(builder.__file__ or "").read_bytes())
    broken = tmp_path / "ros_messages" / "broken_msgs" / "msg"
    broken.mkdir(parents=True)
    (broken / "Broken.idl").write_text("module broken_msgs { module msg { struct Broken { int x } } }")
    done = subprocess.run([sys.executable, copy, tmp_path / "out"], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "Broken.idl" in done.stderr
    assert list((tmp_path / "out").iterdir()) == []
