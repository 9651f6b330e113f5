"""Sources without ROS: what they send, when, how they end, and what they refuse."""

from __future__ import annotations

import importlib
import itertools
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edge_bdl.errors import InputError, MissingExtraError
from edge_bdl_firmware.frames.decode import decode_frame
from edge_bdl_firmware.messages import Frame
from edge_bdl_firmware.sources import SOURCES, open_source
from edge_bdl_firmware.sources.base import Pace

SHAPE = (6, 9, 3)
RANDOM = np.random.default_rng(0)
PICTURES = RANDOM.integers(0, 256, (12, *SHAPE), dtype=np.uint8)
FAST_HZ = 1000.0


def write_folder(folder: Path, suffix: str = ".png", count: int = 12) -> Path:
    for index in range(count):
        path = folder / f"frame_{index}{suffix}"
        if suffix == ".npy":
            np.save(path, PICTURES[index])
        else:
            Image.fromarray(PICTURES[index]).save(path)
    return folder


def play(text: str | Path, rate_hz: float | None = FAST_HZ) -> list[Frame]:
    return list(open_source(str(text), rate_hz).frames())


# Folders


@pytest.mark.parametrize("suffix", [".png", ".npy", ".bmp"])
def test_a_folder_plays_in_the_natural_order_of_its_names(tmp_path: Path, suffix: str) -> None:
    frames = play(write_folder(tmp_path, suffix))
    assert [frame.sequence for frame in frames] == list(range(12))
    for frame, picture in zip(frames, PICTURES, strict=True):
        np.testing.assert_array_equal(decode_frame(frame, SHAPE, "uint8"), picture)


def test_images_are_sent_as_the_files_that_they_are(tmp_path: Path) -> None:
    write_folder(tmp_path, ".png", 1)
    write_folder(tmp_path, ".jpg", 1)
    frames = play(tmp_path)
    assert [frame.encoding for frame in frames] == ["jpeg", "png"]
    assert frames[0].data == (tmp_path / "frame_0.jpg").read_bytes()
    assert frames[1].data == (tmp_path / "frame_0.png").read_bytes()


@pytest.mark.parametrize("shape", [(6, 9), (6, 9, 1)])
def test_grey_arrays_are_mono(tmp_path: Path, shape: tuple[int, ...]) -> None:
    grey = PICTURES[0, ..., 0].reshape(shape)
    np.save(tmp_path / "frame.npy", grey)
    (frame,) = play(tmp_path)
    assert (frame.encoding, frame.height, frame.width, frame.step) == ("mono8", 6, 9, 9)
    np.testing.assert_array_equal(decode_frame(frame, (6, 9, 1), "uint8")[..., 0], grey.reshape(6, 9))


def test_a_damaged_image_is_sent_all_the_same_and_is_the_monitors_to_refuse(tmp_path: Path) -> None:
    (tmp_path / "frame.jpg").write_bytes(b"no image")
    assert [frame.data for frame in play(tmp_path)] == [b"no image"]


@pytest.mark.parametrize("array", [np.zeros((6, 9, 3)), np.zeros((6, 9, 4), np.uint8), np.zeros(5, np.uint8)])
def test_arrays_that_are_no_camera_frames_are_refused(tmp_path: Path, array: Any) -> None:
    np.save(tmp_path / "frame.npy", array)
    with pytest.raises(InputError, match="expected a camera frame"):
        play(tmp_path)


def test_stamps_are_in_the_clock_that_the_source_names(tmp_path: Path) -> None:
    source = open_source(str(write_folder(tmp_path)), FAST_HZ)
    before_ns = time.monotonic_ns()
    frames = list(source.frames())
    assert source.clock_ns is not None
    stamps = [before_ns, *(frame.stamp_ns for frame in frames), source.clock_ns()]
    assert stamps == sorted(stamps)
    assert len(set(stamps)) == len(stamps)
    assert all(frame.received_s == pytest.approx(frame.stamp_ns * 1e-9) for frame in frames)


def test_frames_never_come_before_they_are_due(tmp_path: Path) -> None:
    write_folder(tmp_path)
    began_s = time.monotonic()
    assert play(tmp_path, 200.0)[-1].received_s - began_s >= 11 / 200.0


def test_closing_ends_a_source_that_waits(tmp_path: Path) -> None:
    source = open_source(str(write_folder(tmp_path)), 0.001)
    frames = source.frames()
    next(frames)
    closing = threading.Timer(0.05, source.close)
    closing.start()
    assert list(frames) == []  # the next one would be due in a quarter of an hour
    closing.join()


# The pace


class Clock:
    """A clock that waiting moves on."""

    def __init__(self, pace: Pace, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 1000.0
        monkeypatch.setattr(pace, "_clock", lambda: self.now_s)
        monkeypatch.setattr(pace, "_ended", SimpleNamespace(wait=self.wait))

    def wait(self, timeout_s: float) -> bool:
        self.now_s += timeout_s
        return False


def test_the_pace_does_not_drift_and_nobody_is_hurried_to_catch_up(monkeypatch: pytest.MonkeyPatch) -> None:
    pace = Pace()
    clock = Clock(pace, monkeypatch)
    times = []
    for index, busy_s in enumerate([0.0, 0.01, 0.02, 0.5, 0.0, 0.04]):
        clock.now_s += busy_s
        assert pace.wait(index * 0.05)
        times.append(round(clock.now_s - 1000.0, 6))
    # Half a second late for the fourth: the fifth comes a period after it, not at once.
    assert times == [0.0, 0.05, 0.1, 0.6, 0.65, 0.7]


# Recordings

HEADER_DEFINITION = """\
================================================================================
MSG: std_msgs/Header
builtin_interfaces/Time stamp
string frame_id
================================================================================
MSG: builtin_interfaces/Time
int32 sec
uint32 nanosec
"""
DEFINITIONS = {
    "sensor_msgs/msg/Image": (
        "std_msgs/Header header\nuint32 height\nuint32 width\nstring encoding\nuint8 is_bigendian\nuint32 step\n"
        f"uint8[] data\n{HEADER_DEFINITION}"
    ),
    "sensor_msgs/msg/CompressedImage": f"std_msgs/Header header\nstring format\nuint8[] data\n{HEADER_DEFINITION}",
    "std_msgs/msg/String": "string data\n",
}


def header(index: int) -> dict[str, Any]:
    return {"stamp": {"sec": 1_700_000_000 + index, "nanosec": 7}, "frame_id": "camera"}


def image(index: int) -> dict[str, Any]:
    return {
        "header": header(index), "height": 6, "width": 9, "encoding": "bgr8", "is_bigendian": 0, "step": 27,
        "data": PICTURES[index, ..., ::-1].tobytes(),
    }  # fmt: skip


def compressed(index: int, folder: Path) -> dict[str, Any]:
    path = folder / f"frame_{index}.png"
    Image.fromarray(PICTURES[index]).save(path)
    return {"header": header(index), "format": "rgb8; png compressed bgr8", "data": path.read_bytes()}


def write_mcap(path: Path, messages: list[tuple[str, str, int, dict[str, Any]]]) -> Path:
    """A recording of (topic, type, log time in ns, message)."""
    writer_module = pytest.importorskip("mcap_ros2.writer")
    with path.open("wb") as file:
        writer = writer_module.Writer(file)
        schemas = {name: writer.register_msgdef(name, text) for name, text in DEFINITIONS.items()}
        for topic, kind, log_time_ns, message in messages:
            writer.write_message(topic, schemas[kind], message, log_time=log_time_ns, publish_time=log_time_ns)
        writer.finish()
    return path


def drive(path: Path, folder: Path, count: int = 6, period_ns: int = 1_000_000) -> Path:
    """One camera, and something else that is no camera."""
    kinds = itertools.cycle(["sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"])
    messages: list[tuple[str, str, int, dict[str, Any]]] = []
    for index in range(count):
        messages.append(("/camera", "sensor_msgs/msg/Image", index * period_ns, image(index)))
        messages.append(("/chatter", "std_msgs/msg/String", index * period_ns, {"data": next(kinds)}))
    return write_mcap(path, messages)


def test_a_recording_plays_its_camera_with_the_recorded_stamps(tmp_path: Path) -> None:
    source = open_source(str(drive(tmp_path / "drive.mcap", tmp_path)))
    frames = list(source.frames())
    assert source.clock_ns is None
    assert [frame.sequence for frame in frames] == list(range(6))
    assert [frame.stamp_ns for frame in frames] == [(1_700_000_000 + index) * 10**9 + 7 for index in range(6)]
    received = [frame.received_s for frame in frames]
    assert received == sorted(received)
    for frame, picture in zip(frames, PICTURES, strict=False):
        assert isinstance(frame.data, bytes)
        np.testing.assert_array_equal(decode_frame(frame, SHAPE, "uint8"), picture)


def test_compressed_images_are_the_recorded_bytes(tmp_path: Path) -> None:
    messages = [compressed(index, tmp_path) for index in range(3)]
    path = write_mcap(
        tmp_path / "drive.mcap",
        [("/camera", "sensor_msgs/msg/CompressedImage", index, message) for index, message in enumerate(messages)],
    )
    frames = play(path)
    assert [(frame.encoding, frame.data) for frame in frames] == [("png", message["data"]) for message in messages]


@pytest.mark.parametrize("rate_hz", [None, 100.0])
def test_a_recording_keeps_its_pace_or_the_one_asked_for(tmp_path: Path, rate_hz: float | None) -> None:
    path = drive(tmp_path / "drive.mcap", tmp_path, period_ns=20_000_000)
    expected_s = 5 * 0.02 if rate_hz is None else 5 / rate_hz
    began_s = time.monotonic()
    assert play(path, rate_hz)[-1].received_s - began_s >= expected_s


def test_of_several_cameras_one_must_be_named(tmp_path: Path) -> None:
    path = write_mcap(
        tmp_path / "drive.mcap",
        [(topic, "sensor_msgs/msg/Image", 0, image(index)) for index, topic in enumerate(["/left", "/right"])],
    )
    with pytest.raises(InputError, match=r"images on /left, /right: name one, .*drive\.mcap:/left"):
        open_source(str(path))
    with pytest.raises(InputError, match="no images on /front, but on /left, /right"):
        open_source(f"{path}:/front")
    (frame,) = play(f"{path}:/right")
    np.testing.assert_array_equal(decode_frame(frame, SHAPE, "uint8"), PICTURES[1])


def test_a_recording_without_a_camera_is_refused(tmp_path: Path) -> None:
    path = write_mcap(tmp_path / "drive.mcap", [("/chatter", "std_msgs/msg/String", 0, {"data": "hello"})])
    with pytest.raises(InputError, match="holds no sensor_msgs/msg/Image"):
        open_source(str(path))


def test_a_recording_that_was_cut_short_or_is_none_is_refused_with_the_remedy(tmp_path: Path) -> None:
    path = drive(tmp_path / "drive.mcap", tmp_path)
    whole = path.read_bytes()
    for content in (b"", b"no recording", whole[: len(whole) // 2], whole[:-8], whole[len(whole) // 2 :]):
        path.write_bytes(content)
        with pytest.raises(InputError, match="edge-bdl recover"):
            open_source(str(path))
    with pytest.raises(InputError, match="No such file"):
        open_source(str(tmp_path / "none.mcap"))


# Cameras


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("/dev/edge-bdl-no-such-camera", "cannot be used as a camera: .*No such file"),
        ("/dev/null", "/dev/null offers no frames, expected one of MJPEG, RGB24, BGR24, GREY"),
        ("/dev/null:640", "expected /dev/videoN or /dev/videoN:WIDTHxHEIGHT"),
    ],
)
def test_what_is_no_camera_is_refused(text: str, message: str) -> None:
    pytest.importorskip("linuxpy")
    with pytest.raises(InputError, match=message):
        open_source(text)


@pytest.mark.skipif(not Path("/dev/video0").exists(), reason="no camera on this machine: no /dev/video0")
def test_a_camera_of_this_machine_sends_frames_that_decode() -> None:
    pytest.importorskip("linuxpy")
    source = open_source("/dev/video0")
    frames = list(itertools.islice(source.frames(), 5))
    assert [frame.sequence for frame in frames] == list(range(5))
    assert all(after.stamp_ns > before.stamp_ns for before, after in itertools.pairwise(frames))
    for frame in frames:
        assert decode_frame(frame, (frame.height, frame.width, 3), "uint8").any()


# Opening


@pytest.mark.parametrize(
    ("text", "package", "extra"),
    [("drive.mcap", "mcap_ros2", "record"), ("/dev/video0", "linuxpy", "camera")],
)
def test_a_missing_extra_is_named_with_its_pip_line(
    text: str, package: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=rf"pip install 'edge-bdl\[{extra}\]'"):
        open_source(text)


@pytest.mark.parametrize("text", ["no/such/folder", "drive.avi", __file__])
def test_what_is_no_source_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="is no source: expected a folder"):
        open_source(text)


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no frames"):
        open_source(str(tmp_path))


@pytest.mark.parametrize("rate_hz", [0.0, -1.0, float("nan"), float("inf"), 1001.0])
def test_a_rate_that_is_none_is_refused(tmp_path: Path, rate_hz: float) -> None:
    with pytest.raises(InputError, match="rate"):
        open_source(str(write_folder(tmp_path)), rate_hz)


def test_every_source_of_the_table_exists() -> None:
    for target in SOURCES.values():
        module, _, attribute = target.partition(":")
        assert {"frames", "close"} <= set(dir(getattr(importlib.import_module(module), attribute)))
