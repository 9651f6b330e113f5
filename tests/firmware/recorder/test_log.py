"""What is written is what is read: by our own reader, by ROS 2, and by any reader of MCAP."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mcap.reader import make_reader
from mcap_ros2.decoder import DecoderFactory

from edge_bdl_firmware.messages import AnyMessage, Assessment, Command, Frame, Heartbeat, Human, Step, encode
from edge_bdl_firmware.recorder.log_reader import Log
from edge_bdl_firmware.recorder.log_writer import LogWriter
from edge_bdl_firmware.recorder.ring import Received
from edge_bdl_firmware.recorder.topics import DEFINITIONS, views

Record = Callable[..., Path]
Drive = Sequence[Received]


def decoded(path: Path) -> list[tuple[str, str, int, Any]]:
    with path.open("rb") as file:
        reader = make_reader(file, validate_crcs=True, decoder_factories=[DecoderFactory()])
        messages = reader.iter_decoded_messages(log_time_order=False)
        return [(channel.topic, schema.name, message.log_time, ros) for schema, channel, message, ros in messages]


def test_every_message_comes_back_byte_for_byte(drive: Drive, record: Record) -> None:
    log = Log(record(drive))
    frames = iter(log.frames())
    for entry, logged in zip(drive, log.messages, strict=True):
        assert logged.time_ns == entry.received_ns + 10**18
        message = logged.message
        if isinstance(message, Frame):
            assert message.data == b""
            message = next(frames)
        assert encode(message) == encode(entry.message)
    assert list(frames) == []


def test_pixels_are_in_the_file_once(drive: Drive, record: Record) -> None:
    generator = np.random.default_rng(0)
    frame = next(entry.message for entry in drive if isinstance(entry.message, Frame))
    noise = msgspec.structs.replace(frame, data=generator.bytes(300_000))
    path = record([Received(0, noise)])
    assert 300_000 < path.stat().st_size < 310_000


@pytest.mark.parametrize("encoding", ["rgb8", "bgr8", "mono8", "rgba8", "bgra8", "jpeg", "png", "bayer_rggb16", ""])
@pytest.mark.parametrize("size", [0, 1, 7, 70_000])
def test_frames_of_every_encoding_come_back(record: Record, encoding: str, size: int) -> None:
    frame = Frame(
        sequence=2**40 + 3, stamp_ns=-5, received_s=1.5, encoding=encoding, height=-1, width=2**40, step=3,
        data=np.random.default_rng(1).bytes(size),
    )  # fmt: skip
    assert list(Log(record([Received(10**9, frame)])).frames()) == [frame]


def test_frames_of_the_same_instant_and_a_new_camera_are_not_mixed_up(record: Record) -> None:
    frames = [
        Frame(sequence=number, stamp_ns=0, received_s=0.0, encoding=encoding, data=bytes([number]) * 9)
        for number, encoding in enumerate(["rgb8", "jpeg", "rgb8", "png"])
    ]
    assert list(Log(record([Received(7, frame) for frame in frames])).frames()) == frames


texts = st.text(st.characters(codec="utf-8"), max_size=30)
floats = st.floats()
whole = st.integers(-(2**63), 2**63 - 1)
hostile = st.one_of(
    st.builds(Heartbeat, now_s=floats),
    st.builds(Command, axes=st.lists(floats, max_size=8).map(tuple)),
    st.builds(
        Frame, sequence=whole, stamp_ns=whole, received_s=floats, encoding=texts, height=whole, width=whole, step=whole,
        data=st.binary(max_size=50),
    ),
    st.builds(
        Assessment, sequence=whole, stamp_ns=whole, received_s=floats, boot_id=texts, bundle=texts,
        scores=st.dictionaries(texts, floats, max_size=3), samples=whole, fault=st.none() | texts,
        mean=st.lists(floats, max_size=3).map(tuple), stages_ms=st.dictionaries(texts, floats, max_size=2),
        dropped=whole,
    ),
    st.builds(
        Step, now_s=floats, trigger=st.sampled_from(["tick", "assessment", "command", "human"]), level=texts,
        assessment=st.none() | whole, speed_factor=floats, reason=texts,
        command=st.none() | st.lists(floats, min_size=5, max_size=7).map(tuple),
        output=st.lists(floats, min_size=6, max_size=6).map(tuple),
    ),
)  # fmt: skip


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(hostile, min_size=1, max_size=5))
def test_whatever_a_process_says_is_recorded(tmp_path: Path, messages: list[AnyMessage]) -> None:
    path = tmp_path / "any.mcap"
    path.unlink(missing_ok=True)
    log = LogWriter(path, 0, {})
    for number, message in enumerate(messages):
        log.write(Received(number, message))
    log.finish({})
    read = Log(path)
    frames = iter(read.frames())
    got = [next(frames) if isinstance(logged.message, Frame) else logged.message for logged in read.messages]
    # As bytes: NaN is not equal to itself.
    assert [encode(message) for message in got] == [encode(message) for message in messages]


def test_people_see_images_scores_commands_and_the_level(drive: Drive, record: Record) -> None:
    topics: dict[str, list[Any]] = {}
    types = {}
    for topic, name, _, ros in decoded(record(drive)):
        topics.setdefault(topic, []).append(ros)
        types[topic] = name
    assert types == {
        "/edge_bdl/raw": "std_msgs/msg/UInt8MultiArray",
        "/edge_bdl/image": "sensor_msgs/msg/Image",
        "/edge_bdl/assessment": "diagnostic_msgs/msg/DiagnosticArray",
        "/edge_bdl/score/epistemic": "std_msgs/msg/Float64",
        "/edge_bdl/score/total": "std_msgs/msg/Float64",
        "/edge_bdl/score/density": "std_msgs/msg/Float64",
        "/edge_bdl/state": "diagnostic_msgs/msg/DiagnosticStatus",
        "/edge_bdl/speed_factor": "std_msgs/msg/Float64",
        "/edge_bdl/cmd_vel_in": "geometry_msgs/msg/Twist",
        "/edge_bdl/cmd_vel_out": "geometry_msgs/msg/Twist",
    }
    steps = [entry.message for entry in drive if isinstance(entry.message, Step)]
    assert [ros.data for ros in topics["/edge_bdl/speed_factor"]] == [step.speed_factor for step in steps]
    assert [ros.message for ros in topics["/edge_bdl/state"]] == [f"{step.level}: {step.reason}" for step in steps]
    sent = [(ros.linear.x, ros.angular.z) for ros in topics["/edge_bdl/cmd_vel_out"]]
    assert sent == [(step.output[0], step.output[5]) for step in steps]
    faults = [ros.status[0].message for ros in topics["/edge_bdl/assessment"] if ros.status[0].level == 2]
    assert faults == ["the frame has no contrast"] * 2
    image = topics["/edge_bdl/image"][1]
    assert (image.height, image.width, image.encoding, image.step) == (16, 16, "rgb8", 48)
    assert image.header.stamp.nanosec == 50_000_000


def test_ros_itself_reads_what_is_written(drive: Drive, record: Record) -> None:
    """By the message packages of ROS 2, whose definitions are not ours."""
    serialization = pytest.importorskip("rclpy.serialization", reason="needs the extra ros")
    path = record(
        [*drive, Received(10**13, Frame(sequence=0, stamp_ns=0, received_s=0.0, encoding="jpeg", data=b"abc"))]
    )
    seen = set()
    with path.open("rb") as file:
        for schema, channel, message in make_reader(file).iter_messages():
            package, _, kind = schema.name.partition("/msg/")
            ros = serialization.deserialize_message(
                message.data, getattr(importlib.import_module(f"{package}.msg"), kind)
            )
            seen.add(schema.name)
            if channel.topic == "/edge_bdl/image":
                assert (ros.height, ros.width, ros.encoding, len(ros.data)) == (16, 16, "rgb8", 768)
            if channel.topic == "/edge_bdl/image/compressed":
                assert (ros.format, bytes(ros.data)) == ("jpeg", b"abc")
    assert seen == set(DEFINITIONS)


def test_metadata_says_how_times_were_made_and_what_was_told_at_both_ends(drive: Drive, record: Record) -> None:
    assert Log(record(drive)).metadata == {
        "wall_minus_monotonic_ns": str(10**18), "trigger": "test", "end": "test"
    }  # fmt: skip


def test_a_human_is_only_in_the_original() -> None:
    assert [view.topic for view in views(Human(act="acknowledge"))] == ["/edge_bdl/raw"]


def test_commands_of_a_car_are_no_twist() -> None:
    step = Step(now_s=0.0, trigger="tick", level="HOLD", speed_factor=0.0, reason="", command=(1.0,), output=(0.0,))
    assert not any("cmd_vel" in view.topic for view in views(step))


def test_the_file_has_its_name_only_when_it_is_whole(drive: Drive, tmp_path: Path) -> None:
    log = LogWriter(tmp_path / "a.mcap", 0, {})
    log.write(drive[0])
    assert os.listdir(tmp_path) == ["a.mcap.partial"]
    log.finish({})
    assert os.listdir(tmp_path) == ["a.mcap"]


def test_a_recording_that_is_given_up_leaves_nothing_unless_it_is_to_be_kept(drive: Drive, tmp_path: Path) -> None:
    for keep in (False, True):
        log = LogWriter(tmp_path / "a.mcap", 0, {})
        log.write(drive[0])
        log.abandon(keep=keep)
    assert os.listdir(tmp_path) == ["a.mcap.partial"]


def test_nothing_is_overwritten(drive: Drive, tmp_path: Path) -> None:
    (tmp_path / "a.mcap").write_text("mine")
    with pytest.raises(FileExistsError):
        LogWriter(tmp_path / "a.mcap", 0, {})
    (tmp_path / "b.mcap.partial").write_text("mine")
    with pytest.raises(FileExistsError):
        LogWriter(tmp_path / "b.mcap", 0, {})
    assert {path.read_text() for path in tmp_path.iterdir()} == {"mine"}
