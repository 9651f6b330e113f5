"""Who listens is told; whether anybody does makes no difference to who tells."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from edge_bdl_firmware import telemetry as module
from edge_bdl_firmware.local.channel import Inbox
from edge_bdl_firmware.messages import AnyMessage, Command, Opening
from edge_bdl_firmware.telemetry import Telemetry

OPENING = Opening(
    process="gate", pid=os.getpid(), bundle="b" * 64, bundle_path="/car.ebdl", parameters={"rate_hz": "20"}
)
NEWS = Command(axes=(1.0,))


@pytest.fixture
def telemetry(sockets: Path) -> Iterator[Telemetry]:
    told = Telemetry(sockets, OPENING)
    yield told
    told.close()


def heard(inbox: Inbox) -> list[AnyMessage]:
    messages = []
    while (message := inbox.receive()) is not None:
        messages.append(message)
    return messages


def test_with_nobody_there_telling_does_nothing(sockets: Path, telemetry: Telemetry) -> None:
    assert telemetry.refresh(10.0)
    telemetry.tell(NEWS)
    telemetry.record(NEWS)
    assert not sockets.exists()


def test_the_recorder_hears_all_and_the_watchers_what_is_told(sockets: Path, telemetry: Telemetry) -> None:
    with Inbox(sockets, "recorder") as recorder, Inbox(sockets, "watch.1") as one, Inbox(sockets, "watch.2") as two:
        telemetry.refresh(10.0)
        telemetry.tell(NEWS)
        telemetry.record(Command(axes=(2.0,)))
        assert heard(recorder) == [OPENING, NEWS, Command(axes=(2.0,))]
        assert heard(one) == heard(two) == [OPENING, NEWS]


def test_who_watches_already_misses_nothing_before_the_first_refresh(sockets: Path) -> None:
    with Inbox(sockets, "watch.1") as watcher:
        telemetry = Telemetry(sockets, OPENING)
        telemetry.tell(NEWS)
        assert heard(watcher) == [NEWS]
        telemetry.close()


def test_others_in_the_folder_are_left_alone(sockets: Path, telemetry: Telemetry) -> None:
    with Inbox(sockets, "gate") as gate, Inbox(sockets, "watcher") as other:
        (sockets / "watch.txt").touch()
        telemetry.refresh(10.0)
        telemetry.tell(NEWS)
        assert heard(gate) == heard(other) == []


def test_once_a_second_everybody_hears_with_what_the_process_runs(sockets: Path, telemetry: Telemetry) -> None:
    with Inbox(sockets, "watch.1") as watcher:
        assert [telemetry.refresh(now_s) for now_s in (10.0, 10.05, 10.99, 11.0, 11.5, 12.0)] == [
            True, False, False, True, False, True,
        ]  # fmt: skip
        assert heard(watcher) == [OPENING] * 3


def test_a_watcher_may_come_late_go_and_come_again(sockets: Path, telemetry: Telemetry) -> None:
    telemetry.refresh(10.0)
    for second in (20.0, 30.0):
        with Inbox(sockets, "watch.1") as watcher:
            telemetry.refresh(second)
            assert heard(watcher) == [OPENING]
        telemetry.refresh(second + 2.0)
        telemetry.tell(NEWS)


def test_watchers_that_crashed_or_hang_harm_nobody(sockets: Path, telemetry: Telemetry) -> None:
    with Inbox(sockets, "watch.2") as hanging, Inbox(sockets, "watch.3") as watcher:
        (sockets / "watch.1.sock").touch()
        telemetry.refresh(10.0)
        for _ in range(2000):
            telemetry.tell(NEWS)
            assert NEWS in heard(watcher)
        assert 0 < len(heard(hanging)) < 2000


def test_the_files_of_many_crashed_watchers_do_not_use_up_the_descriptors(sockets: Path, telemetry: Telemetry) -> None:
    sockets.mkdir()
    for pid in range(500):
        (sockets / f"watch.{pid}.sock").touch()
    before = len(os.listdir("/proc/self/fd"))
    telemetry.refresh(10.0)
    telemetry.tell(NEWS)
    assert len(os.listdir("/proc/self/fd")) <= before + module._MOST_WATCHERS


def test_one_thread_may_tell_while_another_looks_who_watches(sockets: Path, telemetry: Telemetry) -> None:
    """The monitor's worker tells, its loop looks: neither may trip over the other's watchers coming and going."""
    stop, failed = threading.Event(), []

    def work() -> None:
        try:
            while not stop.is_set():
                telemetry.tell(NEWS)
        except Exception as error:
            failed.append(error)

    worker = threading.Thread(target=work)
    worker.start()
    for second in range(100):
        with ExitStack() as stack:
            for pid in range(1 + second % 5):
                stack.enter_context(Inbox(sockets, f"watch.{second}{pid}"))
            telemetry.refresh(10.0 + 2 * second)
        telemetry.refresh(11.0 + 2 * second)
    stop.set()
    worker.join()
    assert failed == []
