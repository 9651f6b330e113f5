"""A real car's drive, written as a ROS 2 recording and played into the real monitor and gate in real time.

Camera frames and the driver's commands go in, gated commands come out. Half-way the camera shows what the network has
never seen: the track of another car, or its own in the dark.
"""

from __future__ import annotations

import csv
import io
import os
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs the extra ros")
pytest.importorskip("torch", reason="needs the extra train")

from geometry_msgs.msg import Twist, Vector3
from mcap.reader import make_reader
from mcap_ros2.decoder import DecoderFactory
from PIL import Image as Pictures
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CompressedImage

from edge_bdl.bundle import Bundle
from edge_bdl_firmware.messages import Assessment, Step
from edge_bdl_firmware.ros.conversions import stamp_of

DATA = Path(os.environ.get("EDGE_BDL_RC_CAR") or Path(__file__).parents[4] / "shared" / "data" / "rc_car")
OTHER = DATA.parent / "other_car"
TOOL = Path(__file__).parents[3] / "tools" / "rc_car_bag.py"
# Of the last stretch of the drive, which the network was not trained on.
FIRST, CLEAR, STRANGE = 10_700, 160, 80
COMMAND_TIMEOUT_S = 0.5

pytestmark = pytest.mark.skipif(not (DATA / "frames.tar").is_file(), reason=f"there is no {DATA}")


@pytest.fixture(scope="module")
def pilot(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of a small network that learnt the drive for one epoch, calibrated on later frames of it."""
    import torch

    from edge_bdl_export import export
    from edge_bdl_train.frames import CalibrationSets, LabelledFrames
    from edge_bdl_train.imitation import ImitationConfig, imitate
    from edge_bdl_train.recipes.rc_car import RcCarConfig, RcCarRecipe

    def whole_episodes(frames: LabelledFrames) -> LabelledFrames:
        return frames[:1500].of_episodes_from(100)

    recipe = RcCarRecipe(RcCarConfig(), DATA)
    train, selection, calibration, test = recipe.blocks()
    model = recipe.build_model(0)
    generator = torch.Generator().manual_seed(0)
    imitate(model, train[::4], selection[::4], ImitationConfig(epochs=1), generator=generator)
    sets = CalibrationSets(*map(whole_episodes, (selection, calibration, test)), period_s=0.05)
    folder = tmp_path_factory.mktemp("pilot") / "pilot.ebdl"
    export(model, train.frames[:1], folder, task="heteroscedastic", calibration=sets, formats=("onnx",))
    return folder


@pytest.fixture(scope="module")
def bag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The recording, written by the tool."""
    path = tmp_path_factory.mktemp("bag") / "drive.mcap"
    frames = f"{FIRST}:{FIRST + CLEAR + STRANGE}"
    subprocess.run([sys.executable, TOOL, DATA, path, "--frames", frames], check=True, capture_output=True)
    return path


def recorded(bag: Path) -> Iterator[tuple[float, str, Any]]:
    """Seconds since the first message, topic and message."""
    with bag.open("rb") as file:
        first_ns = None
        for _, channel, record, message in make_reader(
            file, decoder_factories=[DecoderFactory()]
        ).iter_decoded_messages():
            first_ns = record.log_time if first_ns is None else first_ns
            yield (record.log_time - first_ns) / 1e9, channel.topic, message


class Drive:
    """Plays a recording into monitor and gate, and keeps what came out.

    Attributes:
        sent: When which command went in.
        out: When which command came out.
        frames: Stamps of the frames, in their order.
    """

    def __init__(self, robot: Any, pilot: Path) -> None:
        self.robot = robot
        self.sent: list[tuple[float, np.ndarray]] = []
        self.out: list[tuple[float, np.ndarray]] = []
        self.frames: list[int] = []
        robot.start("ros-monitor", pilot, "--ros-args", "-p", "image_transport:=compressed")
        robot.start("ros-gate", pilot)
        best_effort = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
        self._images = robot.node.create_publisher(CompressedImage, "image/compressed", best_effort)
        self._commands = robot.node.create_publisher(Twist, "cmd_vel_in", 10)
        robot.node.create_subscription(
            Twist, "cmd_vel_out", lambda twist: self.out.append((time.monotonic(), axes_of(twist))), 100
        )
        for publisher in (self._images, self._commands):
            robot.until(publisher.get_subscription_count, publisher.topic_name)
        robot.until(lambda: robot.node.count_publishers("edge_bdl_monitor/assessment"), "assessments")
        robot.hear_steps()

    def play(self, bag: Path, alter: Callable[[int, bytes], bytes]) -> None:
        """In real time, stamped anew."""
        began_s = time.monotonic()
        for at_s, topic, message in recorded(bag):
            self.robot.spin(max(0.0, began_s + at_s - time.monotonic()))
            if topic == "/image/compressed":
                stamp_ns = time.time_ns()
                image = CompressedImage(format=message.format, data=alter(len(self.frames), bytes(message.data)))
                image.header.stamp = stamp_of(stamp_ns)
                self.frames.append(stamp_ns)
                self._images.publish(image)
            else:
                linear, angular = (Vector3(x=part.x, y=part.y, z=part.z) for part in (message.linear, message.angular))
                command = Twist(linear=linear, angular=angular)
                self.sent.append((time.monotonic(), axes_of(command)))
                self._commands.publish(command)
        self.robot.spin(1.0)

    @property
    def assessments(self) -> list[Assessment]:
        return [message for message in self.robot.told if isinstance(message, Assessment)]


def axes_of(twist: Twist) -> np.ndarray:
    linear, angular = twist.linear, twist.angular
    return np.array([linear.x, linear.y, linear.z, angular.x, angular.y, angular.z])


def other_car() -> list[bytes]:
    with tarfile.open(OTHER / "frames.tar") as archive:
        members = [member for member in archive if member.isfile()][200 : 200 + STRANGE]
        return [archive.extractfile(member).read() for member in members]  # type: ignore[union-attr]


def darkened(jpeg: bytes) -> bytes:
    pixels = np.asarray(Pictures.open(io.BytesIO(jpeg)).convert("RGB"))
    file = io.BytesIO()
    Pictures.fromarray((pixels * 0.15).astype(np.uint8)).save(file, "JPEG", quality=95)
    return file.getvalue()


@pytest.mark.parametrize("strange", ["other car", "dark"])
def test_a_drive_passes_until_the_camera_shows_something_unknown(
    robot: Any, pilot: Path, bag: Path, strange: str
) -> None:
    if strange == "other car" and not OTHER.is_dir():
        pytest.skip(f"there is no {OTHER}")
    others = other_car() if strange == "other car" else []

    def alter(index: int, jpeg: bytes) -> bytes:
        if index < CLEAR:
            return jpeg
        return others[index - CLEAR] if others else darkened(jpeg)

    drive = Drive(robot, pilot)
    robot.steps.clear()
    drive.play(bag, alter)
    steps: list[Step] = robot.steps
    assert len(drive.assessments) > 0.9 * (CLEAR + STRANGE)
    border_ns = drive.frames[CLEAR]
    faults = {assessment.stamp_ns: assessment.fault for assessment in drive.assessments if assessment.fault}
    # Darker than any calibration frame is no evidence at all; what another car sees is evidence of something unknown.
    assert all(stamp >= border_ns and "dark" in fault for stamp, fault in faults.items())
    assert bool(faults) == (strange == "dark")

    never_more_than_commanded(drive)
    nothing_moves_before_the_good_assessments(steps)

    known = {assessment.sequence: assessment for assessment in drive.assessments}
    first_strange = next(sequence for sequence, assessment in known.items() if assessment.stamp_ns >= border_ns)
    border = next(index for index, step in enumerate(steps) if (step.assessment or 0) >= first_strange)
    clear, unknown = steps[:border], steps[border:]

    started = next(index for index, step in enumerate(clear) if step.level == "NOMINAL")
    driving = clear[started:]
    assert np.mean([step.level == "NOMINAL" for step in driving]) > 0.8
    passed = [step for step in driving if step.speed_factor == 1.0 and step.command is not None and any(step.command)]
    assert len(passed) > CLEAR / 2
    assert all(step.output == step.command for step in passed)

    # What the network has never seen is noticed within a few frames, and is not forgotten while it lasts.
    levels = ("HOLD",) if faults else ("SLOW", "HANDOFF", "STOP")
    raised = next(index for index, step in enumerate(unknown) if step.level in levels)
    assert sum(step.assessment is not None for step in unknown[:raised]) <= 5
    reasons = ("dark",) if faults else tuple(score.name for score in Bundle.open(pilot).manifest.policy.scores)
    assert any(reason in unknown[raised].reason for reason in reasons)
    assert all(step.level != "NOMINAL" for step in unknown[raised:])
    assert not any(unknown[-1].output)

    # Every decision was taken on a frame that was fresh by the gate's own limit.
    taken = [step for step in steps if step.assessment is not None]
    assert max(step.age_s for step in taken) < 0.3
    assert [step.assessment for step in taken] == sorted({step.assessment for step in taken})


def never_more_than_commanded(drive: Drive) -> None:
    """Each output is a share of one command that was in force, the same on every axis, and never of the other sign."""
    for at_s, output in drive.out:
        if output.any():
            assert any(
                (np.abs(output) <= np.abs(command)).all() and (output * command >= 0.0).all()
                for sent_s, command in drive.sent
                if 0.0 <= at_s - sent_s <= COMMAND_TIMEOUT_S + 0.2
            ), (at_s, output)


def nothing_moves_before_the_good_assessments(steps: list[Step]) -> None:
    moving = next(index for index, step in enumerate(steps) if any(step.output))
    assert sum(step.assessment is not None for step in steps[:moving]) >= 5


def test_the_recording_is_what_the_driver_saw_and_did(bag: Path) -> None:
    messages = list(recorded(bag))
    images = [message for _, topic, message in messages if topic == "/image/compressed"]
    commands = [message for _, topic, message in messages if topic == "/cmd_vel_in"]
    assert len(images) == len(commands) == CLEAR + STRANGE
    with (DATA / "labels.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["kept"] == "1"]
    rows = rows[FIRST : FIRST + CLEAR + STRANGE]
    with tarfile.open(DATA / "frames.tar") as archive:
        for image, row in zip(images[::40], rows[::40], strict=True):
            assert bytes(image.data) == archive.extractfile(row["file"]).read()  # type: ignore[union-attr]
            assert image.header.stamp.sec * 1000 + image.header.stamp.nanosec // 10**6 == int(row["timestamp_ms"])
    assert [command.angular.z for command in commands] == [-float(row["angle"]) for row in rows]
    assert [command.linear.x for command in commands] == [float(row["throttle"]) for row in rows]
