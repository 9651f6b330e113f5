"""Clear, hazard, clear: how soon the robot slows, how long it is held, when it goes on. Real time, real processes.

    .venv/bin/python tools/bench/timeline.py [--bundle demo/carracing.ebdl] [--drives 5] [--keep FOLDER]

A simulated car drives through ``edge-bdl run``; every drive is recorded, and its recording must replay to the same
decisions. Two hazards, both sudden: thin fog that only slows, and thick fog that hands over to a scripted human. How
thin is for the bundle to say: as far over its SLOW thresholds as below those that hand over. The thin one is short:
with the second that its release takes, SLOW must not last for the 3 s that hand over.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "driving_demo"))

from drives import PERIOD_S, UNANSWERED, WITH_HUMAN, Log, Plan
from edge_bdl import Bundle, Level, Runtime
from edge_bdl_train.carracing.environment import DrivingEnvironment
from edge_bdl_train.carracing.weather import apply_weather
from live import drive_live

_SPEED = 25.0
_SUDDEN_S = PERIOD_S  # the hazard is all there within a step
_BEFORE_S, _AFTER_S = 8.0, 12.0
_FOG = "fog"
_THICK = 0.75
_THIN = np.linspace(0.02, 0.4, 39)  # severities to choose from
_LOOK_TRACK, _LOOKS = 5_999, 20  # a track that nobody drives, looked at from so many places


@dataclass(frozen=True)
class Timeline:
    """One drive in numbers: seconds from the hazard's start or end, shares of time."""

    to_slow_s: float
    held: float
    to_nominal_s: float
    to_full_speed_s: float
    held_when_clear: float
    deepest: str
    replayed: bool


def main() -> int:
    """Drive, print the table; returns 1 where a goal was missed."""
    parser = argparse.ArgumentParser(description="Clear, hazard, clear, in real time through the real processes.")
    parser.add_argument("--bundle", type=Path, default=Path("demo/carracing.ebdl"), help="made by tools/demo")
    parser.add_argument("--drives", type=int, default=5, help="per hazard (default: 5)")
    parser.add_argument("--keep", type=Path, help="folder to keep the recordings in")
    options = parser.parse_args()
    config = Bundle.open(options.bundle).manifest.policy.config
    print(f"released after {config.slow_release_s:g} s below the thresholds, loosened by {config.loosen_per_s:g} per s")
    print(f"{time.strftime('%Y-%m-%d')}, {options.drives} drives per hazard, in real time\n")
    print("| hazard | deepest level | slower after, s (max) | held back in it (min) | NOMINAL again after, s (max) "
          "| full speed after, s (max) | held back when clear (max) | replays identical |")  # fmt: skip
    print("|---|---|---|---|---|---|---|---|")
    thin = thin_fog(options.bundle)
    hazards = {
        f"thin fog ({thin:.2f}), slows": (thin, 1.8, UNANSWERED),
        "thick fog, hands over": (_THICK, 8.0, WITH_HUMAN),
    }
    met = True
    for name, (severity, seconds, mode) in hazards.items():
        plans = [
            Plan(mode, _FOG, severity, 6_000 + drive, _SPEED, _BEFORE_S, seconds, _SUDDEN_S, _AFTER_S)
            for drive in range(options.drives)
        ]
        lines = [_drive(options.bundle, plan, options.keep) for plan in plans]
        print(_row(name, lines), flush=True)
        met &= all(_good(line) for line in lines)
    return 0 if met else 1


def thin_fog(bundle: Path) -> float:
    """The severity that is as far over the SLOW thresholds as below the HANDOFF thresholds, in its worst frame."""
    runtime, environment, rng = Runtime.open(bundle), DrivingEnvironment(), np.random.default_rng(_LOOK_TRACK)
    limits = {score.name: limit for score in runtime.manifest.policy.scores if (limit := score.at(runtime.samples))}
    frames = [environment.reset(_LOOK_TRACK, look / _LOOKS) for look in range(_LOOKS)]
    environment.close()

    def margin(severity: float) -> float:
        margins = []
        for frame in frames:
            scores = runtime.predict(apply_weather(_FOG, frame, severity, rng)).scores()
            over = max(scores[name] / limit.slow for name, limit in limits.items())
            below = min(limit.handoff / scores[name] for name, limit in limits.items())
            margins.append(min(over, below))
        return min(margins)

    return float(max(_THIN, key=margin))


def _good(line: Timeline) -> bool:
    return line.to_slow_s <= 0.6 and line.held >= 0.9 and line.held_when_clear <= 0.05 and line.replayed


def _row(name: str, lines: list[Timeline]) -> str:
    def most(field: str) -> str:
        return f"{max(getattr(line, field) for line in lines):.2f}"

    cells = [
        name,
        ", ".join(sorted({line.deepest for line in lines})),
        most("to_slow_s"),
        f"{min(line.held for line in lines):.1%}",
        most("to_nominal_s"),
        most("to_full_speed_s"),
        f"{max(line.held_when_clear for line in lines):.1%}",
        f"{sum(line.replayed for line in lines)} of {len(lines)}",
    ]
    return f"| {' | '.join(cells)} |"


def _drive(bundle: Path, plan: Plan, keep: Path | None) -> Timeline:
    with tempfile.TemporaryDirectory() as folder:
        if keep is not None:
            keep.mkdir(parents=True, exist_ok=True)
        record = (keep or Path(folder)) / f"{plan.weather}-{plan.severity:g}-{plan.seed}.mcap"
        record.unlink(missing_ok=True)
        log = drive_live(bundle, plan, record)
        line = [sys.executable, "-m", "edge_bdl.cli", "replay", str(record), str(bundle), "--json"]
        answer = subprocess.run(line, capture_output=True, text=True, check=False)
        if answer.returncode not in (0, 1):
            raise SystemExit(answer.stderr)
        if answer.returncode == 1:
            print(json.loads(answer.stdout), file=sys.stderr)
    return _timeline(log, replayed=answer.returncode == 0)


def _timeline(log: Log, *, replayed: bool) -> Timeline:
    level, factor = np.array(log.level), np.array(log.speed_factor)
    plan, steps = log.plan, np.arange(len(log.level))
    hazard = np.array([plan.in_weather(step) for step in steps])
    first, last = int(np.argmax(hazard)), int(len(hazard) - 1 - np.argmax(hazard[::-1]))
    nominal = level == Level.NOMINAL.value
    started = int(np.argmax(factor >= 1.0))
    slow = first + int(np.argmax(~nominal[first:]))
    again = last + 1 + int(np.argmax(nominal[last + 1 :]))
    full = last + 1 + int(np.argmax(factor[last + 1 :] >= 1.0))
    clear = np.concatenate([nominal[started:first], nominal[again:]])
    order = [each.value for each in (Level.NOMINAL, Level.SLOW, Level.HOLD, Level.HANDOFF, Level.STOP)]
    return Timeline(
        to_slow_s=(slow - first) * PERIOD_S if (~nominal[first:]).any() else np.inf,
        held=float((~nominal[slow : last + 1]).mean()),
        to_nominal_s=(again - last) * PERIOD_S if nominal[last + 1 :].any() else np.inf,
        to_full_speed_s=(full - last) * PERIOD_S if (factor[last + 1 :] >= 1.0).any() else np.inf,
        held_when_clear=float((~clear).mean()),
        deepest=max(log.level[first : last + 1], key=order.index),
        replayed=replayed,
    )


if __name__ == "__main__":
    sys.exit(main())
