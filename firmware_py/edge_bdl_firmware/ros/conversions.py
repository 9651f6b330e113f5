"""Our messages as ROS's diagnostics, and back.

Numbers are written so that they survive exactly. What is read back must be all there and nothing else: a message that
is only nearly an assessment is none.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue

from edge_bdl.errors import EdgeBdlError
from edge_bdl_firmware.messages import LARGEST_MEAN, Assessment, Step

_SECOND_NS = 1_000_000_000
_MOST = 2**64  # what a message can carry
_SECONDS = range(-(2**31), 2**31)
_SCORE, _STAGE, _MEAN = "score.", "stage_ms.", "mean."
_LEVELS = {
    "NOMINAL": DiagnosticStatus.OK,
    "HOLD": DiagnosticStatus.WARN,
    "SLOW": DiagnosticStatus.WARN,
    "HANDOFF": DiagnosticStatus.ERROR,
    "STOP": DiagnosticStatus.ERROR,
}


class ConversionError(EdgeBdlError):
    """A ROS message does not say what it should."""


def stamp_of(stamp_ns: int) -> Any:
    """Nanoseconds as a ROS time; the nearest that ROS can write where it cannot write them."""
    seconds, nanoseconds = divmod(stamp_ns, _SECOND_NS)
    if seconds not in _SECONDS:
        seconds, nanoseconds = (_SECONDS[-1], _SECOND_NS - 1) if seconds > 0 else (_SECONDS[0], 0)
    return Time(sec=seconds, nanosec=nanoseconds)


def nanoseconds_of(stamp: Any) -> int:
    """A ROS time as nanoseconds."""
    return int(stamp.sec) * _SECOND_NS + int(stamp.nanosec)


def diagnostics_of_assessment(assessment: Assessment) -> Any:
    """An assessment as a ``DiagnosticArray`` of one status: OK, or ERROR with the fault as its message."""
    values = {
        "sequence": str(assessment.sequence),
        "received_s": repr(assessment.received_s),
        "boot_id": assessment.boot_id,
        "bundle": assessment.bundle,
        "samples": str(assessment.samples),
        "dropped": str(assessment.dropped),
    }
    values |= {_SCORE + name: repr(value) for name, value in assessment.scores.items()}
    values |= {_STAGE + name: repr(value) for name, value in assessment.stages_ms.items()}
    values |= {f"{_MEAN}{index}": repr(value) for index, value in enumerate(assessment.mean)}
    status = _status("edge_bdl_monitor: assessment", values)
    if assessment.fault is not None:
        status.level, status.message = DiagnosticStatus.ERROR, assessment.fault
    return diagnostics_of(status, stamp_of(assessment.stamp_ns))


def assessment_of(message: Any) -> Assessment:
    """An assessment from a ``DiagnosticArray``.

    Raises:
        ConversionError: Something in it is missing, unknown, given twice or malformed.
    """
    if len(message.status) != 1:
        raise ConversionError(f"an assessment has one status, this one has {len(message.status)}")
    status = message.status[0]
    if status.level not in (DiagnosticStatus.OK, DiagnosticStatus.ERROR):
        raise ConversionError(f"an assessment is OK or ERROR, this one has level {status.level!r}")
    values = {entry.key: entry.value for entry in status.values}
    if len(values) < len(status.values):
        raise ConversionError("a value of the assessment is given twice")
    try:
        assessment = Assessment(
            sequence=_count(values.pop("sequence")),
            stamp_ns=nanoseconds_of(message.header.stamp),
            received_s=float(values.pop("received_s")),
            boot_id=values.pop("boot_id"),
            bundle=values.pop("bundle"),
            samples=_count(values.pop("samples")),
            dropped=_count(values.pop("dropped")),
            fault=status.message if status.level == DiagnosticStatus.ERROR else None,
            scores=_take_floats(values, _SCORE),
            stages_ms=_take_floats(values, _STAGE),
            mean=_take_mean(values),
        )
    except KeyError as error:
        raise ConversionError(f"the assessment lacks {error.args[0]}") from error
    except ValueError as error:
        raise ConversionError(f"a number of the assessment is none: {error}") from error
    if values:
        raise ConversionError(f"the assessment has unknown values: {', '.join(sorted(values)[:5])}")
    return assessment


def status_of_step(step: Step, facts: Mapping[str, object], hardware_id: str, warning: str | None = None) -> Any:
    """A step as a ``DiagnosticStatus`` for people.

    Args:
        step: The newest.
        facts: What else to say, by name.
        hardware_id: Of the machine.
        warning: Something that a person should look at whatever the level.
    """
    values = {
        "level": step.level,
        "speed_factor": f"{step.speed_factor:.3f}",
        "reason": step.reason,
        "human_in_control": step.human_in_control,
        "bypass": step.bypass,
        "standstill": step.standstill,
        "fresh_command": step.command is not None,
        **facts,
    }
    status = _status("edge_bdl_gate: decision", {name: str(value) for name, value in values.items()})
    status.level = _LEVELS[step.level]
    status.message = f"{step.level}: {step.reason}"
    status.hardware_id = hardware_id
    if step.bypass:
        status.message = f"BYPASS over {status.message}"
    if warning is not None:
        status.message += f"; {warning}"
    if step.bypass or warning is not None:
        status.level = max(status.level, DiagnosticStatus.WARN)
    return status


def diagnostics_of(status: Any, stamp: Any) -> Any:
    """One status as a ``DiagnosticArray``."""
    message = DiagnosticArray(status=[status])
    message.header.stamp = stamp
    return message


def _status(name: str, values: Mapping[str, str]) -> Any:
    return DiagnosticStatus(name=name, values=[KeyValue(key=key, value=value) for key, value in values.items()])


def _count(text: str) -> int:
    number = int(text)
    if not 0 <= number < _MOST:
        raise ValueError(f"{text[:30]} counts nothing")
    return number


def _take_floats(values: dict[str, str], prefix: str) -> dict[str, float]:
    names = [name for name in values if name.startswith(prefix)]
    return {name.removeprefix(prefix): float(values.pop(name)) for name in names}


def _take_mean(values: dict[str, str]) -> tuple[float, ...]:
    names = [name for index in range(LARGEST_MEAN) if (name := f"{_MEAN}{index}") in values]
    if names != [f"{_MEAN}{index}" for index in range(len(names))]:
        raise ConversionError("the mean of the assessment has gaps")
    return tuple(float(values.pop(name)) for name in names)
