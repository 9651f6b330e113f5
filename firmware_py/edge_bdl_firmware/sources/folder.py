"""A folder of frames as a camera would send them: JPEG and PNG as the files they are, everything else as pixels."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from edge_bdl.commands.frames import frame_files, read_frame
from edge_bdl.errors import InputError
from edge_bdl.manifest import TensorSpec
from edge_bdl_firmware.messages import Frame
from edge_bdl_firmware.sources.base import Pace

_DEFAULT_RATE_HZ = 20.0
_FILE_SUFFIXES = {".jpg": "jpeg", ".jpeg": "jpeg", ".png": "png"}
_ANY_COLOUR = TensorSpec(name="frame", shape=(1, 1, 3), dtype="uint8")


class FolderSource:
    """Plays the frames of a folder once, in the order of their names.

    Args:
        text: The folder.
        rate_hz: Frames a second; None: 20.

    Raises:
        InputError: It is no folder, or holds no frames.
    """

    def __init__(self, text: str, rate_hz: float | None = None) -> None:
        self.clock_ns: Callable[[], int] | None = time.monotonic_ns
        self._files = frame_files(Path(text))
        self._period_s = 1.0 / (rate_hz or _DEFAULT_RATE_HZ)
        self._pace = Pace()

    def frames(self) -> Iterator[Frame]:
        """See `Source.frames`; stamps are the time of sending."""
        for sequence, path in enumerate(self._files):
            content = _content(path)
            if not self._pace.wait(sequence * self._period_s):
                return
            now_ns = time.monotonic_ns()
            yield Frame(sequence=sequence, stamp_ns=now_ns, received_s=now_ns * 1e-9, **content)

    def close(self) -> None:
        """See `Source.close`."""
        self._pace.end()


def _content(path: Path) -> dict[str, Any]:
    """The fields of a frame that say what is in the picture."""
    encoding = _FILE_SUFFIXES.get(path.suffix.lower())
    if encoding is not None:
        try:
            return {"encoding": encoding, "data": path.read_bytes()}
        except OSError as error:
            raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    pixels = read_frame(path, _ANY_COLOUR)
    if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3) or pixels.shape[2:] not in ((), (1,), (3,)):
        raise InputError(
            f"{path} holds {pixels.dtype} {list(pixels.shape)}, expected a camera frame: uint8 [height, width], "
            "[height, width, 1] or [height, width, 3]"
        )
    height, width, channels = *pixels.shape[:2], pixels.shape[2] if pixels.ndim == 3 else 1
    return {
        "encoding": "rgb8" if channels == 3 else "mono8",
        "height": height,
        "width": width,
        "step": width * channels,
        "data": pixels.tobytes(),
    }
