"""``edge-bdl profile``: latency, memory and cold start of a bundle on this machine."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edge_bdl.commands.arguments import BundleParser, add_json, open_bundle, positive, whole_numbers
from edge_bdl.commands.output import print_json
from edge_bdl.errors import InputError
from edge_bdl.profile_report import to_html, to_text
from edge_bdl.profiling import Report
from edge_bdl.profiling import profile as measure

_ROW = (
    "engine", "threads", "samples", "n", "p50_ms", "p90_ms", "p99_ms", "p999_ms", "max_ms", "det_p50_ms", "ratio",
    "naive_p50_ms", "speedup", "overhead_us",
)  # fmt: skip


def profile(argv: Sequence[str]) -> int:
    """Run the verb; returns the exit code.

    Raises:
        EdgeBdlError: Bad usage, a bundle that is not sound, or an engine that fails.
    """
    parser = BundleParser("profile", "Measure a bundle's latency, memory and cold start on this machine.")
    parser.add_argument(
        "--engine", action="append", help="which engine (may be repeated; default: all that are installed)"
    )
    parser.add_argument("--samples", type=whole_numbers, help="numbers of members, such as 1,4,16")
    parser.add_argument(
        "--threads", type=whole_numbers, default=(1,), help="numbers of threads, such as 1,2 (default: 1)"
    )
    parser.add_argument(
        "--seconds", type=positive, default=15.0, help="for each engine and thread number (default: 15)"
    )
    parser.add_argument("--html", metavar="FILE", type=Path, help="also write one self-contained page")
    add_json(parser)
    options = parser.parse_args(argv)
    report = measure(
        open_bundle(options),
        options.engine,
        options.samples,
        options.threads,
        seconds=options.seconds,
        progress=lambda line: print(f"measuring: {line}", file=sys.stderr),
    )
    if options.html is not None:
        _write(options.html, to_html(report))
    if options.json:
        print_json(_facts(report))
    else:
        print(to_text(report))
    return 0


def _facts(report: Report) -> dict[str, Any]:
    return {
        "machine": report.machine,
        "cold_start_ms": report.cold_start_ms,
        "peak_rss_mb": report.peak_rss_mb,
        "rows": [{key: getattr(row, key) for key in _ROW} for row in report.rows],
    }


def _write(path: Path, page: str) -> None:
    beside = path.with_name(f".{path.name}.new")
    try:
        beside.write_text(page, encoding="utf-8")
        os.replace(beside, path)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}") from error
