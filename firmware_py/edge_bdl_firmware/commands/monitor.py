"""``edge-bdl monitor``: frames in, assessments out."""

from __future__ import annotations

from collections.abc import Sequence

from edge_bdl.commands.arguments import BundleParser, add_engine, add_samples, open_bundle, open_runtime, positive
from edge_bdl_firmware.commands.arguments import add_sockets, whole_number
from edge_bdl_firmware.frames.checks import FrameChecks, FrameChecksConfig
from edge_bdl_firmware.local.monitor import run_monitor
from edge_bdl_firmware.sources import open_source


def monitor(argv: Sequence[str]) -> int:
    """Run the verb; returns the exit code.

    Raises:
        EdgeBdlError: Bad usage, a bundle that is not sound, or a source that cannot be opened.
    """
    parser = BundleParser("monitor", "The monitor without ROS, until its source or a signal ends it.")
    add_sockets(parser)
    parser.add_argument(
        "--source",
        help="a folder of frames, FILE.mcap[:TOPIC], /dev/videoN, or socket:DIR (default: what comes in at --sockets)",
    )
    parser.add_argument("--rate", metavar="HZ", type=positive, help="frames a second of a folder or recording")
    add_samples(parser)
    parser.add_argument("--deadline-ms", type=positive, help="time for each prediction (default: as long as it takes)")
    parser.add_argument(
        "--frozen-frames",
        metavar="N",
        type=whole_number,
        default=FrameChecksConfig().frozen_frames,
        help="identical frames in a row that count as a camera that hangs; 0: never (default: %(default)s)",
    )
    add_engine(parser)
    options = parser.parse_args(argv)
    bundle = open_bundle(options)
    runtime = open_runtime(options, bundle)
    source = open_source(options.source or f"socket:{options.sockets}", options.rate)
    checks = FrameChecks(FrameChecksConfig(frozen_frames=options.frozen_frames))
    return run_monitor(bundle, runtime, source, options.sockets, checks, options.deadline_ms)
