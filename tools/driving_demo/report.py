"""The report: what was exported, how fast it is, and how it drove, on one page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import page
import plots
from drives import ALONE, UNANSWERED, WITH_HUMAN, Log
from edge_bdl import Prediction, Runtime
from edge_bdl.manifest import Manifest
from edge_bdl.profiling import Report as Latency
from edge_bdl_train.carracing.environment import DrivingEnvironment
from edge_bdl_train.carracing.expert import Expert
from edge_bdl_train.carracing.weather import apply_weather
from tables import DRIVE_HEAD, LATENCY_HEAD, Row, drive_cells, latency_cells, verdict

# So many steps along the track the camera is shown.
_SHOWN_STEPS = 150
_READING = (
    "Off track: distance in units driven by the network while the car's centre is off the road. Speed: mean, units a "
    "second. Levels: seconds, summed over all tracks. Handoffs: needed where the same drive without the gate left the "
    "road in that weather, and not needed where it did not."
)
_LATENCY_READING = (
    "1 thread; milliseconds. R(S): engine time of S members over one deterministic pass (T_det) of the same network; "
    "naive: how much faster than S whole passes; overhead: what predict() adds to the engine, microseconds."
)


@dataclass(frozen=True)
class Results:
    """All that the demo found out.

    Attributes:
        bundle: The exported bundle's folder.
        manifest: Its manifest.
        latency: What profiling measured.
        logs: Every drive.
        rows: What they add up to.
        live: The drive in real time.
        recording: Of that drive.
        weather: Severity by name.
        command: What was run.
    """

    bundle: Path
    manifest: Manifest
    latency: Latency
    logs: Sequence[Log]
    rows: Sequence[Row]
    live: Log
    recording: Path
    weather: dict[str, float]
    command: str


def write(results: Results, path: Path) -> None:
    """Write the page; an older one stays until the new one is whole."""
    sections = [
        ("Off the road", _drives(results)),
        ("What the camera saw", page.image(plots.camera(_camera(results)), "the same place in every weather")),
        ("Second by second", "".join(page.image(png, "time line of one drive") for png in _timelines(results))),
        ("The same in real time", _live(results)),
        ("Latency", _latency(results.latency)),
        ("The bundle", _bundle(results.manifest)),
    ]
    footer = f"{results.command}, {date.today().isoformat()}. Simulated camera car; 50 steps are a second."
    title = "A network that knows when it is unsure"
    partial = path.with_suffix(".partial")
    partial.write_text(page.page(title, verdict(results.rows, results.logs), sections, footer), encoding="utf-8")
    partial.replace(path)


def picture(results: Results, path: Path) -> None:
    """The first time line by itself, as a PNG file."""
    path.write_bytes(next(_timelines(results)))


def _drives(results: Results) -> str:
    weathers = dict.fromkeys(row.weather for row in results.rows)
    bars = [
        (weather, {row.mode: row.off_track_units for row in results.rows if row.weather == weather})
        for weather in weathers
    ]
    return (
        page.image(plots.off_track(bars), "distance off the road per weather and mode")
        + page.table(DRIVE_HEAD, map(drive_cells, results.rows), text_columns=2, groups=True)
        + page.note(_READING)
    )


def _timelines(results: Results) -> Iterator[bytes]:
    """Per weather the first track, each gated mode against the drive without a gate."""
    for weather in results.weather:
        here = {log.plan.mode: log for log in reversed(results.logs) if log.plan.weather == weather}
        for mode in (WITH_HUMAN, UNANSWERED):
            yield plots.timeline(here[ALONE], here[mode], results.manifest)


def _live(results: Results) -> str:
    text = (
        f"Sudden {results.live.plan.weather}, driven in real time through edge-bdl run: monitor, gate and recorder are "
        f"those of a robot. {results.recording.name} opens in Foxglove, and edge-bdl replay decides it again."
    )
    picture = plots.live(results.live, results.manifest)
    return page.image(picture, "time line of the drive in real time") + page.note(text)


def _camera(results: Results) -> dict[str, tuple[NDArray[np.uint8], str]]:
    """One frame as it is and in every weather, with what the network says of it."""
    runtime, expert, environment = Runtime.open(results.bundle), Expert(), DrivingEnvironment()
    plan = results.logs[0].plan
    environment.reset(plan.seed)
    for _ in range(_SHOWN_STEPS):
        environment.step(expert.control(environment.car, environment.track, plan.target_speed))
    frames = {"clear": environment.frame}
    for weather, severity in results.weather.items():
        frames[weather] = apply_weather(weather, environment.frame, severity, np.random.default_rng(plan.seed))
    environment.close()
    return {weather: (frame, _said(runtime.predict(frame))) for weather, frame in frames.items()}


def _said(prediction: Prediction) -> str:
    scores = "\n".join(f"{name} {value:.3g}" for name, value in prediction.scores().items())
    return f"steering {float(prediction.mean.flat[0]):+.2f}\n{scores}"


def _latency(latency: Latency) -> str:
    cold = ""
    if latency.cold_start_ms is not None and latency.peak_rss_mb is not None:
        cold = f" Cold start {latency.cold_start_ms:.0f} ms, peak memory {latency.peak_rss_mb:.0f} MB."
    machine = f"{latency.machine.processor}, {latency.machine.cores} cores, "
    return page.table(LATENCY_HEAD, map(latency_cells, latency.rows)) + page.note(machine + _LATENCY_READING + cold)


def _bundle(manifest: Manifest) -> str:
    proof = f"{len(manifest.parity)} checks passed under {', '.join(manifest.engines)} and ONNX's reference evaluator."
    files = page.table(("file", "bytes"), [(name, f"{entry.bytes:,}") for name, entry in manifest.files.items()])
    return files + page.note(" ".join((proof, *manifest.warnings)))
