"""A latched STOP on the disk: what makes it survive a crash, a kill and a power cut.

One record of fixed size, written over itself in place: a full disk cannot keep it from being written, and a write that
was cut short does not match its checksum. What cannot be read counts as latched.
"""

from __future__ import annotations

import os
import zlib
from pathlib import Path

import msgspec

from edge_bdl.disk import flush_folder

_BYTES = 1024
_END = b"\n"


def default_state_path() -> Path:
    """Where a gate keeps its state if nobody says: in systemd's state directory, else in the user's."""
    folder = os.environ.get("STATE_DIRECTORY")
    return Path(folder) / "gate.state" if folder else Path.home() / ".local/state/edge-bdl/gate.state"


class Latch(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is remembered.

    Attributes:
        latched: Whether to come up stopped.
        reason: Why, for people.
    """

    latched: bool
    reason: str = ""


class StateFile:
    """The record of one gate.

    Args:
        path: Of the file; made, with its folder, where it is absent.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> Latch:
        """What was last written; latched where that cannot be read, or a record could not be written either."""
        try:
            if not self._path.exists():
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self.write(Latch(latched=False))
                flush_folder(self._path.parent)
            latch = _decode(self._path.read_bytes())
            # What cannot be written now could not be later. The end is the same in every record, so that whoever else
            # is just writing one loses nothing.
            self._store(_END, _BYTES - len(_END))
        except (OSError, ValueError, msgspec.MsgspecError) as error:
            return Latch(latched=True, reason=f"the state file {self._path} cannot be used: {error}")
        return latch

    def write(self, latch: Latch) -> None:
        """Write, and wait until it is on the disk.

        Raises:
            OSError: It cannot be written.
        """
        self._store(_encode(latch), 0)

    def _store(self, data: bytes, offset: int) -> None:
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if os.pwrite(descriptor, data, offset) != len(data):
                raise OSError(f"{self._path} was written only in part")
            os.fdatasync(descriptor)
        finally:
            os.close(descriptor)


def _encode(latch: Latch) -> bytes:
    text = msgspec.json.encode(Latch(latch.latched, latch.reason[:150]))
    return (b"%08x %s" % (zlib.crc32(text), text)).ljust(_BYTES - len(_END)) + _END


def _decode(record: bytes) -> Latch:
    checksum, _, text = record.partition(b" ")
    text = text.rstrip()
    if len(record) != _BYTES or checksum != b"%08x" % zlib.crc32(text):
        raise ValueError("it is damaged")
    return msgspec.json.decode(text, type=Latch)
