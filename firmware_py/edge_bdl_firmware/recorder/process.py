"""The recorder: a process of its own, so that no disk and no compression ever holds up whoever drives.

One thread empties the socket into the ring and watches for a reason to record, another writes. Senders never wait for
either: what the recorder does not take in time is lost to it, and to nobody else.
"""

from __future__ import annotations

import signal
import sys
import time
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from types import FrameType

import msgspec

from edge_bdl_firmware.local.channel import Inbox
from edge_bdl_firmware.messages import AnyMessage, Opening, boot_id
from edge_bdl_firmware.recorder.ring import Received, Ring
from edge_bdl_firmware.recorder.scribe import Destination, FileDestination, FolderDestination, Scribe, Written
from edge_bdl_firmware.recorder.trigger import LevelFell
from edge_bdl_firmware.signals import StopSignals

_PERIOD_S = 0.1
_LAST_MESSAGES = 64
_MIB = 2**20


class RecorderConfig(msgspec.Struct, frozen=True, kw_only=True):
    """How much is kept.

    Attributes:
        before_s: How far a recording reaches back before its trigger.
        after_s: How far it goes on after the last one.
        ring_bytes: Memory for what comes before a trigger, and as much again for what waits for the disk.
    """

    before_s: float = 10.0
    after_s: float = 5.0
    ring_bytes: int = 300 * _MIB  # 10 s of a camera of 640 x 480 in colour at 30 Hz need 264


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """What a recorder did in its life.

    Attributes:
        recordings: Those that are whole.
        messages: Received.
        refused: Of those that came, how many were no messages of ours.
        evicted: Messages that the ring had no room for before they were old enough.
        dropped: Messages that a slow disk kept out of a recording.
        failed: The newest recording could not be written.
    """

    recordings: tuple[Written, ...]
    messages: int
    refused: int
    evicted: int
    dropped: int
    failed: bool


class Recorder:
    """What comes, when a recording begins, and when it ends. Knows nothing of sockets and waits for nothing.

    Args:
        config: How much is kept.
        scribe: Writes.
        now_ns: CLOCK_MONOTONIC, as in all that follows.
        continuous: Record from the start, whatever happens.
    """

    def __init__(self, config: RecorderConfig, scribe: Scribe, now_ns: int, *, continuous: bool) -> None:
        self.messages = 0
        self.refused = 0
        self._after_ns = round(config.after_s * 1e9)
        self._scribe = scribe
        self._ring = None if continuous else Ring(config.before_s, config.ring_bytes)
        self._fell = LevelFell()
        self._openings: dict[str, Opening] = {}
        self._until_ns: int | None = None
        if continuous:
            self._scribe.begin(now_ns, [], {"trigger": "continuous", **self._facts()})

    @property
    def evicted(self) -> int:
        """What the ring had no room for."""
        return 0 if self._ring is None else self._ring.evicted

    def take(self, now_ns: int, message: AnyMessage) -> None:
        """A message came."""
        self.messages += 1
        entry = Received(now_ns, message)
        if isinstance(message, Opening):
            self._openings[message.process] = message
        if self._ring is None:
            self._scribe.put(entry)
            return
        self._ring.add(entry)
        if self._until_ns is not None:
            self._scribe.put(entry)
        reason = self._fell(message)
        if reason is not None:
            self.trigger(now_ns, reason)

    def trigger(self, now_ns: int, reason: str) -> None:
        """Record from before now; while that is being done, go on for longer."""
        if self._ring is None:
            return
        # One that has failed, or has become too large, is no longer prolonged.
        if self._until_ns is None or not self._scribe.writing:
            self._scribe.begin(now_ns, self._ring.entries(), {"trigger": reason, **self._facts()})
        self._until_ns = now_ns + self._after_ns

    def tick(self, now_ns: int) -> None:
        """Time passed, whether anything came or not."""
        if self._until_ns is not None and now_ns >= self._until_ns:
            self.finish()

    def finish(self) -> None:
        """End the recording, if there is one."""
        if self._ring is None or self._until_ns is not None:
            self._until_ns = None
            self._scribe.end(self._facts())

    def _facts(self) -> dict[str, str]:
        """What the metadata says: versions, who runs with what, and what is missing."""
        facts = {
            "edge_bdl": version("edge-bdl"),
            "boot_id": boot_id(),
            "refused": str(self.refused),
            "evicted": str(self.evicted),
            "dropped": str(self._scribe.dropped),
        }
        for name, opening in self._openings.items():
            facts |= {f"{name}.bundle": opening.bundle, f"{name}.bundle_path": opening.bundle_path}
            facts |= {f"{name}.{key}": value for key, value in opening.parameters.items()}
        return facts


def record_incidents(folder: Path, sockets: Path, config: RecorderConfig, most_bytes: int) -> Summary:
    """Be the recorder until a signal ends it: a file for every time the level falls, or SIGUSR1 asks for one.

    Args:
        folder: Of the recordings.
        sockets: Folder of the sockets.
        config: How much is kept.
        most_bytes: What the recordings in the folder may take together.

    Raises:
        InputError: Another recorder runs here.
    """
    return _record(FolderDestination(folder, most_bytes), sockets, config, continuous=False)


def record_all(path: Path, sockets: Path, config: RecorderConfig) -> Summary:
    """Be the recorder until a signal ends it, or the disk does: everything into one file.

    Args:
        path: The file, which must not be there yet.
        sockets: Folder of the sockets.
        config: How much may wait for the disk.

    Raises:
        InputError: Another recorder runs here.
    """
    return _record(FileDestination(path), sockets, config, continuous=True)


def _record(destination: Destination, sockets: Path, config: RecorderConfig, *, continuous: bool) -> Summary:
    signals, asked = StopSignals(), _Asked()
    with Inbox(sockets, "recorder") as inbox:
        scribe = Scribe(destination, time.time_ns() - time.monotonic_ns(), config.ring_bytes, _tell)
        recorder = Recorder(config, scribe, time.monotonic_ns(), continuous=continuous)
        while not signals.asked and not (continuous and scribe.failed):
            _receive(inbox, recorder, _PERIOD_S)
            if asked.take():
                recorder.trigger(time.monotonic_ns(), "asked for by SIGUSR1")
            recorder.tick(time.monotonic_ns())
        # What was sent before the signal still belongs in; a sender that never stops must not keep this alive.
        for _ in range(_LAST_MESSAGES):
            if not _receive(inbox, recorder, 0.0):
                break
        recorder.finish()
        scribe.close()
    return Summary(
        recordings=tuple(scribe.written),
        messages=recorder.messages,
        refused=inbox.refused,
        evicted=recorder.evicted,
        dropped=scribe.dropped,
        failed=scribe.failed,
    )


def _receive(inbox: Inbox, recorder: Recorder, timeout_s: float) -> bool:
    """Take the next message, if one comes in time; whether anything came, what is none of ours too."""
    refused = inbox.refused
    message = inbox.receive(timeout_s)
    recorder.refused = inbox.refused
    if message is not None:
        recorder.take(time.monotonic_ns(), message)
    return message is not None or inbox.refused > refused


class _Asked:
    """SIGUSR1 as a flag."""

    def __init__(self) -> None:
        self._asked = False
        signal.signal(signal.SIGUSR1, self._ask)

    def take(self) -> bool:
        """Whether it came since this was asked last."""
        asked, self._asked = self._asked, False
        return asked

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self._asked = True


def _tell(line: str) -> None:
    with suppress(OSError):  # nobody reads
        print(f"recorder: {line}", file=sys.stderr, flush=True)
