"""Write the drive of the rc_car data set as a ROS 2 recording: what the camera saw, and what the driver commanded.

    .venv/bin/python tools/rc_car_bag.py DATA OUT.mcap [--frames 200:800]

DATA holds ``frames.tar`` (JPEG) and ``labels.csv``. The recording has ``/image/compressed`` (CompressedImage, the files
as they are) and ``/cmd_vel_in`` (Twist) with the recorded times, pauses and all; play it with ``ros2 bag play``.
"""

from __future__ import annotations

import argparse
import csv
import sys
import tarfile
from pathlib import Path
from typing import Any

from mcap_ros2.writer import Writer

from edge_bdl_firmware.recorder.topics import DEFINITIONS

IMAGE, COMMAND = "/image/compressed", "/cmd_vel_in"
_IMAGE_TYPE, _COMMAND_TYPE = "sensor_msgs/msg/CompressedImage", "geometry_msgs/msg/Twist"
_MILLISECOND_NS = 1_000_000


def main() -> int:
    """Write the recording; returns the exit code."""
    parser = argparse.ArgumentParser(description="Write the rc_car drive as a ROS 2 recording (MCAP).")
    parser.add_argument("data", type=Path, help="folder with frames.tar and labels.csv")
    parser.add_argument("out", type=Path, help="OUT.mcap; must not be there yet")
    parser.add_argument("--frames", metavar="A:B", type=_slice, default=slice(None), help="of those that were kept")
    options = parser.parse_args()
    try:
        count, seconds = write_bag(options.data, options.out, options.frames)
    except (OSError, KeyError, ValueError, tarfile.TarError) as error:
        print(f"rc_car_bag: {error}", file=sys.stderr)
        return 2
    print(f"{options.out}: {count} frames and commands, {seconds:.1f} s")
    return 0


def write_bag(data: Path, out: Path, frames: slice) -> tuple[int, float]:
    """Write it whole or not at all; returns how many frames it has, and its seconds."""
    if out.exists():
        raise FileExistsError(f"{out} is there already: remove it, or give another name")
    with (data / "labels.csv").open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["kept"] == "1"][frames]
    if not rows:
        raise ValueError(f"{data / 'labels.csv'} keeps no such frames")
    partial = out.with_name(out.name + ".partial")
    try:
        with partial.open("wb") as file, tarfile.open(data / "frames.tar") as archive:
            writer = Writer(file)
            schemas = {name: writer.register_msgdef(name, DEFINITIONS[name]) for name in (_IMAGE_TYPE, _COMMAND_TYPE)}
            for sequence, row in enumerate(rows):
                picture = archive.extractfile(row["file"])
                assert picture is not None
                at = {"log_time": int(row["timestamp_ms"]) * _MILLISECOND_NS, "sequence": sequence}
                writer.write_message(IMAGE, schemas[_IMAGE_TYPE], _image(picture.read(), at["log_time"]), **at)
                writer.write_message(COMMAND, schemas[_COMMAND_TYPE], _twist(row), **at)
            writer.finish()
        partial.rename(out)
    finally:
        partial.unlink(missing_ok=True)
    return len(rows), (int(rows[-1]["timestamp_ms"]) - int(rows[0]["timestamp_ms"])) / 1e3


def _image(jpeg: bytes, stamp_ns: int) -> dict[str, Any]:
    seconds, nanoseconds = divmod(stamp_ns, 10**9)
    header = {"stamp": {"sec": seconds, "nanosec": nanoseconds}, "frame_id": "camera"}
    return {"header": header, "format": "jpeg", "data": jpeg}


def _twist(row: dict[str, str]) -> dict[str, Any]:
    """Throttle forward; steering to the right is a negative turn in ROS (REP 103)."""
    linear = {"x": float(row["throttle"]), "y": 0.0, "z": 0.0}
    return {"linear": linear, "angular": {"x": 0.0, "y": 0.0, "z": -float(row["angle"])}}


def _slice(text: str) -> slice:
    start, separator, stop = text.partition(":")
    if not separator:
        raise argparse.ArgumentTypeError(f"expected A:B, got {text!r}")
    try:
        return slice(int(start) if start else None, int(stop) if stop else None)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"expected A:B, got {text!r}") from error


if __name__ == "__main__":
    sys.exit(main())
