"""The thread that writes recordings: the only one that ever waits for the disk."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import msgspec

from edge_bdl_firmware.recorder.log_writer import LogWriter
from edge_bdl_firmware.recorder.recordings import Recordings
from edge_bdl_firmware.recorder.ring import Received

# Room is made for so much before it is written.
_ROOM_BYTES = 8 * 2**20


class Written(msgspec.Struct, frozen=True):
    """A recording that is whole."""

    path: str
    messages: int
    bytes: int


class Destination(Protocol):
    """Where recordings go."""

    #: A recording that has grown so large is finished; None: never.
    largest_bytes: int | None
    #: Whether the unfinished file of a recording that failed stays, for ``edge-bdl recover``.
    keeps_partial: bool

    def begin(self, wall_ns: int) -> Path:
        """The file of a recording that begins now."""

    def make_room(self, writing: Path) -> None:
        """Called before the next ``_ROOM_BYTES`` are written."""


class FolderDestination:
    """A file per incident; old ones make room."""

    keeps_partial = False

    def __init__(self, folder: Path, most_bytes: int) -> None:
        self._recordings = Recordings(folder, most_bytes)
        # One endless incident must leave room for the beginning of the next.
        self.largest_bytes: int | None = most_bytes // 2

    def begin(self, wall_ns: int) -> Path:
        """See `Destination`."""
        return self._recordings.new(wall_ns)

    def make_room(self, writing: Path) -> None:
        """See `Destination`."""
        self._recordings.make_room(min(_ROOM_BYTES, self._recordings.most_bytes // 2), writing)


class FileDestination:
    """One file for everything."""

    keeps_partial = True
    largest_bytes: int | None = None

    def __init__(self, path: Path) -> None:
        self._path = path

    def begin(self, wall_ns: int) -> Path:
        """See `Destination`."""
        return self._path

    def make_room(self, writing: Path) -> None:
        """Whoever names the file sees to that."""


class _Begin(msgspec.Struct):
    now_ns: int
    entries: Sequence[Received]
    facts: Mapping[str, str]


class _End(msgspec.Struct):
    facts: Mapping[str, str]


class Scribe:
    """Writes one recording after the other. Nothing here waits for the disk but its own thread and ``close``.

    Args:
        destination: Where to.
        wall_minus_monotonic_ns: Makes times of day of times of receipt.
        most_waiting_bytes: What may wait for a slow disk; more is dropped and counted.
        tell: Gets what people should know, line by line.

    Attributes:
        written: The recordings that are whole.
        dropped: Messages of a recording that are not in it, because the disk was too slow.
        failed: The disk refused the newest recording.
    """

    def __init__(
        self,
        destination: Destination,
        wall_minus_monotonic_ns: int,
        most_waiting_bytes: int,
        tell: Callable[[str], None],
    ) -> None:
        self.written: list[Written] = []
        self.dropped = 0
        self.failed = False
        self._destination, self._offset_ns = destination, wall_minus_monotonic_ns
        self._most_waiting_bytes, self._tell = most_waiting_bytes, tell
        self._waiting_bytes = 0
        self._lock = threading.Lock()
        self._queue: queue.SimpleQueue[_Begin | Received | _End | None] = queue.SimpleQueue()
        self._log: LogWriter | None = None
        self._room_until = 0
        self._begun = 0  # counted by whoever says what to write
        self._over = 0  # counted by the thread
        self._thread = threading.Thread(target=self._work, name="scribe", daemon=True)
        self._thread.start()

    @property
    def writing(self) -> bool:
        """Whether the newest recording goes on: it was not ended, has not failed, and is not large enough."""
        return self._begun > self._over

    def begin(self, now_ns: int, entries: Sequence[Received], facts: Mapping[str, str]) -> None:
        """Begin a recording with what came before.

        Args:
            now_ns: CLOCK_MONOTONIC.
            entries: What came before.
            facts: Metadata known at the beginning.
        """
        self._begun += 1
        self._queue.put(_Begin(now_ns, entries, facts))

    def put(self, entry: Received) -> None:
        """Go on with the recording."""
        with self._lock:
            if self._waiting_bytes + entry.bytes > self._most_waiting_bytes:
                self.dropped += 1
                return
            self._waiting_bytes += entry.bytes
        self._queue.put(entry)

    def end(self, facts: Mapping[str, str]) -> None:
        """Finish the recording."""
        self._queue.put(_End(facts))

    def close(self) -> None:
        """Wait until all of it is on the disk."""
        self._queue.put(None)
        self._thread.join()

    def _work(self) -> None:
        while (item := self._queue.get()) is not None:
            if isinstance(item, Received):
                with self._lock:
                    self._waiting_bytes -= item.bytes
            try:
                self._do(item)
            except Exception as error:  # one recording may be lost, the recorder may not
                self._give_up(error)

    def _do(self, item: _Begin | Received | _End) -> None:
        if isinstance(item, _Begin):
            self._open(item)
        elif self._log is None:
            return  # this recording has failed, or is large enough
        elif isinstance(item, Received):
            self._write(self._log, item)
        else:
            self._finish(self._log, item.facts)

    def _open(self, begin: _Begin) -> None:
        path = self._destination.begin(begin.now_ns + self._offset_ns)
        self._destination.make_room(path)
        self._log = log = LogWriter(path, self._offset_ns, begin.facts)
        self._room_until = _ROOM_BYTES
        for entry in begin.entries:
            self._write(log, entry)

    def _write(self, log: LogWriter, entry: Received) -> None:
        largest = self._destination.largest_bytes
        if largest is not None and log.bytes > largest:
            if self._log is not None:
                self._finish(log, {"ended": f"as large as a recording may be, {largest} bytes"})
            return
        if log.bytes + entry.bytes > self._room_until:
            self._destination.make_room(log.partial)
            self._room_until = log.bytes + _ROOM_BYTES
        log.write(entry)

    def _finish(self, log: LogWriter, facts: Mapping[str, str]) -> None:
        log.finish(facts)
        self._log = None
        self._over += 1
        self.failed = False
        self.written.append(Written(str(log.path), log.messages, log.bytes))
        self._tell(f"{log.path}: {log.messages} messages, {log.bytes / 1e6:.1f} MB")

    def _give_up(self, error: Exception) -> None:
        log, self._log = self._log, None
        self._over += 1
        keeps = self._destination.keeps_partial
        if log is not None:
            log.abandon(keep=keeps)
        if not self.failed:
            self.failed = True
            kept = f"; what was written is in {log.partial}, see edge-bdl recover" if log is not None and keeps else ""
            self._tell(f"nothing can be recorded: {error}{kept}")
