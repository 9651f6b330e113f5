"""The slot for the newest item."""

from __future__ import annotations

import threading

from edge_bdl_firmware.frames.slot import LatestSlot


def test_only_the_newest_item_is_there_and_the_others_are_counted() -> None:
    slot: LatestSlot[int] = LatestSlot()
    for item in range(5):
        slot.put(item)
    assert slot.take(0.0) == 4
    assert slot.take(0.0) is None
    assert (slot.received, slot.dropped) == (5, 4)


def test_a_taken_item_is_not_dropped_by_the_next() -> None:
    slot: LatestSlot[str] = LatestSlot()
    slot.put("one")
    assert slot.take(0.0) == "one"
    slot.put("two")
    assert slot.take(0.0) == "two"
    assert slot.dropped == 0


def test_false_items_are_items() -> None:
    slot: LatestSlot[int] = LatestSlot()
    slot.put(0)
    slot.put(0)
    assert slot.dropped == 1
    assert slot.take(0.0) == 0


def test_whoever_waits_is_woken_by_an_item() -> None:
    slot: LatestSlot[str] = LatestSlot()
    taken: list[str | None] = []
    waiting = threading.Thread(target=lambda: taken.append(slot.take(60.0)))
    waiting.start()
    slot.put("here")
    waiting.join(30.0)
    assert taken == ["here"]


def test_between_threads_every_item_is_taken_or_counted_as_dropped_and_none_is_older_than_the_last() -> None:
    slot: LatestSlot[int] = LatestSlot()
    taken: list[int] = []
    count = 20_000

    def take() -> None:
        while not taken or taken[-1] != count - 1:
            item = slot.take(10.0)
            if item is not None:
                taken.append(item)

    taker = threading.Thread(target=take)
    taker.start()
    for item in range(count):
        slot.put(item)
    taker.join(60.0)
    assert not taker.is_alive()
    assert taken == sorted(set(taken))
    assert len(taken) + slot.dropped == slot.received == count
