"""The monitor node as a process of its own: images go in by ROS, assessments come out by ROS."""

from __future__ import annotations

import io
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs the extra ros")

import yaml
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from lifecycle_msgs.msg import State, Transition
from lifecycle_msgs.srv import ChangeState, GetState
from PIL import Image as Pictures
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import DescribeParameters, GetParameters, ListParameters, SetParameters
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image

from edge_bdl.bundle import Bundle
from edge_bdl.runtime import Runtime
from edge_bdl_firmware.local.channel import Inbox
from edge_bdl_firmware.messages import Assessment, Frame, Opening, boot_id
from edge_bdl_firmware.ros.conversions import assessment_of

CONFIG = Path(__file__).parents[3] / "firmware_py" / "ros2" / "edge_bdl_ros" / "config" / "monitor.yaml"
SCRIPTED = Path(__file__).with_name("scripted_monitor.py")
ASSESSMENT = "/edge_bdl_monitor/assessment"
RELIABLE = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE)
# A listener that is busy elsewhere misses none.
PATIENT = QoSProfile(depth=100, reliability=ReliabilityPolicy.RELIABLE)
BEST_EFFORT = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
SIDE = 16  # of tiny_masks' images
ORDERS = {"rgb8": (0, 1, 2), "bgr8": (2, 1, 0), "rgba8": (0, 1, 2, 0), "bgra8": (2, 1, 0, 0), "mono8": (0,)}

generator = np.random.default_rng(0)


def pixels() -> np.ndarray:
    return generator.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)


def now() -> Time:
    seconds, nanoseconds = divmod(time.time_ns(), 10**9)
    return Time(sec=seconds, nanosec=nanoseconds)


def image(rgb: np.ndarray, encoding: str = "rgb8", padding: int = 0, **fields: object) -> Image:
    rows = np.pad(rgb[..., ORDERS.get(encoding, (0, 1, 2))].reshape(len(rgb), -1), ((0, 0), (0, padding)))
    whole = {
        "encoding": encoding, "height": len(rgb), "width": rgb.shape[1], "step": rows.shape[1], "data": rows.tobytes(),
    }  # fmt: skip
    message = Image(**{**whole, **fields})
    message.header.stamp = now()
    return message


def compressed(rgb: np.ndarray, kind: str, text: str, cut: int | None = None) -> CompressedImage:
    file = io.BytesIO()
    Pictures.fromarray(rgb).save(file, kind)
    message = CompressedImage(format=text, data=file.getvalue()[:cut])
    message.header.stamp = now()
    return message


class Node:
    """A monitor process, with the robot's ends of its topics."""

    def __init__(self, robot: Any, process: subprocess.Popen[str], transport: str = "raw") -> None:
        self.robot, self.process = robot, process
        kind, topic = (Image, "/image") if transport == "raw" else (CompressedImage, "/image/compressed")
        self.images = robot.node.create_publisher(kind, topic, BEST_EFFORT)
        self.raw = robot.hear(DiagnosticArray, ASSESSMENT, PATIENT)
        self.diagnostics = robot.hear(DiagnosticArray, "/diagnostics")

    @property
    def assessments(self) -> list[Assessment]:
        return [assessment_of(message) for message in self.raw]

    def ready(self) -> None:
        """Wait until both directions are connected."""
        self.robot.until(self.images.get_subscription_count, "a subscriber of images")
        self.robot.until(lambda: self.robot.node.count_publishers(ASSESSMENT), "a publisher of assessments")
        self.robot.spin(0.3)  # what a reader has discovered, its writer may still have to

    def ask(self, message: Any) -> Assessment:
        """Send one image until it is assessed: best effort may lose it."""
        known = len(self.raw)
        for _ in range(50):
            self.images.publish(message)
            self.robot.spin(0.1)
            if len(self.raw) > known:
                return self.assessments[known]
        pytest.fail("the image was not assessed")

    def send(self, count: int, period_s: float, **fields: Any) -> None:
        """Send so many images."""
        for _ in range(count):
            self.images.publish(image(pixels(), **fields))
            self.robot.spin(period_s)

    def statuses(self, known: int = 0) -> list[DiagnosticStatus]:
        """What was said of the monitor on /diagnostics."""
        return [array.status[0] for array in self.diagnostics[known:]]

    def until_status(self, text: str) -> DiagnosticStatus:
        """The first status from now on that says so."""
        known = len(self.diagnostics)

        def said() -> list[DiagnosticStatus]:
            return [status for status in self.statuses(known) if text in status.message]

        self.robot.until(said, f"a status: {text}")
        return said()[0]

    def change(self, transition: int) -> bool:
        request = ChangeState.Request(transition=Transition(id=transition))
        return bool(self.robot.call(ChangeState, "/edge_bdl_monitor/change_state", request).success)

    def state(self) -> int:
        answer = self.robot.call(GetState, "/edge_bdl_monitor/get_state", GetState.Request())
        return int(answer.current_state.id)

    def end(self, number: int = signal.SIGTERM) -> tuple[int, str]:
        """Signal it; its exit code and stderr."""
        self.process.send_signal(number)
        return self.ended()

    def ended(self) -> tuple[int, str]:
        """Its exit code and stderr, when it ends by itself."""
        return self.process.wait(20.0), self.robot.log()


Make = Callable[..., Node]


@pytest.fixture
def make(robot: Any, masks: Bundle) -> Make:
    """Starts the monitor on tiny_masks with these parameters, and waits until it is connected."""

    def made(ready: bool = True, **parameters: object) -> Node:
        arguments = [part for name, value in parameters.items() for part in ("-p", f"{name}:={value}")]
        process = robot.start("ros-monitor", masks.folder, "--ros-args", *arguments)
        node = Node(robot, process, str(parameters.get("image_transport", "raw")))
        if ready:
            node.ready()
        return node

    return made


@pytest.fixture
def scripted(robot: Any, masks: Bundle) -> Make:
    """Starts the monitor on a scripted engine."""

    def made(good: int, fault: str) -> Node:
        line = [sys.executable, str(SCRIPTED), str(masks.folder), str(good), fault]
        process = subprocess.Popen(line, stderr=subprocess.DEVNULL)
        robot.processes.append(process)
        node = Node(robot, process)
        node.ready()
        return node

    return made


def test_every_encoding_is_assessed_as_the_runtime_would(make: Make, masks: Bundle) -> None:
    node = make()
    runtime = Runtime.open(masks)
    for encoding in ORDERS:
        for padding in (0, 13):
            rgb = pixels()
            sent = image(rgb, encoding, padding)
            assessment = node.ask(sent)
            seen = np.repeat(rgb[..., :1], 3, axis=2) if encoding == "mono8" else rgb
            expected = runtime.predict(seen)
            assert assessment.fault is None, encoding
            assert assessment.scores == expected.scores(), encoding
            assert assessment.mean == tuple(expected.mean.ravel().tolist())
            assert assessment.samples == masks.manifest.bank.members
            assert assessment.stamp_ns == sent.header.stamp.sec * 10**9 + sent.header.stamp.nanosec
            assert (assessment.bundle, assessment.boot_id) == (masks.digest, boot_id())
            assert 0.0 < time.monotonic() - assessment.received_s < 10.0
            assert assessment.stages_ms.keys() == {"wait", "decode", "check", "engine", "all"}


@pytest.mark.parametrize(
    ("kind", "text"), [("PNG", "bgr8; png compressed bgr8"), ("JPEG", "rgb8; jpeg compressed bgr8"), ("JPEG", "jpeg")]
)
def test_compressed_images_are_assessed_as_the_runtime_would(make: Make, masks: Bundle, kind: str, text: str) -> None:
    node = make(image_transport="compressed")
    sent = compressed(pixels(), kind, text)
    seen = np.asarray(Pictures.open(io.BytesIO(bytes(sent.data))).convert("RGB"))
    assert node.ask(sent).scores == Runtime.open(masks).predict(seen).scores()


def test_a_damaged_jpeg_is_a_fault_and_the_next_image_is_none(make: Make) -> None:
    node = make(image_transport="compressed")
    assert "cannot be decoded" in str(node.ask(compressed(pixels(), "JPEG", "jpeg", cut=120)).fault)
    assert "cannot be decoded" in str(node.ask(compressed(pixels(), "JPEG", "jpeg", cut=0)).fault)
    assert "is not known" in str(node.ask(compressed(pixels(), "PNG", "webp")).fault)
    assert node.ask(compressed(pixels(), "JPEG", "jpeg")).fault is None


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"encoding": "yuv422_yuy2"}, "'yuv422_yuy2' is not known"),
        ({"step": 20}, "row step of 20 bytes"),
        ({"data": b"\0" * 40}, "has 40 bytes"),
        ({"width": 8, "height": 32}, "the frame is 8 x 32"),
    ],
)
def test_an_image_that_cannot_be_used_is_a_fault_without_scores(
    make: Make, wrong: dict[str, object], said: str
) -> None:
    node = make()
    assessment = node.ask(image(pixels(), **wrong))
    assert said in str(assessment.fault)
    assert assessment.scores == {}
    assert node.ask(image(pixels())).fault is None


def test_an_image_from_the_past_from_the_future_or_without_stamp_is_a_fault(make: Make) -> None:
    node = make()
    for seconds, said in ((+5, "in the future"), (-5, "s old by its stamp"), (None, "has no stamp")):
        sent = image(pixels())
        sent.header.stamp = Time() if seconds is None else Time(sec=sent.header.stamp.sec + seconds)
        assert said in str(node.ask(sent).fault)


def test_with_sim_time_and_no_clock_every_image_is_a_fault(make: Make) -> None:
    node = make(use_sim_time="true")
    assert "in the future" in str(node.ask(image(pixels())).fault)
    node.images.publish(image(pixels()))
    assert node.until_status("in the future").level == DiagnosticStatus.ERROR


def test_an_engine_that_raises_is_a_fault_and_the_node_lives_on(scripted: Make) -> None:
    node = scripted(2, "raise")
    assert node.ask(image(pixels())).fault is None
    assert node.ask(image(pixels())).fault is None
    for _ in range(3):
        assert "the engine failed" in str(node.ask(image(pixels())).fault)
    assert node.end()[0] == 0


@pytest.mark.parametrize(("fault", "said"), [("nan", "not finite"), ("identical", "identical"), ("inf", "not finite")])
def test_what_an_engine_says_and_cannot_mean_is_a_fault(scripted: Make, fault: str, said: str) -> None:
    assert said in str(scripted(0, fault).ask(image(pixels())).fault)


def test_an_engine_that_hangs_is_silent_reported_and_can_be_ended(scripted: Make) -> None:
    node = scripted(1, "hang")
    assert node.ask(image(pixels())).fault is None
    known = len(node.raw)
    node.send(20, 0.05)
    assert len(node.raw) == known
    assert node.until_status("the engine has not answered").level == DiagnosticStatus.ERROR
    assert node.state() == State.PRIMARY_STATE_ACTIVE  # the executor does not hang with it
    assert node.end()[0] == 0


def test_a_flood_is_dropped_counted_and_never_queued(scripted: Make) -> None:
    node = scripted(0, "slow")
    until_s = time.monotonic() + 2.0
    sent = 0
    while time.monotonic() < until_s:
        node.images.publish(image(pixels()))
        sent += 1
        node.robot.spin(0.005)
    known = len(node.raw)
    node.robot.spin(1.0)
    assert len(node.raw) - known <= 3  # what the worker had, and what waited
    sequences = [assessment.sequence for assessment in node.assessments]
    assert sequences == sorted(set(sequences))
    newest = node.assessments[-1]
    assert newest.sequence < sent
    assert newest.dropped > sent // 2
    # Everything that was received was either assessed or counted.
    assert newest.sequence + 1 == len(node.raw) + newest.dropped


def five_large_images(robot: Any, bundle: Path, reliability: QoSProfile, *arguments: str) -> None:
    node = Node(robot, robot.start("ros-monitor", bundle, *arguments))
    node.images = robot.node.create_publisher(Image, "/image", reliability)
    node.ready()
    pixels = np.zeros((480, 640, 3), np.uint8)
    # A busy machine loses some of them with any settings; with Fast DDS's own it is nearly all.
    for _ in range(20):
        node.images.publish(image(pixels))
        robot.spin(0.2)
        if len(node.raw) >= 5:
            break
    robot.until(lambda: len(node.raw) >= 5, "five assessments")
    # Of the wrong size for this bundle: so they arrived.
    assert {assessment.fault for assessment in node.assessments} == {"the frame is 640 x 480, the bundle takes 16 x 16"}


def test_large_raw_images_arrive_where_both_sides_are_reliable(robot: Any, masks: Bundle) -> None:
    override = "qos_overrides./image.subscription.reliability:=reliable"
    five_large_images(robot, masks.folder, RELIABLE, "--ros-args", "-p", override)


_ROOM = int(Path("/proc/sys/net/core/rmem_max").read_text())


@pytest.mark.skipif(_ROOM < 2**20, reason=f"the kernel gives a socket {_ROOM} bytes, less than one image")
@pytest.mark.usefixtures("own_transports")
def test_large_raw_images_arrive_by_best_effort_where_sockets_have_room(robot: Any, masks: Bundle) -> None:
    five_large_images(robot, masks.folder, BEST_EFFORT)


@pytest.mark.usefixtures("own_transports")
def test_no_shared_memory_of_dds_is_mapped(make: Make) -> None:
    node = make()
    node.ask(image(pixels()))
    assert "fastrtps_port" not in Path(f"/proc/{node.process.pid}/maps").read_text()


def test_a_late_joiner_receives_what_comes_after_it(make: Make) -> None:
    node = make()
    node.ask(image(pixels()))
    late: list[DiagnosticArray] = []
    node.robot.node.create_subscription(DiagnosticArray, ASSESSMENT, late.append, RELIABLE)
    for _ in range(50):
        newest = node.ask(image(pixels()))
        if late:
            break
    assert assessment_of(late[-1]) == newest


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_with_exit_code_0(make: Make, number: int) -> None:
    node = make()
    node.ask(image(pixels()))
    node.robot.spin(1.5)
    code, said = node.end(number)
    assert code == 0
    assert "assessing /image: onnxruntime, 16 samples" in said
    assert "WARN" not in said
    assert "Traceback" not in said


def test_diagnostics_say_how_it_is_going(make: Make, masks: Bundle) -> None:
    node = make()
    assert node.until_status("no image comes on /image").level == DiagnosticStatus.STALE
    known = len(node.diagnostics)
    node.send(60, 0.04)
    good = [status for status in node.statuses(known) if status.level == DiagnosticStatus.OK]
    values = {entry.key: entry.value for entry in good[-1].values}
    assert values["engine"] == "onnxruntime"
    assert values["samples"] == "16"
    assert values["bundle"] == masks.digest
    assert 5.0 < float(values["frame_rate_hz"]) < 30.0
    for stage in ("wait", "decode", "check", "engine", "all"):
        assert 0.0 <= float(values[f"{stage}_ms.p50"]) <= float(values[f"{stage}_ms.max"])
    known = len(node.diagnostics)
    node.send(40, 0.04, encoding="16UC1")
    faulty = [status for status in node.statuses(known) if "'16UC1' is not known" in status.message]
    assert {status.level for status in faulty} == {DiagnosticStatus.ERROR}


def test_deactivating_stops_the_assessments_and_says_so(make: Make) -> None:
    node = make()
    assert node.ask(image(pixels())).fault is None
    assert node.change(Transition.TRANSITION_DEACTIVATE)
    assert node.state() == State.PRIMARY_STATE_INACTIVE
    known = len(node.raw)
    node.send(30, 0.03)
    assert node.until_status("inactive: no frame is assessed").level == DiagnosticStatus.WARN
    assert len(node.raw) == known
    assert node.change(Transition.TRANSITION_ACTIVATE)
    node.ready()
    assert node.ask(image(pixels())).fault is None


def test_it_goes_through_its_whole_life_twice(make: Make) -> None:
    node = make(ready=False, autostart="false")
    assert node.state() == State.PRIMARY_STATE_UNCONFIGURED
    for _ in range(2):
        assert node.change(Transition.TRANSITION_CONFIGURE)
        assert node.state() == State.PRIMARY_STATE_INACTIVE
        assert node.change(Transition.TRANSITION_ACTIVATE)
        node.ready()
        assert node.ask(image(pixels())).fault is None
        assert node.change(Transition.TRANSITION_DEACTIVATE)
        assert node.change(Transition.TRANSITION_CLEANUP)
        assert node.state() == State.PRIMARY_STATE_UNCONFIGURED
    assert node.end()[0] == 0


def test_shutting_down_from_active_ends_the_assessments(make: Make) -> None:
    node = make()
    assert node.ask(image(pixels())).fault is None
    assert node.change(Transition.TRANSITION_ACTIVE_SHUTDOWN)
    assert node.state() == State.PRIMARY_STATE_FINALIZED
    assert node.end()[0] == 0


def test_parameters_change_only_before_it_is_configured(make: Make, masks: Bundle, tmp_path: Path) -> None:
    node = make(ready=False, autostart="false")

    def set_text(name: str, text: str) -> Any:
        value = ParameterValue(type=ParameterType.PARAMETER_STRING, string_value=text)
        request = SetParameters.Request(parameters=[Parameter(name=name, value=value)])
        return node.robot.call(SetParameters, "/edge_bdl_monitor/set_parameters", request).results[0]

    assert "raw or compressed" in set_text("image_transport", "theora").reason
    bundle = str(masks.folder)
    assert set_text("bundle", str(tmp_path)).successful
    assert not node.change(Transition.TRANSITION_CONFIGURE)
    assert node.state() == State.PRIMARY_STATE_UNCONFIGURED
    assert set_text("bundle", bundle).successful
    assert node.change(Transition.TRANSITION_CONFIGURE)
    assert "configured already" in set_text("engine", "tflite").reason
    assert "cannot configure" in node.end()[1]


def test_recorder_and_watchers_are_told(make: Make, masks: Bundle) -> None:
    sockets = Path(os.environ["EDGE_BDL_SOCKETS"])
    with Inbox(sockets, "recorder") as recorder:
        node = make()
        sent = image(pixels())
        node.ask(sent)
        recorded = [message for _ in range(50) if (message := recorder.receive(0.05)) is not None]
        frames = [message for message in recorded if isinstance(message, Frame)]
        openings = [message for message in recorded if isinstance(message, Opening)]
        assert frames[0].data == bytes(sent.data)
        assert any(isinstance(message, Assessment) for message in recorded)
        assert (openings[0].process, openings[0].bundle) == ("monitor", masks.digest)
        assert openings[0].parameters["image_transport"] == "raw"
        assert openings[0].parameters["engine"] == "onnxruntime"
        node.ask(image(pixels()))
        assert {type(message) for message in node.robot.told} == {Assessment, Opening}  # it is a watcher


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"image_transport": "theora"}, "image_transport is raw or compressed"),
        ({"samples": -1}, "edge-bdl: "),
        ({"deadline_ms": 900.0}, "edge-bdl: "),
        ({"frozen_frames": -1}, "edge-bdl: "),
        ({"engine": "tensorrt"}, "edge-bdl: "),
        ({"trusted_key": "/nowhere"}, "cannot be read"),
        ({"threads": "many"}, "edge-bdl: "),
    ],
)
def test_what_makes_no_sense_is_one_line_and_exit_code_2(make: Make, parameters: dict[str, object], said: str) -> None:
    code, text = make(ready=False, **parameters).ended()
    assert code == 2, text
    assert said in text
    assert "Traceback" not in text


def test_without_a_bundle_it_says_how_to_name_one(robot: Any) -> None:
    assert robot.start("ros-monitor").wait(20.0) == 2
    assert "edge-bdl ros-monitor NAME.ebdl" in robot.log()


def test_the_parameter_file_holds_every_parameter_with_its_default(robot: Any, masks: Bundle) -> None:
    """And the real node takes it."""
    robot.start("ros-monitor", masks.folder, "--ros-args", "--params-file", CONFIG)

    def ask(kind: Any, **request: Any) -> Any:
        name = re.sub(r"(?<!^)(?=[A-Z])", "_", kind.__name__).lower()
        return robot.call(kind, f"/edge_bdl_monitor/{name}", kind.Request(**request))

    names = [name for name in ask(ListParameters).result.names if not name.startswith(("start_type", "qos_overrides"))]
    ((node, content),) = yaml.safe_load(CONFIG.read_text()).items()
    assert node == "/**/edge_bdl_monitor"
    written = content["ros__parameters"]
    assert sorted(written) == sorted(names)
    values = map(_plain, ask(GetParameters, names=names).values)
    assert dict(zip(names, values, strict=True)) == {**written, "bundle": str(masks.folder)}
    described = ask(DescribeParameters, names=names).descriptors
    assert all(descriptor.description for descriptor in described if descriptor.name != "use_sim_time")


def _plain(value: ParameterValue) -> object:
    fields = {
        ParameterType.PARAMETER_BOOL: "bool_value",
        ParameterType.PARAMETER_INTEGER: "integer_value",
        ParameterType.PARAMETER_DOUBLE: "double_value",
        ParameterType.PARAMETER_STRING: "string_value",
    }
    return getattr(value, fields[value.type])
