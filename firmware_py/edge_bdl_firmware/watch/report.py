"""Gathers what gate and monitor say, and answers how things stand. Pure: messages and times in, a report out.

A level is only known while the gate speaks: an old one is shown as the last, never as the present.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping
from statistics import median

import msgspec

from edge_bdl_firmware.messages import AnyMessage, Assessment, Opening, Step

UNKNOWN = "UNKNOWN"

_WINDOW_S = 5.0
#: The gate steps 20 times a second or more; a frame may be as old as 0.4 s; everybody says an Opening once a second.
_SILENT_AFTER_S = {"gate": 0.5, "frames": 0.5, "monitor": 1.5}


class ScoreReading(msgspec.Struct, frozen=True, kw_only=True):
    """One score of the newest frame, and what it is held against; None where the gate has not said."""

    name: str
    value: float
    slow: float | None = None
    handoff: float | None = None

    @property
    def zone(self) -> str:
        """The level that this score by itself asks for: ``ok``, ``SLOW``, ``HANDOFF``, or ``invalid``."""
        if not math.isfinite(self.value):
            return "invalid"
        if self.handoff is not None and self.value > self.handoff:
            return "HANDOFF"
        return "SLOW" if self.slow is not None and self.value > self.slow else "ok"


class Spread(msgspec.Struct, frozen=True):
    """Median and largest of the last seconds; milliseconds."""

    p50: float
    max: float


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """How things stand at one time.

    Attributes:
        level: The gate's; ``UNKNOWN`` while the gate is silent.
        last_level: The last that the gate said, however long ago; None where it never spoke.
        speed_factor: The gate's; None while it is silent.
        reason: The gate's newest.
        human_in_control: A human drives.
        bypass: A human set the bypass.
        command: The newest command that the gate had; None without a fresh one.
        output: What it let pass of it.
        scores: Of the newest frame; empty where none came lately.
        fault: Why the newest frame's scores mean nothing; None where they are valid.
        samples: Members that the newest frame was assessed with.
        stages_ms: Where the time of the frames went, by stage.
        late_ms: How much later than planned the gate's ticks came.
        frames_per_s: Assessments of the last seconds.
        dropped: Frames since the monitor's start that nobody looked at.
        dropped_lately: Those of the last seconds.
        bundle: Digest of the bundle that the gate holds, else of the monitor's.
        bundle_path: Where it was opened.
        other_bundle: Digest of the monitor's where the two differ.
        silent_s: By ``gate``, ``frames`` and ``monitor``, how long each has been silent; only those that are for too
            long. Infinite where it never spoke.
    """

    level: str
    last_level: str | None
    speed_factor: float | None
    reason: str
    human_in_control: bool
    bypass: bool
    command: tuple[float, ...] | None
    output: tuple[float, ...]
    scores: tuple[ScoreReading, ...]
    fault: str | None
    samples: int
    stages_ms: dict[str, Spread]
    late_ms: Spread | None
    frames_per_s: float
    dropped: int
    dropped_lately: int
    bundle: str
    bundle_path: str
    other_bundle: str | None
    silent_s: dict[str, float]


class Reporter:
    """Remembers the newest of every kind of message, and a few seconds of those that are counted."""

    def __init__(self) -> None:
        self.last_heard_s = dict.fromkeys(_SILENT_AFTER_S, -math.inf)
        self._step: Step | None = None
        self._assessment: Assessment | None = None
        self._openings: dict[str, Opening] = {}
        self._assessments: deque[tuple[float, Assessment]] = deque()
        self._late_ms: deque[tuple[float, float]] = deque()

    @property
    def complete(self) -> bool:
        """Whether every kind of message has come that a view shows."""
        return self._step is not None and self._assessment is not None and "gate" in self._openings

    @property
    def anything(self) -> bool:
        """Whether anybody has said anything."""
        return max(self.last_heard_s.values()) > -math.inf

    def hear(self, message: AnyMessage, now_s: float) -> None:
        """Take in a message; those of no interest here are passed over.

        Args:
            message: Any.
            now_s: When it came, CLOCK_MONOTONIC.
        """
        if isinstance(message, Step):
            self._step = message
            self.last_heard_s["gate"] = now_s
            if message.trigger == "tick":
                self._late_ms.append((now_s, message.late_ms))
        elif isinstance(message, Assessment):
            self._hear_assessment(message, now_s)
        elif isinstance(message, Opening):
            self._openings[message.process] = message
            if message.process == "monitor":
                self.last_heard_s["monitor"] = now_s
        self._forget(now_s)

    def report(self, now_s: float) -> Report:
        """How things stand at a time, seconds of CLOCK_MONOTONIC."""
        self._forget(now_s)
        silent_s = {
            name: now_s - heard_s
            for name, heard_s in self.last_heard_s.items()
            if now_s - heard_s > _SILENT_AFTER_S[name]
        }
        step = self._step if "gate" not in silent_s else None
        assessment = self._assessment if "frames" not in silent_s else None
        ours, theirs = self._bundles()
        opening = self._openings.get("gate") or self._openings.get("monitor")
        return Report(
            level=step.level if step else UNKNOWN,
            last_level=self._step.level if self._step else None,
            speed_factor=step.speed_factor if step else None,
            reason=self._step.reason if self._step else "",
            human_in_control=step is not None and step.human_in_control,
            bypass=step is not None and step.bypass,
            command=step.command if step else None,
            output=step.output if step else (),
            scores=self._scores(assessment) if assessment else (),
            fault=assessment.fault if assessment else None,
            samples=assessment.samples if assessment else 0,
            stages_ms=self._stages_ms(),
            late_ms=_spread(late_ms for _, late_ms in self._late_ms),
            frames_per_s=self._frames_per_s(now_s),
            dropped=self._assessment.dropped if self._assessment else 0,
            dropped_lately=self._dropped_lately(),
            bundle=ours or theirs,
            bundle_path=opening.bundle_path if opening else "",
            other_bundle=theirs if ours and theirs and ours != theirs else None,
            silent_s=silent_s,
        )

    def _hear_assessment(self, assessment: Assessment, now_s: float) -> None:
        if self._assessment is not None and assessment.dropped < self._assessment.dropped:
            self._assessments.clear()  # another monitor, which counts from 0
        self._assessment = assessment
        self._assessments.append((now_s, assessment))
        self.last_heard_s["frames"] = self.last_heard_s["monitor"] = now_s

    def _forget(self, now_s: float) -> None:
        for window in (self._assessments, self._late_ms):
            while window and now_s - window[0][0] > _WINDOW_S:
                window.popleft()

    def _scores(self, assessment: Assessment) -> tuple[ScoreReading, ...]:
        gate = self._openings.get("gate")
        parameters: Mapping[str, str] = gate.parameters if gate else {}
        return tuple(
            ScoreReading(
                name=name,
                value=value,
                slow=_number(parameters.get(f"threshold.{name}.slow")),
                handoff=_number(parameters.get(f"threshold.{name}.handoff")),
            )
            for name, value in assessment.scores.items()
        )

    def _stages_ms(self) -> dict[str, Spread]:
        """Of all stages that the frames of the window name, in the newest frame's order."""
        if not self._assessments:
            return {}
        stages = self._assessments[-1][1].stages_ms
        spreads = {
            stage: _spread(said.stages_ms[stage] for _, said in self._assessments if stage in said.stages_ms)
            for stage in stages
        }
        return {stage: spread for stage, spread in spreads.items() if spread is not None}

    def _frames_per_s(self, now_s: float) -> float:
        if len(self._assessments) < 2:
            return 0.0
        # Up to now and not up to the newest frame, so that a camera that stopped is seen to slow down.
        seconds = now_s - self._assessments[0][0]
        return (len(self._assessments) - 1) / seconds if seconds > 0.0 else 0.0

    def _dropped_lately(self) -> int:
        if not self._assessments:
            return 0
        return self._assessments[-1][1].dropped - self._assessments[0][1].dropped

    def _bundles(self) -> tuple[str, str]:
        gate, monitor = self._openings.get("gate"), self._openings.get("monitor")
        theirs = self._assessment.bundle if self._assessment else monitor.bundle if monitor else ""
        return gate.bundle if gate else "", theirs


def _spread(values: Iterable[float]) -> Spread | None:
    finite = [value for value in values if math.isfinite(value)]
    return Spread(median(finite), max(finite)) if finite else None


def _number(text: str | None) -> float | None:
    """A threshold as a number; None where there is none, or none that a bar could show."""
    try:
        number = float(text) if text is not None else math.nan
    except ValueError:
        return None
    return number if math.isfinite(number) else None
