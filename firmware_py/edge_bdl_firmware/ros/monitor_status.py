"""How the monitor is doing, as a ``DiagnosticStatus`` for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any, NamedTuple

from diagnostic_msgs.msg import DiagnosticStatus, KeyValue

from edge_bdl_firmware.messages import Assessment
from edge_bdl_firmware.monitor import Monitor

_LONGEST_SILENCE_S = 1.0  # of a worker; the gate has long stopped the robot, here people learn why


class Window(NamedTuple):
    """What happened since the last status.

    Attributes:
        duration_s: How long it was.
        received: Frames that came.
        dropped: Frames of them that newer ones replaced before they were looked at.
        assessments: What was said of the others.
        silent_s: How long ago the worker last gave a sign of life.
    """

    duration_s: float
    received: int
    dropped: int
    assessments: Sequence[Assessment]
    silent_s: float


class Health:
    """Keeps count of a monitor while it is active.

    Args:
        monitor: Has started.
        now_s: CLOCK_MONOTONIC, as in all that follows.
    """

    def __init__(self, monitor: Monitor, now_s: float) -> None:
        self._monitor = monitor
        self._progress, self._progress_s = monitor.progress, now_s
        self._begin(now_s)

    def hear(self, assessment: Assessment) -> None:
        """The monitor said this; called by its worker."""
        self._assessments.append(assessment)

    def progressed(self, now_s: float) -> bool:
        """Whether the worker has given a sign of life since the last call.

        Raises:
            RuntimeError: It has died.
        """
        if not self._monitor.alive:
            raise RuntimeError("the monitor's worker has died")
        before, self._progress = self._progress, self._monitor.progress
        if self._progress != before:
            self._progress_s = now_s
        return self._progress != before

    def window(self, now_s: float) -> Window:
        """What happened since the last call."""
        window = Window(
            duration_s=now_s - self._since_s,
            received=self._monitor.received - self._received,
            dropped=self._monitor.dropped - self._dropped,
            assessments=self._assessments,
            silent_s=now_s - self._progress_s,
        )
        self._begin(now_s)
        return window

    def _begin(self, now_s: float) -> None:
        # A new list: the worker may still append to the old one, which is no harm to whoever reads it.
        self._assessments: list[Assessment] = []
        self._since_s = now_s
        self._received, self._dropped = self._monitor.received, self._monitor.dropped


def status_of_window(window: Window, topic: str, facts: Mapping[str, object], hardware_id: str) -> Any:
    """The status of a monitor that is active: OK, ERROR with the fault, or STALE where no image comes.

    Args:
        window: What happened.
        topic: That images should come on.
        facts: What else to say, by name.
        hardware_id: Of the machine.
    """
    rate_hz = window.received / window.duration_s
    fault = window.assessments[-1].fault if window.assessments else None
    if window.silent_s > _LONGEST_SILENCE_S:
        level, message = DiagnosticStatus.ERROR, f"the engine has not answered for {window.silent_s:.1f} s"
    elif not window.received:
        level, message = DiagnosticStatus.STALE, f"no image comes on {topic}"
    elif fault is not None:
        level, message = DiagnosticStatus.ERROR, fault
    else:
        level, message = DiagnosticStatus.OK, f"{rate_hz:.1f} frames/s"
    values = {
        "frame_rate_hz": f"{rate_hz:.1f}",
        "dropped": window.dropped,
        "assessed": len(window.assessments),
        "faults": sum(assessment.fault is not None for assessment in window.assessments),
        **_stages_ms(window.assessments),
    }
    return _status(level, message, {"state": "active", **values, **facts}, hardware_id)


def status_of_rest(state: str, facts: Mapping[str, object], hardware_id: str) -> Any:
    """The status of a monitor that is not active: what an inactive publisher does not say is said here.

    Args:
        state: Of the lifecycle.
        facts: What else to say, by name.
        hardware_id: Of the machine.
    """
    message = f"{state}: no frame is assessed, so a gate holds the robot"
    return _status(DiagnosticStatus.WARN, message, {"state": state, **facts}, hardware_id)


def _stages_ms(assessments: Sequence[Assessment]) -> dict[str, str]:
    """Median and largest time of every stage, in the order in which a frame goes through them."""
    times: dict[str, list[float]] = {}
    for assessment in assessments:
        for stage, took_ms in assessment.stages_ms.items():
            times.setdefault(stage, []).append(took_ms)
    return {
        f"{stage}_ms.{name}": f"{of(took_ms):.2f}"
        for stage, took_ms in times.items()
        for name, of in (("p50", median), ("max", max))
    }


def _status(level: bytes, message: str, values: Mapping[str, object], hardware_id: str) -> Any:
    return DiagnosticStatus(
        level=level,
        name="edge_bdl_monitor: camera and engine",
        message=message,
        hardware_id=hardware_id,
        values=[KeyValue(key=key, value=str(value)) for key, value in values.items()],
    )
