from __future__ import annotations

import threading
from pathlib import Path

from edge_bdl_firmware.messages import Frame, Heartbeat
from edge_bdl_firmware.recorder.log_reader import Log
from edge_bdl_firmware.recorder.ring import Received
from edge_bdl_firmware.recorder.scribe import FileDestination, Scribe


class SlowDisk(FileDestination):
    """Nothing can be written until it is told so."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.ready = threading.Event()

    def begin(self, wall_ns: int) -> Path:
        self.ready.wait(30.0)
        return super().begin(wall_ns)


def frame(number: int) -> Received:
    data = bytes(100_000)
    return Received(number, Frame(sequence=number, stamp_ns=0, received_s=0.0, encoding="rgb8", data=data))


def test_what_a_slow_disk_cannot_take_is_dropped_and_counted(tmp_path: Path) -> None:
    disk = SlowDisk(tmp_path / "a.mcap")
    told: list[str] = []
    scribe = Scribe(disk, 0, 1_000_000, told.append)
    scribe.begin(0, [], {})
    for number in range(20):
        scribe.put(frame(number))
    assert scribe.dropped == 11
    disk.ready.set()
    scribe.end({})
    scribe.close()
    assert [frame.sequence for frame in Log(tmp_path / "a.mcap").frames()] == list(range(9))
    assert told == [f"{tmp_path / 'a.mcap'}: 9 messages, {scribe.written[0].bytes / 1e6:.1f} MB"]


def test_a_mistake_in_one_recording_does_not_end_the_recorder(tmp_path: Path) -> None:
    class Mistaken(FileDestination):
        def begin(self, wall_ns: int) -> Path:
            if not told:
                raise ValueError("a mistake")
            return super().begin(wall_ns)

    told: list[str] = []
    scribe = Scribe(Mistaken(tmp_path / "a.mcap"), 0, 10**6, told.append)
    for number in range(2):
        scribe.begin(0, [], {})
        scribe.put(Received(number, Heartbeat(now_s=0.0)))
        scribe.end({})
    scribe.close()
    assert told[0] == "nothing can be recorded: a mistake"
    assert len(Log(tmp_path / "a.mcap").messages) == 1
    assert not scribe.failed
