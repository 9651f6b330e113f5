"""``edge-bdl gate``: commands in, as much of them as is safe out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edge_bdl.bundle import identify
from edge_bdl.commands.arguments import BundleParser, positive, read_key
from edge_bdl_firmware.commands.arguments import add_axes, add_sockets
from edge_bdl_firmware.local.gate import run_gate
from edge_bdl_firmware.state_file import default_state_path


def gate(argv: Sequence[str]) -> int:
    """Run the verb; returns the exit code.

    Raises:
        EdgeBdlError: Bad usage, a bundle that is not sound, or another gate that runs here.
    """
    parser = BundleParser("gate", "The gate without ROS, until a signal ends it.")
    add_sockets(parser)
    parser.add_argument(
        "--state",
        metavar="FILE",
        type=Path,
        default=default_state_path(),
        help="where a latched STOP is kept (default: %(default)s)",
    )
    parser.add_argument("--rate", metavar="HZ", type=positive, default=20.0, help="ticks a second (default: 20)")
    parser.add_argument("--camera-rate", metavar="HZ", type=positive, help="of the camera (default: 20 or more)")
    add_axes(parser)
    options = parser.parse_args(argv)
    return run_gate(
        identify(options.bundle, read_key(options.trusted_key)),
        options.sockets,
        options.state,
        rate_hz=options.rate,
        camera_hz=options.camera_rate,
        axes=options.axes,
    )
