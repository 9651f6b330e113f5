"""``edge-bdl replay``: a recording decided again, and compared."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from edge_bdl.commands.arguments import Parser, add_engine, add_json, add_trusted_key, open_bundle, open_runtime
from edge_bdl.commands.output import columns, print_json
from edge_bdl.errors import InputError
from edge_bdl_firmware.recorder.log_reader import Log
from edge_bdl_firmware.recorder.replay import SCORE_TOLERANCE, Difference, Report, ScoreChange, check_bundle
from edge_bdl_firmware.recorder.replay import replay as decide_again


def replay(argv: Sequence[str]) -> int:
    """Run the verb; returns the exit code: 0 where every decision comes out the same, else 1.

    Raises:
        EdgeBdlError: Bad usage, a recording or a bundle that is not sound, or that do not belong together.
    """
    parser = Parser("replay", "Run recorded frames and decisions again, and say whether they come out the same.")
    parser.add_argument("file", metavar="FILE", type=Path, help="a recording, .mcap")
    parser.add_argument("bundle", metavar="BUNDLE", type=Path, help="the bundle that drove")
    add_trusted_key(parser)
    add_engine(parser)
    add_json(parser)
    # Every frame is given as many members as it had.
    parser.set_defaults(samples=None)
    options = parser.parse_args(argv)
    bundle = open_bundle(options)
    log = Log(options.file)
    check_bundle(log, bundle.digest)
    if len(bundle.manifest.inputs) != 1:
        raise InputError(f"replay takes bundles with one input, this one has {len(bundle.manifest.inputs)}")
    report = decide_again(log, open_runtime(options, bundle), bundle.digest)
    if options.json:
        print_json(_facts(report))
    else:
        print(_text(report))
    return 0 if report.identical else 1


def _facts(report: Report) -> dict[str, Any]:
    return {"identical": report.identical, **msgspec.structs.asdict(report)}


def _text(report: Report) -> str:
    lines = [_head(report), f"  scores of {report.frames} frames were computed again, largest deviation:"]
    if report.deviations:
        lines.append(columns([(name, f"{value:.2g}") for name, value in sorted(report.deviations.items())], "    "))
    if report.frames_missing:
        lines.append(f"  {report.frames_missing} frames are not in the recording: their scores were believed")
    lines += [f"  not replayed: {line}" for line in report.not_replayed]
    lines += [f"  {line}" for line in report.contradictions]
    if report.deviating:
        lines.append(f"  {len(report.deviating)} scores deviate by more than {SCORE_TOLERANCE:g}, the first:")
        lines.append(f"    {_change(report.deviating[0])}")
    for difference in report.differences:
        lines += _difference(difference)
    return "\n".join(lines)


def _head(report: Report) -> str:
    compared = f"{report.compared} of {report.steps} steps decided again"
    if report.identical:
        return f"identical: {compared}"
    return f"NOT identical: {compared}, {report.different} came out differently"


def _difference(difference: Difference) -> list[str]:
    rows = [
        (name, outcome.level, f"{outcome.speed_factor:.6g}", outcome.reason)
        for name, outcome in (("recorded", difference.recorded), ("replayed", difference.replayed))
    ]
    why = "no score changed" if difference.score is None else _change(difference.score)
    return [f"  at {difference.time_s:.3f} s ({why}):", columns(rows, "    ")]


def _change(change: ScoreChange) -> str:
    return f"{change.name} of frame {change.sequence} was {change.recorded:.6g}, is {change.replayed:.6g}"
