"""A camera of this machine through Video4Linux2: compressed frames as the JPEG files that the camera made."""

from __future__ import annotations

import re
import select
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from edge_bdl.errors import EdgeBdlError, InputError, require
from edge_bdl_firmware.messages import Frame

#: The driver's pixel formats that can be passed on as they are, best first; the names are linuxpy's.
_ENCODINGS = {"MJPEG": "jpeg", "RGB24": "rgb8", "BGR24": "bgr8", "GREY": "mono8"}
# One buffer is with the driver while one is copied; a third lets a late reader miss nothing.
_BUFFERS = 3
_PATIENCE_S = 0.2
_TEXT = re.compile(r"(?P<path>[^:]+)(:(?P<width>\d+)x(?P<height>\d+))?")


class VideoSource:
    """Frames of a camera, in its own time.

    Args:
        text: ``/dev/videoN``, or ``/dev/videoN:WIDTHxHEIGHT``; without a size the one that the camera is set to.
        rate_hz: Frames a second to ask the camera for; None: as it is set.

    Raises:
        InputError: There is no such camera, or it offers none of the pixel formats, or not that size.
        MissingExtraError: linuxpy is not installed.
    """

    def __init__(self, text: str, rate_hz: float | None = None) -> None:
        self._video: Any = require("linuxpy.video.device", "camera", "to read a camera")
        # What V4L2 stamps frames with; a driver that uses another clock is found out by its stamps.
        self.clock_ns: Callable[[], int] | None = time.monotonic_ns
        match = _TEXT.fullmatch(text)
        if match is None:
            raise InputError(f"{text!r} is no camera: expected /dev/videoN or /dev/videoN:WIDTHxHEIGHT")
        self._path, self._rate_hz = match["path"], rate_hz
        self._size = None if match["width"] is None else (int(match["width"]), int(match["height"]))
        self._closing = False
        with self._camera():
            pass

    def frames(self) -> Iterator[Frame]:
        """See `Source.frames`; stamps are the driver's."""
        with self._camera() as (device, capture), capture:
            sequence = 0
            while not self._closing:
                # Not for ever, so that `close` is noticed while a camera is silent.
                if not select.select([device.fileno()], [], [], _PATIENCE_S)[0]:
                    continue
                yield self._frame(sequence, capture.buffer.raw_read())
                sequence += 1

    def close(self) -> None:
        """See `Source.close`."""
        self._closing = True

    def _frame(self, sequence: int, taken: Any) -> Frame:
        received_s = time.monotonic()
        # What the driver knows to be damaged may decode all the same, and must not.
        damaged = self._video.BufferFlag.ERROR in taken.flags
        stamp = taken.buff.timestamp
        return Frame(
            sequence=sequence,
            stamp_ns=stamp.secs * 10**9 + stamp.usecs * 1000,
            received_s=received_s,
            encoding=_ENCODINGS[taken.pixel_format.name],
            height=taken.height,
            width=taken.width,
            step=taken.format.bytes_per_line,
            data=b"" if damaged else bytes(taken.data),
        )

    @contextmanager
    def _camera(self) -> Iterator[tuple[Any, Any]]:
        """The device and its capture, set up as asked for."""
        try:
            with self._video.Device(self._path) as device:
                capture = self._video.VideoCapture(device, size=_BUFFERS)
                self._set_format(device, capture)
                if self._rate_hz is not None:
                    capture.set_fps(self._rate_hz)
                yield device, capture
        except EdgeBdlError:
            raise
        except Exception as error:  # absent, in use, unplugged
            reason = " ".join(str(error).split()) or type(error).__name__
            raise InputError(f"{self._path} cannot be used as a camera: {reason}") from error

    def _set_format(self, device: Any, capture: Any) -> None:
        # Not `device.info.formats`, which also asks for kinds of buffers that it cannot name.
        formats = self._video.iter_read_formats(device, self._video.BufferType.VIDEO_CAPTURE)
        offered = {entry.pixel_format.name: entry.pixel_format for entry in formats}
        name = next((name for name in _ENCODINGS if name in offered), None)
        if name is None:
            raise InputError(
                f"{self._path} offers {', '.join(offered) or 'no frames'}, expected one of {', '.join(_ENCODINGS)}"
            )
        current = capture.get_format()
        width, height = self._size or (current.width, current.height)
        capture.set_format(width, height, offered[name])
        chosen = capture.get_format()  # a driver that cannot do it does something else
        if chosen.pixel_format.name != name or (chosen.width, chosen.height) != (width, height):
            raise InputError(
                f"{self._path} gives {chosen.pixel_format.name} of {chosen.width} x {chosen.height} where {name} of "
                f"{width} x {height} is asked for: choose a size that `v4l2-ctl --list-formats-ext` lists"
            )
