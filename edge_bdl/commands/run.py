"""``edge-bdl run``: a bundle and its policy over a folder of frames, as a robot would run them."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from edge_bdl.commands.arguments import Parser, add_engine, open_runtime, positive
from edge_bdl.commands.frames import frame_files, read_frame
from edge_bdl.commands.output import columns, print_json
from edge_bdl.errors import EdgeBdlError, EngineError, InputError
from edge_bdl.policy import Decision, Evidence, Level, Policy
from edge_bdl.runtime import Runtime


class Tick(msgspec.Struct, frozen=True):
    """One frame's outcome: its time since the first, its file, what was decided and by what evidence."""

    time_s: float
    file: str
    decision: Decision
    evidence: Evidence
    latency_ms: float | None


def run(argv: Sequence[str]) -> int:
    """Run the verb; returns the exit code.

    Raises:
        EdgeBdlError: Bad usage, a bundle that is not sound, or a first frame that does not fit it.
    """
    parser = Parser("run", "Run a bundle and its policy over a folder of frames, and say what was decided.")
    parser.add_argument(
        "--source", metavar="FOLDER", type=Path, required=True, help="images or .npy files, in name order"
    )
    parser.add_argument("--rate", metavar="HZ", type=positive, help="the camera's rate (default: as fast as they come)")
    parser.add_argument("--samples", type=int, help="members to use (default: all of the bank)")
    add_engine(parser)
    options = parser.parse_args(argv)
    runtime = open_runtime(options)
    if len(runtime.manifest.inputs) != 1:
        raise InputError(f"run takes bundles with one input, this one has {len(runtime.manifest.inputs)}")
    files = frame_files(options.source)
    spec = runtime.manifest.policy
    policy = Policy(spec if options.rate is None else spec.at_rate(options.rate))
    runtime.warm_up()
    ticks: list[Tick] = []
    for tick in drive(runtime, policy, files, _clock(options.rate)):
        if not options.json and (not ticks or ticks[-1].decision.level is not tick.decision.level):
            print(_line(tick), flush=True)
        ticks.append(tick)
    if options.json:
        print_json(_facts(ticks))
    else:
        print(_text(ticks))
    return 0


def drive(runtime: Runtime, policy: Policy, files: Sequence[Path], clock: Callable[[int], float]) -> Iterator[Tick]:
    """Predict and decide, frame by frame. A frame that cannot be read or predicted is a fault, as on a robot.

    Args:
        runtime: Predicts.
        policy: Decides.
        files: The frames in their order.
        clock: Monotonic time of frame number i, seconds.

    Raises:
        EdgeBdlError: The first frame cannot be read or does not fit the bundle: then none of them will.
    """
    spec = runtime.manifest.inputs[0]
    for index, path in enumerate(files):
        now_s = clock(index)
        latency_ms = None
        try:
            prediction = runtime.predict(read_frame(path, spec))
            latency_ms = prediction.latency_ms
            evidence = prediction.evidence(age_s=latency_ms / 1e3)
        except EdgeBdlError as error:
            if index == 0 and not isinstance(error, EngineError):
                raise
            evidence = Evidence(scores={}, samples=0, fault=str(error))
        yield Tick(now_s, path.name, policy.step(now_s, evidence), evidence, latency_ms)


def _clock(rate: float | None) -> Callable[[int], float]:
    """Time of a frame since the first: as the camera would have it, or as it passes here."""
    if rate is not None:
        return lambda index: index / rate
    start = time.monotonic()
    return lambda index: time.monotonic() - start


def _times(ticks: Sequence[Tick]) -> dict[str, float]:
    """Seconds in each level; a decision lasts until the next."""
    seconds = {level.value: 0.0 for level in Level}
    for tick, following in itertools.pairwise(ticks):
        seconds[tick.decision.level.value] += following.time_s - tick.time_s
    return seconds


def _latency_ms(ticks: Sequence[Tick]) -> float | None:
    latencies = [tick.latency_ms for tick in ticks if tick.latency_ms is not None]
    return float(np.median(latencies)) if latencies else None


def _facts(ticks: Sequence[Tick]) -> dict[str, Any]:
    return {
        "frames": len(ticks),
        "faults": sum(tick.evidence.fault is not None for tick in ticks),
        "level_s": _times(ticks),
        "p50_ms": _latency_ms(ticks),
        "ticks": [
            {
                "time_s": tick.time_s,
                "file": tick.file,
                "level": tick.decision.level.value,
                "speed_factor": tick.decision.speed_factor,
                "reason": tick.decision.reason,
                "scores": tick.evidence.scores,
            }
            for tick in ticks
        ],
    }


def _line(tick: Tick) -> str:
    return f"{tick.time_s:9.2f} s  {tick.file}  {tick.decision.level.value}: {tick.decision.reason}"


def _text(ticks: Sequence[Tick]) -> str:
    total_s = ticks[-1].time_s - ticks[0].time_s
    rows = [
        (level, f"{seconds:.2f} s", f"{seconds / total_s:.0%}" if total_s > 0.0 else "")
        for level, seconds in _times(ticks).items()
    ]
    faults = sum(tick.evidence.fault is not None for tick in ticks)
    latency_ms = _latency_ms(ticks)
    speed = sum(tick.decision.speed_factor for tick in ticks) / len(ticks)
    head = f"{len(ticks)} frames, {faults} without valid evidence, mean speed factor {speed:.2f}"
    return "\n".join([head + (f", p50 {latency_ms:.2f} ms" if latency_ms is not None else ""), columns(rows)])
