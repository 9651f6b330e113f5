"""Assessments and decisions as ROS's diagnostics: exact there and back, and refused where anything is amiss."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("rclpy", reason="needs the extra ros")

from diagnostic_msgs.msg import DiagnosticStatus, KeyValue
from rclpy.serialization import deserialize_message, serialize_message

from edge_bdl.policy import Level
from edge_bdl_firmware.messages import LARGEST_MEAN, Assessment, Step
from edge_bdl_firmware.ros.conversions import (
    ConversionError,
    assessment_of,
    diagnostics_of_assessment,
    nanoseconds_of,
    stamp_of,
    status_of_step,
)

# What DDS carries as a string: no NUL in it.
TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), max_size=20)
NUMBERS = st.dictionaries(TEXTS, st.floats(allow_nan=False), max_size=4)
ASSESSMENTS = st.builds(
    Assessment,
    sequence=st.integers(0, 2**63),
    stamp_ns=st.integers(-(2**31) * 10**9, 2**31 * 10**9 - 1),
    received_s=st.floats(allow_nan=False),
    boot_id=TEXTS,
    bundle=TEXTS,
    scores=NUMBERS,
    samples=st.integers(0, 4096),
    fault=st.none() | TEXTS,
    mean=st.lists(st.floats(allow_nan=False), max_size=LARGEST_MEAN).map(tuple),
    stages_ms=NUMBERS,
    dropped=st.integers(0, 2**63),
)
GOOD = Assessment(
    sequence=7, stamp_ns=1_500_000_001, received_s=12.5, boot_id="b", bundle="d", scores={"total": 0.1}, samples=16,
    mean=(0.25, -1.0),
)  # fmt: skip


@given(ASSESSMENTS)
def test_an_assessment_survives_the_wire_exactly(assessment: Assessment) -> None:
    message = diagnostics_of_assessment(assessment)
    received = deserialize_message(serialize_message(message), type(message))
    assert assessment_of(received) == assessment
    assert nanoseconds_of(received.header.stamp) == assessment.stamp_ns


def test_a_score_that_is_not_a_number_arrives_as_none() -> None:
    read = assessment_of(diagnostics_of_assessment(Assessment(**{**fields(GOOD), "scores": {"total": math.nan}})))
    assert math.isnan(read.scores["total"])


def test_a_fault_is_the_message_of_an_error() -> None:
    status = diagnostics_of_assessment(Assessment(**{**fields(GOOD), "fault": "black"})).status[0]
    assert (status.level, status.message) == (DiagnosticStatus.ERROR, "black")
    assert diagnostics_of_assessment(GOOD).status[0].level == DiagnosticStatus.OK


def fields(assessment: Assessment) -> dict[str, Any]:
    return {name: getattr(assessment, name) for name in assessment.__struct_fields__}


def replace(key: str, value: str) -> Callable[[Any], None]:
    def change(message: Any) -> None:
        next(entry for entry in message.status[0].values if entry.key == key).value = value

    return change


def drop(key: str) -> Callable[[Any], None]:
    def change(message: Any) -> None:
        message.status[0].values = [entry for entry in message.status[0].values if entry.key != key]

    return change


def add(key: str, value: str) -> Callable[[Any], None]:
    return lambda message: message.status[0].values.append(KeyValue(key=key, value=value))


def set_level(level: bytes) -> Callable[[Any], None]:
    return lambda message: setattr(message.status[0], "level", level)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        *((drop(key), f"lacks {key}") for key in ("sequence", "received_s", "boot_id", "bundle", "samples", "dropped")),
        (drop("mean.0"), "the mean of the assessment has gaps|unknown values: mean.1"),
        (replace("sequence", "1.5"), "a number of the assessment is none"),
        (replace("received_s", "noon"), "a number of the assessment is none"),
        (replace("score.total", ""), "a number of the assessment is none"),
        (add("score.total", "0.0"), "given twice"),
        (add("bundle", "other"), "given twice"),
        (add("what", "ever"), "unknown values: what"),
        (add(f"mean.{LARGEST_MEAN}", "0.0"), "unknown values"),
        (lambda message: message.status.clear(), "has 0"),
        (lambda message: message.status.append(message.status[0]), "has 2"),
        (set_level(DiagnosticStatus.WARN), "OK or ERROR"),
        (set_level(DiagnosticStatus.STALE), "OK or ERROR"),
    ],
)
def test_what_is_only_nearly_an_assessment_is_none(damage: Callable[[Any], None], said: str) -> None:
    message = diagnostics_of_assessment(GOOD)
    damage(message)
    with pytest.raises(ConversionError, match=said):
        assessment_of(message)


@pytest.mark.parametrize(
    ("nanoseconds", "nearest"), [(2**70, (2**31 - 1, 10**9 - 1)), (-(2**70), (-(2**31), 0)), (-1, (-1, 10**9 - 1))]
)
def test_a_stamp_that_ros_cannot_write_becomes_the_nearest(nanoseconds: int, nearest: tuple[int, int]) -> None:
    stamp = stamp_of(nanoseconds)
    assert (stamp.sec, stamp.nanosec) == nearest


def step(level: str, **fields: Any) -> Step:
    return Step(
        **{"now_s": 1.0, "trigger": "tick", "level": level, "speed_factor": 1.0, "reason": "why", "output": (0.0,)}
        | fields
    )


def test_every_level_is_as_grave_as_it_is() -> None:
    grave = {level.value: status_of_step(step(level.value), {}, "robot").level for level in Level}
    assert grave == {
        "NOMINAL": DiagnosticStatus.OK,
        "HOLD": DiagnosticStatus.WARN,
        "SLOW": DiagnosticStatus.WARN,
        "HANDOFF": DiagnosticStatus.ERROR,
        "STOP": DiagnosticStatus.ERROR,
    }


def test_a_bypass_and_a_warning_show_in_level_and_message() -> None:
    quiet = status_of_step(step("NOMINAL"), {"dropped": 3}, "robot")
    assert (quiet.message, quiet.hardware_id) == ("NOMINAL: why", "robot")
    assert {entry.key: entry.value for entry in quiet.values}["dropped"] == "3"
    loud = status_of_step(step("NOMINAL", bypass=True), {}, "robot", "look here")
    assert (loud.level, loud.message) == (DiagnosticStatus.WARN, "BYPASS over NOMINAL: why; look here")
    assert status_of_step(step("STOP", bypass=True), {}, "robot").level == DiagnosticStatus.ERROR
