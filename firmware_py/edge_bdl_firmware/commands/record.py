"""``edge-bdl record``: the seconds around what went wrong, or everything, as MCAP."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edge_bdl.commands.arguments import Parser, add_json, positive
from edge_bdl.commands.output import print_json
from edge_bdl_firmware.commands.arguments import add_sockets
from edge_bdl_firmware.recorder.process import RecorderConfig, Summary, record_all, record_incidents


def record(argv: Sequence[str]) -> int:
    """Run the verb until a signal ends it; returns the exit code: 1 where the newest recording could not be written.

    Raises:
        EdgeBdlError: Bad usage, or another recorder runs here.
    """
    defaults = RecorderConfig()
    parser = Parser(
        "record", "Record what monitor and gate say, from before the level falls until after it. SIGUSR1 records too."
    )
    target = parser.add_mutually_exclusive_group(required=True)
    target.add_argument("--folder", type=Path, help="a file for each time the level falls goes here")
    target.add_argument("--continuous", metavar="FILE", type=Path, help="record everything into this one file")
    add_sockets(parser)
    parser.add_argument(
        "--before", metavar="S", type=positive, default=defaults.before_s, help="(default: %(default)s)"
    )
    parser.add_argument("--after", metavar="S", type=positive, default=defaults.after_s, help="(default: %(default)s)")
    parser.add_argument(
        "--ring-mb",
        metavar="MB",
        type=positive,
        default=defaults.ring_bytes / 2**20,
        help="memory for what came before (default: %(default)g)",
    )
    parser.add_argument(
        "--max-mb",
        metavar="MB",
        type=positive,
        default=2000.0,
        help="recordings in the folder, of which the oldest make room (default: %(default)g)",
    )
    add_json(parser)
    options = parser.parse_args(argv)
    config = RecorderConfig(before_s=options.before, after_s=options.after, ring_bytes=round(options.ring_mb * 2**20))
    if options.continuous is not None:
        summary = record_all(options.continuous, options.sockets, config)
    else:
        summary = record_incidents(options.folder, options.sockets, config, round(options.max_mb * 1e6))
    if options.json:
        print_json(summary)
    else:
        print(_text(summary))
    return 1 if summary.failed else 0


def _text(summary: Summary) -> str:
    lost = ", ".join(
        f"{count} {what}"
        for count, what in (
            (summary.refused, "that were none of ours"),
            (summary.evicted, "too many for the memory"),
            (summary.dropped, "too fast for the disk"),
        )
        if count
    )
    head = f"{summary.messages} messages received" + (f"; lost: {lost}" if lost else "")
    files = (f"  {file.path}  {file.messages} messages, {file.bytes / 1e6:.1f} MB" for file in summary.recordings)
    return "\n".join([head, *files])
