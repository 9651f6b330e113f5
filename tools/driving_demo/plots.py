"""The report's pictures, as PNG bytes."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from drives import PERIOD_S, Log
from edge_bdl.manifest import Manifest
from edge_bdl_train.carracing.track import HALF_ROAD_UNITS

LEVEL_COLOURS = {
    "HOLD": "#9aa5b1", "NOMINAL": "#4caf7a", "SLOW": "#f2b134", "HANDOFF": "#e4572e", "STOP": "#8c1c13",
}  # fmt: skip
_ALONE, _GATED, _UNANSWERED = "#b0413e", "#1f5f8b", "#7aa6c2"
_SCORES = {"epistemic": "#5b4b8a", "total": "#9aa5b1", "density": "#1b8a7a"}


def timeline(alone: Log, gated: Log, manifest: Manifest) -> bytes:
    """One weather: levels, the density score, and how far from the middle of the road, with and without the gate."""
    figure, (levels, scores, distance) = plt.subplots(
        3, 1, figsize=(9.5, 5.2), sharex=True, height_ratios=(0.5, 1.4, 1.6), layout="constrained"
    )
    seconds = np.arange(gated.plan.steps) * PERIOD_S
    _levels(levels, seconds, gated)
    _scores(scores, seconds, gated, manifest)
    distance.axhspan(0, HALF_ROAD_UNITS, color="#eef1f4", zorder=0)
    distance.plot(seconds, alone.off_centre, color=_ALONE, lw=1.2, label="no gate")
    distance.plot(seconds, gated.off_centre, color=_GATED, lw=1.4, label=gated.plan.mode)
    distance.set(ylabel="off centre\n[units]", xlabel="time [s]", ylim=(0, min(60, 1.1 * max(alone.off_centre) + 3)))
    distance.text(0.2, HALF_ROAD_UNITS, "edge of the road", fontsize=8, va="bottom", color="#5c6770")
    distance.legend(loc="upper left", fontsize=8, frameon=False, ncols=2, bbox_to_anchor=(0.12, 1.0))
    for axes in (scores, distance):
        axes.axvspan(*_weather(gated), color="#c9d6e2", alpha=0.35, lw=0, zorder=0)
        axes.spines[["top", "right"]].set_visible(False)
    middle = sum(_weather(gated)) / 2
    scores.text(middle, 0.4, gated.plan.weather, transform=scores.get_xaxis_transform(), ha="center", va="center")
    figure.suptitle(f"{gated.plan.weather}: {gated.plan.mode}", fontsize=11, x=0.02, ha="left")
    return _png(figure)


def live(log: Log, manifest: Manifest) -> bytes:
    """The drive in real time: levels, scores, and the speed that was asked for, let pass, and driven."""
    figure, (levels, scores, speed) = plt.subplots(
        3, 1, figsize=(9.5, 5.2), sharex=True, height_ratios=(0.5, 1.4, 1.6), layout="constrained"
    )
    seconds = np.arange(log.plan.steps) * PERIOD_S
    _levels(levels, seconds, log)
    _scores(scores, seconds, log, manifest)
    speed.axhline(log.plan.target_speed, color="#9aa5b1", lw=1.0, ls="--", label="commanded")
    speed.plot(
        seconds, np.array(log.speed_factor) * log.plan.target_speed, color=_GATED, lw=1.4, label="out of the gate"
    )
    speed.plot(seconds, log.speed, color=_ALONE, lw=1.2, label="driven")
    speed.set(ylabel="speed\n[units/s]", xlabel="time [s]", ylim=(0, 1.35 * log.plan.target_speed))
    speed.legend(loc="upper left", fontsize=8, frameon=False, ncols=3)
    for axes in (scores, speed):
        axes.axvspan(*_weather(log), color="#c9d6e2", alpha=0.35, lw=0, zorder=0)
        axes.spines[["top", "right"]].set_visible(False)
    return _png(figure)


def _levels(axes: Axes, seconds: NDArray[np.float64], log: Log) -> None:
    start = 0
    for step in range(1, len(log.level) + 1):
        if step == len(log.level) or (log.level[step], log.human[step]) != (log.level[start], log.human[start]):
            end = seconds[step - 1] + PERIOD_S
            human = log.human[start]
            axes.axvspan(seconds[start], end, color=LEVEL_COLOURS[log.level[start]], alpha=0.45 if human else 1.0, lw=0)
            if end - seconds[start] > 3.0:
                name = "human drives" if human else log.level[start]
                axes.text((seconds[start] + end) / 2, 0.5, name, ha="center", va="center", fontsize=8)
            start = step
    axes.set(yticks=[], ylim=(0, 1), xlim=(0, seconds[-1]))
    axes.set_ylabel("level", rotation=0, ha="right", va="center")


def _scores(axes: Axes, seconds: NDArray[np.float64], log: Log, manifest: Manifest) -> None:
    for score in manifest.policy.scores:
        limits = score.at(manifest.bank.members)
        values = np.array(log.scores[score.name])
        if limits is not None:
            axes.plot(seconds, values / limits.handoff, color=_SCORES[score.name], lw=1.1, label=score.name)
    axes.axhline(1.0, color=LEVEL_COLOURS["HANDOFF"], lw=1.2)
    axes.text(0.2, 1.2, "HANDOFF threshold", fontsize=8, color=LEVEL_COLOURS["HANDOFF"], va="bottom")
    axes.set(yscale="log", ylabel="scores /\nthreshold")
    axes.legend(fontsize=8, frameon=False, loc="lower center", ncols=3)


def _weather(log: Log) -> tuple[float, float]:
    """When it begins and ends."""
    return log.plan.before_s, log.plan.before_s + log.plan.weather_s


def camera(frames: Mapping[str, tuple[NDArray[np.uint8], str]]) -> bytes:
    """What the camera saw in each weather, with what the network said."""
    figure, every = plt.subplots(1, len(frames), figsize=(2.4 * len(frames), 3.5), layout="constrained")
    for axes, (weather, (frame, said)) in zip(np.atleast_1d(every), frames.items(), strict=True):
        axes.imshow(frame, interpolation="nearest")
        axes.set_title(weather, fontsize=10)
        axes.set_xlabel(said, fontsize=8)
        axes.set(xticks=[], yticks=[])
    return _png(figure)


def off_track(rows: Sequence[tuple[str, Mapping[str, float]]]) -> bytes:
    """Distance off the road per weather and mode."""
    figure, axes = plt.subplots(figsize=(6.4, 2.6), layout="constrained")
    modes = list(dict.fromkeys(mode for _, by_mode in rows for mode in by_mode))
    width = 0.8 / len(modes)
    for i, (mode, colour) in enumerate(zip(modes, (_ALONE, _GATED, _UNANSWERED), strict=False)):
        places = np.arange(len(rows)) + (i - (len(modes) - 1) / 2) * width
        bars = axes.bar(places, [by_mode.get(mode, 0.0) for _, by_mode in rows], width * 0.92, color=colour, label=mode)
        axes.bar_label(bars, fmt="%.0f", fontsize=8)
    axes.set_xticks(np.arange(len(rows)), [weather for weather, _ in rows])
    axes.set_ylabel("units off the road\nwhile the network drives")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, frameon=False)
    return _png(figure)


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    plt.close(figure)
    return buffer.getvalue()
