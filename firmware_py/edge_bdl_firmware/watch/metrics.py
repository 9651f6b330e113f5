"""The report for Prometheus, on a port of this machine's own that somebody has to ask for."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from edge_bdl.errors import InputError, require
from edge_bdl.policy import Level
from edge_bdl_firmware.messages import AnyMessage, Assessment, Step
from edge_bdl_firmware.watch.report import UNKNOWN, Report

if TYPE_CHECKING:
    from prometheus_client import Gauge

LOOPBACK = "127.0.0.1"

_LEVELS = [UNKNOWN, *(level.value for level in Level)]  # the first is where it begins
# From a GPU's millisecond to what is far too late for any robot.
_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0)


class Metrics:
    """Gauges follow the report, counters and histograms the messages.

    Raises:
        MissingExtraError: prometheus-client is not installed.
    """

    def __init__(self) -> None:
        self._client = require("prometheus_client", "metrics", "to serve metrics")
        client = self._client
        # Not the library's global one: what else this process knows of itself is of no interest on a robot.
        self.registry = registry = client.CollectorRegistry()
        self._level = client.Enum(
            "edge_bdl_level", "How far the network is trusted; UNKNOWN: no gate.", states=_LEVELS, registry=registry
        )
        self._speed_factor = client.Gauge(
            "edge_bdl_speed_factor", "Largest share of a command that may pass; NaN: no gate.", registry=registry
        )
        self._human = client.Gauge("edge_bdl_human_in_control", "A human drives.", registry=registry)
        self._bypass = client.Gauge("edge_bdl_bypass", "A human set the bypass.", registry=registry)
        self._score = _Newest(client.Gauge("edge_bdl_score", "Of the newest frame.", ["score"], registry=registry))
        self._threshold = _Newest(
            client.Gauge(
                "edge_bdl_threshold", "Above it a score asks for the level.", ["score", "level"], registry=registry
            )
        )
        self._silence = client.Gauge("edge_bdl_seconds_since_last_word", "+Inf: never.", ["source"], registry=registry)
        self._bundle = client.Info("edge_bdl_bundle", "What assesses the frames.", registry=registry)
        self._stage = client.Histogram(
            "edge_bdl_stage_seconds", "Where a frame's time went.", ["stage"], buckets=_SECONDS, registry=registry
        )
        self._late = client.Histogram(
            "edge_bdl_tick_late_seconds", "How late the gate's ticks came.", buckets=_SECONDS, registry=registry
        )
        self._steps = client.Counter("edge_bdl_steps", "Of the policy.", ["trigger"], registry=registry)
        self._transitions = client.Counter(
            "edge_bdl_transitions", "Into a level, as seen from here.", ["level"], registry=registry
        )
        self._frames = client.Counter(
            "edge_bdl_frames", "Assessed, by whether their scores mean something.", ["valid"], registry=registry
        )
        self._dropped = client.Counter("edge_bdl_dropped_frames", "That nobody looked at.", registry=registry)
        for level in Level:
            self._transitions.labels(level.value)
        for valid in ("true", "false"):
            self._frames.labels(valid)
        self._last_level: str | None = None
        self._last_dropped = 0

    def serve(self, port: int) -> int:
        """Answer scrapes from this machine in a thread of its own; returns the port.

        Args:
            port: To listen at; 0: any.

        Raises:
            InputError: The port cannot be had.
        """
        try:
            server, _ = self._client.start_http_server(port, LOOPBACK, self.registry)
        except OSError as error:
            raise InputError(f"cannot serve metrics at {LOOPBACK}:{port}: {error.strerror}") from error
        chosen: int = server.server_port
        return chosen

    def hear(self, message: AnyMessage) -> None:
        """Count a message."""
        if isinstance(message, Step):
            self._hear_step(message)
        elif isinstance(message, Assessment):
            self._hear_assessment(message)

    def show(self, report: Report, since_s: Mapping[str, float]) -> None:
        """Set what stands at the moment.

        Args:
            report: How things stand.
            since_s: Seconds since the last word, by who spoke it.
        """
        self._level.state(report.level if report.level in _LEVELS else UNKNOWN)
        self._speed_factor.set(math.nan if report.speed_factor is None else report.speed_factor)
        self._human.set(report.human_in_control)
        self._bypass.set(report.bypass)
        for source, seconds in since_s.items():
            self._silence.labels(source).set(seconds)
        self._bundle.info({"digest": report.bundle, "path": report.bundle_path})
        self._score.replace({(score.name,): score.value for score in report.scores})
        self._threshold.replace(
            {
                (score.name, level): limit
                for score in report.scores
                for level, limit in (("SLOW", score.slow), ("HANDOFF", score.handoff))
                if limit is not None
            },
        )

    def _hear_step(self, step: Step) -> None:
        self._steps.labels(step.trigger).inc()
        if step.trigger == "tick":
            self._late.observe(step.late_ms / 1e3)
        if self._last_level is not None and step.level != self._last_level:
            self._transitions.labels(step.level).inc()
        self._last_level = step.level

    def _hear_assessment(self, assessment: Assessment) -> None:
        self._frames.labels("true" if assessment.fault is None else "false").inc()
        for stage, milliseconds in assessment.stages_ms.items():
            self._stage.labels(stage).observe(milliseconds / 1e3)
        # A monitor that was started again counts from 0.
        before = self._last_dropped if assessment.dropped >= self._last_dropped else 0
        self._dropped.inc(assessment.dropped - before)
        self._last_dropped = assessment.dropped


class _Newest:
    """A gauge that forgets what is no longer said, so that nothing stays at its last value."""

    def __init__(self, gauge: Gauge) -> None:
        self._gauge = gauge
        self._known: set[tuple[str, ...]] = set()

    def replace(self, values: Mapping[tuple[str, ...], float]) -> None:
        """Set these, by their labels, and forget the others."""
        for labels in self._known - values.keys():
            self._gauge.remove(*labels)
        for labels, value in values.items():
            self._gauge.labels(*labels).set(value)
        self._known = set(values)
