"""Where frames come from without ROS: a folder, a camera, a recording."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import cast

from edge_bdl.errors import InputError
from edge_bdl_firmware.sources.base import Source

__all__ = ["SOURCES", "Source", "open_source"]

SOURCES = {
    "folder": "edge_bdl_firmware.sources.folder:FolderSource",
    "mcap": "edge_bdl_firmware.sources.mcap:McapSource",
    "socket": "edge_bdl_firmware.local.source:SocketSource",
    "video": "edge_bdl_firmware.sources.video:VideoSource",
}


def open_source(text: str, rate_hz: float | None = None) -> Source:
    """Open a source of frames.

    Args:
        text: A folder of images or ``.npy`` files; ``FILE.mcap`` or ``FILE.mcap:/its/topic``; ``/dev/videoN`` or
            ``/dev/videoN:WIDTHxHEIGHT``; ``socket:DIR`` for what another program sends.
        rate_hz: Frames a second; None: a folder's own default, the recording's pace, whatever the camera does.

    Raises:
        InputError: There is nothing of the kind, it cannot be opened, or the rate is none.
        MissingExtraError: Its package is not installed.
    """
    if rate_hz is not None and not 0.0 < rate_hz <= 1000.0:
        raise InputError(f"a source's rate is above 0 and at most 1000 Hz, got {rate_hz:g}")
    module, _, attribute = SOURCES[_kind(text)].partition(":")
    return cast(Source, getattr(importlib.import_module(module), attribute)(text, rate_hz))


def _kind(text: str) -> str:
    if text.startswith("socket:"):
        return "socket"
    if text.startswith("/dev/"):
        return "video"
    if text.endswith(".mcap") or ".mcap:" in text:
        return "mcap"
    if Path(text).is_dir():
        return "folder"
    raise InputError(
        f"{text!r} is no source: expected a folder of frames, FILE.mcap[:TOPIC], /dev/videoN or socket:DIR"
    )
