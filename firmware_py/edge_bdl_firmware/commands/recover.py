"""``edge-bdl recover``: what is whole in a recording that was cut short."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edge_bdl.commands.arguments import Parser, add_json
from edge_bdl.commands.output import print_json
from edge_bdl_firmware.recorder.recover import Rescue
from edge_bdl_firmware.recorder.recover import recover as rescue_from


def recover(argv: Sequence[str]) -> int:
    """Run the verb; returns the exit code: 0 where the file is sound or a sound one is beside it now, 1 if it is empty.

    Raises:
        EdgeBdlError: Bad usage, no MCAP file, or the new file cannot be written.
    """
    parser = Parser("recover", "Rescue a recording that a killed process or a power cut left unfinished.")
    parser.add_argument("file", metavar="FILE", type=Path, help="a recording, .mcap or .mcap.partial; stays as it is")
    add_json(parser)
    options = parser.parse_args(argv)
    rescue = rescue_from(options.file)
    if options.json:
        print_json(rescue)
    else:
        print(_text(options.file, rescue))
    return 0 if rescue.sound or rescue.messages else 1


def _text(path: Path, rescue: Rescue) -> str:
    if rescue.sound:
        return f"{path} is sound: nothing to recover"
    lost = f"{rescue.lost_bytes} bytes at the end could not be read"
    if rescue.damaged_chunks:
        lost += f", and {rescue.damaged_chunks} pieces before them"
    if rescue.path is None:
        return f"there is no whole message in {path}; {lost}"
    return f"{rescue.path}: {rescue.messages} messages of {rescue.seconds:.1f} s; {lost}"
