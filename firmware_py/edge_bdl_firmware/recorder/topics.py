"""What a recording holds, topic by topic: ROS 2 messages for Foxglove and others, and the original bytes for replay.

Every message is in the file as it came, MessagePack in a ``std_msgs/msg/UInt8MultiArray``, so that the file stays one
of the ``ros2`` profile, where everything is CDR. Only the pixels of a frame are not repeated there: they are in its
image message, which has the same log time and the same sequence. Everything else is a view for people.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import msgspec

from edge_bdl_firmware.messages import FILE_ENCODINGS, AnyMessage, Assessment, Frame, Step, encode

RAW = "/edge_bdl/raw"
IMAGE = "/edge_bdl/image"
COMPRESSED_IMAGE = "/edge_bdl/image/compressed"
ASSESSMENT = "/edge_bdl/assessment"
SCORE = "/edge_bdl/score/"
STATE = "/edge_bdl/state"
SPEED_FACTOR = "/edge_bdl/speed_factor"
COMMAND_IN = "/edge_bdl/cmd_vel_in"
COMMAND_OUT = "/edge_bdl/cmd_vel_out"

_HEADER = "std_msgs/Header header"
_HEADER_TYPE = "MSG: std_msgs/Header\nbuiltin_interfaces/Time stamp\nstring frame_id"
_STATUS = "byte level\nstring name\nstring message\nstring hardware_id\ndiagnostic_msgs/KeyValue[] values"
_KEY_VALUE_TYPE = "MSG: diagnostic_msgs/KeyValue\nstring key\nstring value"
_PIXELS = "uint32 height\nuint32 width\nstring encoding\nuint8 is_bigendian\nuint32 step\nuint8[] data"
_RULE = "\n" + "=" * 80 + "\n"

#: Message definitions by name, each followed by the definitions that it uses.
DEFINITIONS: Mapping[str, str] = {
    "std_msgs/msg/UInt8MultiArray": _RULE.join(
        (
            "std_msgs/MultiArrayLayout layout\nuint8[] data",
            "MSG: std_msgs/MultiArrayLayout\nstd_msgs/MultiArrayDimension[] dim\nuint32 data_offset",
            "MSG: std_msgs/MultiArrayDimension\nstring label\nuint32 size\nuint32 stride",
        )
    ),
    "sensor_msgs/msg/Image": _RULE.join((f"{_HEADER}\n{_PIXELS}", _HEADER_TYPE)),
    "sensor_msgs/msg/CompressedImage": _RULE.join((f"{_HEADER}\nstring format\nuint8[] data", _HEADER_TYPE)),
    "diagnostic_msgs/msg/DiagnosticArray": _RULE.join(
        (
            f"{_HEADER}\ndiagnostic_msgs/DiagnosticStatus[] status",
            _HEADER_TYPE,
            f"MSG: diagnostic_msgs/DiagnosticStatus\n{_STATUS}",
            _KEY_VALUE_TYPE,
        )
    ),
    "diagnostic_msgs/msg/DiagnosticStatus": _RULE.join((_STATUS, _KEY_VALUE_TYPE)),
    "geometry_msgs/msg/Twist": _RULE.join(
        (
            "geometry_msgs/Vector3 linear\ngeometry_msgs/Vector3 angular",
            "MSG: geometry_msgs/Vector3\nfloat64 x\nfloat64 y\nfloat64 z",
        )
    ),
    "std_msgs/msg/Float64": "float64 data",
}

_OK, _WARN, _ERROR = 0, 1, 2
_SEVERITY = {"NOMINAL": _OK, "SLOW": _WARN, "HOLD": _WARN}
_LARGEST_UINT32 = 2**32 - 1


class View(NamedTuple):
    """One ROS message: its topic, its type, its fields."""

    topic: str
    type: str
    fields: Mapping[str, Any]


def views(message: AnyMessage) -> Iterator[View]:
    """A message as it stands in a recording: first the original, then what people and viewers see of it."""
    original = msgspec.structs.replace(message, data=b"") if isinstance(message, Frame) else message
    yield View(RAW, "std_msgs/msg/UInt8MultiArray", {"data": encode(original)})
    if isinstance(message, Frame):
        yield _image(message)
    elif isinstance(message, Assessment):
        yield from _assessment(message)
    elif isinstance(message, Step):
        yield from _step(message)


def _image(frame: Frame) -> View:
    header = _header(frame.stamp_ns)
    if frame.encoding in FILE_ENCODINGS:
        fields = {"header": header, "format": frame.encoding, "data": frame.data}
        return View(COMPRESSED_IMAGE, "sensor_msgs/msg/CompressedImage", fields)
    pixels: dict[str, Any] = {
        "header": header,
        "height": _uint32(frame.height),
        "width": _uint32(frame.width),
        "encoding": frame.encoding,
        "is_bigendian": 0,
        "step": _uint32(frame.step),
        "data": frame.data,
    }
    return View(IMAGE, "sensor_msgs/msg/Image", pixels)


def _assessment(assessment: Assessment) -> Iterator[View]:
    fault = assessment.fault
    values = {
        **assessment.scores,
        "samples": assessment.samples,
        "mean": list(assessment.mean),
        **{f"{stage}_ms": ms for stage, ms in assessment.stages_ms.items()},
        "dropped": assessment.dropped,
        "sequence": assessment.sequence,
    }
    status = _status(_OK if fault is None else _ERROR, "edge_bdl/monitor", fault or "valid", assessment.bundle, values)
    fields = {"header": _header(assessment.stamp_ns), "status": [status]}
    yield View(ASSESSMENT, "diagnostic_msgs/msg/DiagnosticArray", fields)
    for name, value in assessment.scores.items():
        yield View(SCORE + name, "std_msgs/msg/Float64", {"data": value})


def _step(step: Step) -> Iterator[View]:
    values = {
        "speed_factor": step.speed_factor,
        "trigger": step.trigger,
        "human_in_control": step.human_in_control,
        "standstill": step.standstill,
        "bypass": step.bypass,
        "late_ms": step.late_ms,
    }
    severity = _SEVERITY.get(step.level, _ERROR)
    status = _status(severity, "edge_bdl/gate", f"{step.level}: {step.reason}", "", values)
    yield View(STATE, "diagnostic_msgs/msg/DiagnosticStatus", status)
    yield View(SPEED_FACTOR, "std_msgs/msg/Float64", {"data": step.speed_factor})
    for topic, axes in ((COMMAND_IN, step.command), (COMMAND_OUT, step.output)):
        if axes is not None and len(axes) == 6:
            linear, angular = (dict(zip("xyz", part, strict=True)) for part in (axes[:3], axes[3:]))
            yield View(topic, "geometry_msgs/msg/Twist", {"linear": linear, "angular": angular})


def _status(level: int, name: str, text: str, hardware_id: str, values: Mapping[str, object]) -> dict[str, Any]:
    pairs = [{"key": key, "value": str(value)} for key, value in values.items()]
    return {"level": level, "name": name, "message": text, "hardware_id": hardware_id, "values": pairs}


def _header(stamp_ns: int) -> dict[str, Any]:
    """A camera may say anything; what is no time in ROS is shown as zero here, and kept in the original."""
    seconds, nanoseconds = divmod(stamp_ns, 10**9)
    fits = 0 <= seconds < 2**31
    stamp = {"sec": seconds, "nanosec": nanoseconds} if fits else {"sec": 0, "nanosec": 0}
    return {"stamp": stamp, "frame_id": ""}


def _uint32(value: int) -> int:
    return min(max(value, 0), _LARGEST_UINT32)
