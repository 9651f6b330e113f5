"""The main job, end to end: train, export, prove, profile, drive; then a report. Run through ``tools/demo``.

tools/demo            trains the network first
tools/demo --quick    takes the trained checkpoint that comes with the recipe
"""

from __future__ import annotations

import argparse
import concurrent.futures
import itertools
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from rich.console import Console
from rich.table import Table

import report
from drives import ALONE, PERIOD_S, UNANSWERED, WITH_HUMAN, Log, Plan, drive
from edge_bdl.errors import EdgeBdlError
from edge_bdl.profiling import profile
from edge_bdl_export import export
from edge_bdl_train.progress import progress_bars
from edge_bdl_train.recipes.carracing import SHIPPED_CHECKPOINT, CarRacingConfig, CarRacingRecipe
from live import drive_live
from tables import DRIVE_HEAD, LATENCY_HEAD, drive_cells, latency_cells, summarise, verdict

# What the network never saw. Severities are those of a bad day, not of a white frame.
WEATHER = {"fog": 0.75, "night": 0.7, "snow": 0.7}
_FIRST_SEED = 6_000
_SUDDEN_S = 0.02
_QUICK = CarRacingConfig(selection_drives=(24, 100), calibration_drives=(32, 125), test_drives=(3, 200))


def main() -> int:
    """Run the demo; returns the exit code."""
    options = _options()
    console = Console()
    try:
        _demo(options, console)
    except EdgeBdlError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 2
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tools/demo", description="Train, export, prove, profile and drive.")
    parser.add_argument("--quick", action="store_true", help="use the shipped checkpoint and one track per weather")
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder for bundle and report (default: demo)")
    parser.add_argument("--seed", type=int, default=0, help="of training and export (default: 0)")
    parser.add_argument("--picture", type=Path, help="also write the first time line as a PNG file")
    return parser.parse_args()


def _demo(options: argparse.Namespace, console: Console) -> None:
    began = time.monotonic()
    options.out.mkdir(parents=True, exist_ok=True)
    bundle = options.out / "carracing.ebdl"

    recipe = CarRacingRecipe(_QUICK if options.quick else CarRacingConfig())
    checkpoint = SHIPPED_CHECKPOINT
    with progress_bars() as stage:
        if not options.quick:
            checkpoint = options.out / "carracing.safetensors"
            recipe.train(checkpoint, seed=options.seed, stage=stage)
        model = recipe.load(checkpoint)
        sets = recipe.calibration_sets(model, stage)
    console.rule("export and proof")
    with console.status("writing ONNX and TFLite, and proving them against the trained network"):
        manifest = export(
            model, sets.selection.frames[:1], bundle, task="heteroscedastic", calibration=sets, selection="selected",
            seed=options.seed,
        )  # fmt: skip
    console.print(
        f"{bundle}: {len(manifest.parity)} checks passed under {', '.join(manifest.engines)} and the reference; "
        f"{manifest.flops.deterministic_share:.1%} of the computation is shared by {manifest.bank.members} members"
    )
    console.rule("latency")
    with console.status("profiling both engines, interleaved with one deterministic pass"):
        latency = profile(bundle, samples=[1, 4, 16], seconds=3.0 if options.quick else 10.0, cold_starts=3)
    console.print(_table(LATENCY_HEAD, map(latency_cells, latency.rows), words=1))
    console.rule("driving")
    logs = _drive_all(bundle, 1 if options.quick else 3, recipe.config.target_speed)
    rows = summarise(logs)
    console.print(_table(DRIVE_HEAD, map(drive_cells, rows), words=2))
    console.print(verdict(rows, logs))
    console.rule("the same in real time, through the processes of a robot")
    recording = options.out / "drive.mcap"
    with console.status("driving through edge-bdl run"):
        live = _drive_in_real_time(bundle, recording, recipe.config.target_speed)
    console.print(_story(live))
    console.print(_replay(recording, bundle))
    command = "tools/demo --quick" if options.quick else "tools/demo"
    results = report.Results(bundle, manifest, latency, logs, rows, live, recording, WEATHER, command)
    report.write(results, options.out / "report.html")
    if options.picture:
        report.picture(results, options.picture)
    console.print(f"{options.out / 'report.html'}   ({time.monotonic() - began:.0f} s in all)")


def _drive_all(bundle: Path, tracks: int, target_speed: float) -> list[Log]:
    """All drives, on as many processes as there are processors."""
    seeds = range(_FIRST_SEED, _FIRST_SEED + tracks)
    plans = [
        Plan(mode=mode, weather=weather, severity=severity, seed=seed, target_speed=target_speed)
        for (weather, severity), mode, seed in itertools.product(
            WEATHER.items(), (ALONE, WITH_HUMAN, UNANSWERED), seeds
        )
    ]
    plans += [
        Plan(mode=mode, weather="clear", severity=0.0, seed=seed, target_speed=target_speed)
        for mode, seed in itertools.product((ALONE, WITH_HUMAN), seeds)
    ]
    with progress_bars() as stage:
        advance = stage("drives", len(plans))
        return _in_processes(bundle, plans, advance)


def _drive_in_real_time(bundle: Path, recording: Path, target_speed: float) -> Log:
    recording.unlink(missing_ok=True)
    weather = "fog"
    plan = Plan(WITH_HUMAN, weather, WEATHER[weather], _FIRST_SEED, target_speed, 5.0, 8.0, _SUDDEN_S, 8.0)
    return drive_live(bundle, plan, recording)


def _story(log: Log) -> str:
    """Levels in their order, with the time that each began."""
    changes = itertools.groupby(enumerate(log.level), key=lambda entry: entry[1])
    return "  ".join(f"{next(steps)[0] * PERIOD_S:.1f} s {level}" for level, steps in changes)


def _replay(recording: Path, bundle: Path) -> str:
    line = [sys.executable, "-m", "edge_bdl.cli", "replay", str(recording), str(bundle)]
    return subprocess.run(line, capture_output=True, text=True, check=False).stdout.strip()


def _in_processes(bundle: Path, plans: list[Plan], advance: Callable[[], None]) -> list[Log]:
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(os.cpu_count() or 1, mp_context=context) as pool:
        futures = [pool.submit(drive, str(bundle), plan) for plan in plans]
        for _ in concurrent.futures.as_completed(futures):
            advance()
        return [future.result() for future in futures]


def _table(head: Iterable[str], rows: Iterable[Iterable[str]], words: int) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
    for number, name in enumerate(head):
        table.add_column(name, no_wrap=True, justify="left" if number < words else "right")
    for row in rows:
        table.add_row(*row)
    return table


if __name__ == "__main__":
    sys.exit(main())
