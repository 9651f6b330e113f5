"""One recording on its way to the disk: ``.partial`` until it is whole, then its name."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from mcap.writer import CompressionType
from mcap_ros2.writer import Writer

from edge_bdl.disk import flush_folder
from edge_bdl_firmware.messages import Frame
from edge_bdl_firmware.recorder.ring import Received
from edge_bdl_firmware.recorder.topics import DEFINITIONS, views

PARTIAL = ".partial"
METADATA = "edge_bdl"

# A chunk that is not written yet is lost with the process: so much is a second or two of steps, or one frame.
_CHUNK_BYTES = 32 * 1024
# What is not synced yet is lost with the power.
_SYNC_NS = 10**9


class LogWriter:
    """Writes one MCAP file.

    Args:
        path: Its name once it is whole.
        wall_minus_monotonic_ns: Added to the times of receipt, so that viewers show times of day.
        facts: Metadata known at the beginning.

    Raises:
        OSError: The file cannot be made, or is there already.
    """

    def __init__(self, path: Path, wall_minus_monotonic_ns: int, facts: Mapping[str, str]) -> None:
        self.path = path
        self.partial = path.with_name(path.name + PARTIAL)
        self.messages = 0
        if path.exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
        self._offset_ns = wall_minus_monotonic_ns
        self._sink = _Sink(self.partial)
        self._synced_ns: int | None = None
        # LZ4: frames of a camera hardly compress, and Zstandard takes six times as long to find out.
        self._writer = Writer(self._sink, chunk_size=_CHUNK_BYTES, compression=CompressionType.LZ4)
        self._schemas = {name: self._writer.register_msgdef(name, text) for name, text in DEFINITIONS.items()}
        self._writer.add_metadata(METADATA, {"wall_minus_monotonic_ns": str(wall_minus_monotonic_ns), **facts})

    @property
    def bytes(self) -> int:
        """Written so far."""
        return self._sink.position

    def write(self, entry: Received) -> None:
        """Append a message.

        Raises:
            OSError: The disk refuses; ``abandon`` is all that can be done then.
        """
        message = entry.message
        sequence = message.sequence % 2**32 if isinstance(message, Frame) else 0
        for view in views(message):
            self._writer.write_message(
                view.topic,
                self._schemas[view.type],
                view.fields,
                log_time=entry.received_ns + self._offset_ns,
                sequence=sequence,
            )
        self.messages += 1
        if self._synced_ns is None or entry.received_ns - self._synced_ns >= _SYNC_NS:
            self._synced_ns = entry.received_ns
            self._sink.sync()

    def finish(self, facts: Mapping[str, str]) -> None:
        """Make the file whole and give it its name.

        Args:
            facts: Metadata known at the end.

        Raises:
            OSError: The disk refuses.
        """
        self._writer.add_metadata(METADATA, dict(facts))
        self._writer.finish()
        self._sink.sync()
        self._sink.close()
        self.partial.rename(self.path)
        flush_folder(self.path.parent)

    def abandon(self, *, keep: bool) -> None:
        """Give up: close the file, and remove it where it can be removed unless it is to be kept."""
        with suppress(OSError):
            self._sink.close()
        if not keep:
            with suppress(OSError):
                self.partial.unlink()


class _Sink:
    """A new file without a buffer of its own: what the disk refuses is told at once, and once."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        self.position = 0

    def write(self, data: bytes) -> int:
        """All of it, or an OSError."""
        left = memoryview(data)
        while left:
            written = os.write(self._descriptor, left)
            self.position += written
            left = left[written:]
        return len(data)

    def tell(self) -> int:
        """Where the next byte goes."""
        return self.position

    def flush(self) -> None:
        """There is no buffer."""

    def sync(self) -> None:
        """Wait for the disk."""
        os.fdatasync(self._descriptor)

    def close(self) -> None:
        """Close the file; once more does no harm, as its number may be another file's by then."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)
