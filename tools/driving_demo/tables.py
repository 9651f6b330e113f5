"""What the drives add up to, and the tables as text for terminal and page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from drives import ALONE, PERIOD_S, UNANSWERED, WITH_HUMAN, Log
from edge_bdl import Level
from edge_bdl.profiling import Row as LatencyRow

LEVELS = [level.value for level in Level]


@dataclass(frozen=True)
class Row:
    """One weather and mode, over all tracks.

    Attributes:
        weather: As planned.
        mode: As planned.
        off_track_units: Distance off the road while the network drives.
        mean_speed: Units a second.
        seconds_in: Per level; empty without a gate.
        handoffs_needed: Where the same drive without the gate left the road in that weather.
        handoffs_not_needed: Where it did not.
    """

    weather: str
    mode: str
    off_track_units: float
    mean_speed: float
    seconds_in: dict[str, float]
    handoffs_needed: int
    handoffs_not_needed: int


def summarise(logs: Sequence[Log]) -> list[Row]:
    """Rows in the order of the drives."""
    groups: dict[tuple[str, str], list[Log]] = {}
    for log in logs:
        groups.setdefault((log.plan.weather, log.plan.mode), []).append(log)
    left_road = {
        (log.plan.weather, log.plan.seed): _left_road_in_weather(log) for log in logs if log.plan.mode == ALONE
    }
    return [_row(weather, mode, group, left_road) for (weather, mode), group in groups.items()]


def _row(weather: str, mode: str, logs: Sequence[Log], left_road: dict[tuple[str, int], bool]) -> Row:
    handoffs = [(len(log.handoff_steps), left_road.get((weather, log.plan.seed), False)) for log in logs]
    gated = mode != ALONE
    return Row(
        weather=weather,
        mode=mode,
        off_track_units=sum(log.off_track_distance for log in logs),
        mean_speed=float(np.mean([log.mean_speed for log in logs])),
        seconds_in={level: sum(log.time_in(level) for log in logs) for level in LEVELS} if gated else {},
        handoffs_needed=sum(count for count, needed in handoffs if needed) if gated else 0,
        handoffs_not_needed=sum(count for count, needed in handoffs if not needed) if gated else 0,
    )


def _left_road_in_weather(log: Log) -> bool:
    return any(off and log.plan.in_weather(step) for step, off in enumerate(log.off_track))


_GATES = {WITH_HUMAN: "with the gate and a human who answers", UNANSWERED: "with the gate and nobody who answers"}


def verdict(rows: Sequence[Row], logs: Sequence[Log]) -> str:
    """In a few sentences, whether the gate helped."""
    hazards = [row for row in rows if row.weather != "clear"]
    off_track = {
        mode: sum(row.off_track_units for row in hazards if row.mode == mode)
        for mode in (ALONE, WITH_HUMAN, UNANSWERED)
    }
    gated = ", ".join(f"{off_track[mode]:.0f} units {words}" for mode, words in _GATES.items())
    helped = all(off_track[mode] < off_track[ALONE] for mode in _GATES)
    held, driven = _interference(logs)
    needed, not_needed = sum(row.handoffs_needed for row in rows), sum(row.handoffs_not_needed for row in rows)
    return (
        f"In weather that it had never seen the network drove {off_track[ALONE]:.0f} units off the road; {gated}. "
        f"{'The gate helped.' if helped else 'The gate did not help.'} {needed} handoffs were needed, {not_needed} "
        f"were not. On clear tracks the gate interfered for {held:.1f} of {driven:.1f} s."
    )


def _interference(logs: Sequence[Log]) -> tuple[float, float]:
    """Seconds that the gate held the robot back on clear tracks, the start apart, and seconds driven."""
    levels = [log.level[_start(log) :] for log in logs if log.plan.weather == "clear" and log.plan.mode != ALONE]
    held = sum(level != Level.NOMINAL.value for drive in levels for level in drive)
    return held * PERIOD_S, sum(map(len, levels)) * PERIOD_S


def _start(log: Log) -> int:
    """The first step in NOMINAL: what comes before is the start that every drive has."""
    return log.level.index(Level.NOMINAL.value) if Level.NOMINAL.value in log.level else 0


DRIVE_HEAD = ("weather", "mode", "off track", "speed", *LEVELS, "needed", "not")


def drive_cells(row: Row) -> list[str]:
    """A row of the drives' table, as text; "-" where there is no gate."""
    handoffs = (str(row.handoffs_needed), str(row.handoffs_not_needed))
    return [
        row.weather,
        row.mode,
        f"{row.off_track_units:.0f}",
        f"{row.mean_speed:.1f}",
        *(f"{row.seconds_in[level]:.1f}" if row.seconds_in else "-" for level in LEVELS),
        *(("-", "-") if row.mode == ALONE else handoffs),
    ]


LATENCY_HEAD = ("engine", "S", "n", "p50", "p99", "T_det", "R(S)", "naive", "overhead")


def latency_cells(row: LatencyRow) -> list[str]:
    """A row of the latency table, as text."""
    return [
        row.engine,
        str(row.samples),
        str(row.n),
        *(f"{value:.3f}" if value is not None else "n small" for value in (row.p50_ms, row.p99_ms)),
        f"{row.det_p50_ms:.3f}",
        f"{row.ratio:.2f}",
        f"{row.speedup:.1f} x",
        f"{row.overhead_us:.0f}",
    ]
