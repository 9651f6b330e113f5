from __future__ import annotations

from edge_bdl_firmware.messages import Frame, Heartbeat
from edge_bdl_firmware.recorder.ring import Received, Ring

SECOND = 10**9


def beat(second: float) -> Received:
    return Received(round(second * SECOND), Heartbeat(now_s=second))


def frame(second: float, size: int) -> Received:
    data = bytes(size)
    return Received(
        round(second * SECOND), Frame(sequence=0, stamp_ns=0, received_s=second, encoding="rgb8", data=data)
    )


def test_it_reaches_as_far_back_as_it_should() -> None:
    ring = Ring(10.0, 10**9)
    for second in range(25):
        ring.add(beat(second))
    assert [entry.received_ns // SECOND for entry in ring.entries()] == list(range(14, 25))
    assert ring.evicted == 0


def test_what_there_is_no_room_for_goes_oldest_first_and_is_counted() -> None:
    ring = Ring(10.0, 10 * 2**20)
    for number in range(30):
        ring.add(frame(number / 30, 2**20))
    entries = ring.entries()
    assert sum(entry.bytes for entry in entries) <= 10 * 2**20
    assert [round(entry.received_ns * 30 / SECOND) for entry in entries] == list(range(21, 30))
    assert ring.evicted == 21


def test_a_single_message_larger_than_all_of_it_is_let_go() -> None:
    ring = Ring(10.0, 1000)
    ring.add(frame(0.0, 5000))
    assert ring.entries() == []
    ring.add(frame(1.0, 5000))
    assert ring.evicted == 2


def test_reading_it_does_not_empty_it() -> None:
    ring = Ring(10.0, 10**9)
    ring.add(beat(0.0))
    assert ring.entries() == ring.entries() == [beat(0.0)]
