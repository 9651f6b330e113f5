"""The service manager hears that a process lives only while every part of it gets on with its work."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_bdl_firmware.watchdog import Watchdog

ENVIRONMENT = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")


class Manager:
    """The service manager's end: a datagram socket, bound."""

    def __init__(self, address: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(address)
        self._socket.settimeout(60.0)

    def next(self) -> str:
        return self._socket.recv(4096).decode()

    def pending(self) -> list[str]:
        """All that was said so far."""
        self._socket.setblocking(False)
        said = []
        try:
            while True:
                said.append(self._socket.recv(4096).decode())
        except BlockingIOError:
            self._socket.settimeout(60.0)
        return said

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Manager]:
    for name in ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)
    manager = Manager(str(tmp_path / "notify"))
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    yield manager
    manager.close()


@pytest.fixture
def done() -> Counter[str]:
    """What the parts of a process have done."""
    return Counter()


def watch(done: Counter[str], *names: str, now_s: list[float] | None = None) -> Watchdog:
    parts = {name: lambda name=name: done[name] for name in names}
    return Watchdog(parts) if now_s is None else Watchdog(parts, lambda: now_s[0])


def test_ready_status_and_stopping_are_said_as_systemd_reads_them(manager: Manager, done: Counter[str]) -> None:
    watchdog = watch(done, "tick")
    watchdog.ready("onnxruntime, 16 samples")
    watchdog.status("the camera\nis\n  gone")
    watchdog.stopping()
    assert manager.pending() == [
        "READY=1\nSTATUS=onnxruntime, 16 samples",
        "STATUS=the camera is gone",
        "STOPPING=1",
    ]
    watchdog.close()


def test_a_ping_needs_progress_of_every_part(manager: Manager, done: Counter[str]) -> None:
    watchdog = watch(done, "tick", "worker")
    assert not watchdog.ping()  # nothing has been done yet
    done["tick"] += 1
    assert not watchdog.ping()
    done["tick"] += 5
    assert not watchdog.ping()
    done["worker"] += 1
    assert watchdog.ping()
    assert not watchdog.ping()  # the same progress is not told twice
    done["worker"] += 1
    assert not watchdog.ping()
    done["tick"] += 1
    assert watchdog.ping()
    assert manager.pending() == ["WATCHDOG=1", "WATCHDOG=1"]
    watchdog.close()


def test_progress_before_the_watchdog_was_made_does_not_count(manager: Manager, done: Counter[str]) -> None:
    done["tick"] = 7
    watchdog = watch(done, "tick")
    assert not watchdog.ping()
    assert manager.pending() == []
    watchdog.close()


def test_beats_ping_at_most_twice_in_the_time_that_is_allowed(
    manager: Manager, done: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "2000000")
    now_s = [100.0]
    watchdog = watch(done, "tick", now_s=now_s)
    assert watchdog.interval_s == 1.0
    sent_s = []
    for tick in range(65):
        now_s[0] = 100.0 + tick / 16
        done["tick"] += 1
        if watchdog.beat():
            sent_s.append(now_s[0])
    assert sent_s == [100.0, 101.0, 102.0, 103.0, 104.0]
    assert manager.pending() == ["WATCHDOG=1"] * 5
    watchdog.close()


def test_a_beat_that_is_due_goes_out_as_soon_as_the_slow_part_moves(
    manager: Manager, done: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "2000000")
    now_s = [0.0]
    watchdog = watch(done, "tick", "worker", now_s=now_s)
    done.update(tick=1, worker=1)
    assert watchdog.beat()
    for now_s[0] in (1.0, 1.25, 1.5):
        done["tick"] += 1
        assert not watchdog.beat()
    done["worker"] += 1
    now_s[0] = 1.75
    assert watchdog.beat()
    assert manager.pending() == ["WATCHDOG=1"] * 2
    watchdog.close()


@pytest.mark.parametrize("allowed_us", [None, "", "0", "-5", "soon", "²"])
def test_without_a_time_to_keep_beats_say_nothing(
    allowed_us: str | None, manager: Manager, done: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if allowed_us is not None:
        monkeypatch.setenv("WATCHDOG_USEC", allowed_us)
    watchdog = watch(done, "tick")
    done["tick"] += 1
    assert not watchdog.beat()
    assert manager.pending() == []
    watchdog.close()


@pytest.mark.parametrize(("watched", "expected"), [("", 0.5), (str(os.getpid()), 0.5), ("1", None)])
def test_a_watchdog_of_another_process_is_not_ours(
    watched: str, expected: float | None, manager: Manager, done: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "1000000")
    monkeypatch.setenv("WATCHDOG_PID", watched)
    watchdog = watch(done, "tick")
    assert watchdog.interval_s == expected
    watchdog.close()


@pytest.mark.parametrize("address", [None, "", "relative/notify", "vsock:2:1234", "/nowhere/notify", "/" + "x" * 200])
def test_nobody_to_tell_is_no_error(
    address: str | None, done: Counter[str], monkeypatch: pytest.MonkeyPatch, manager: Manager
) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET")
    if address is not None:
        monkeypatch.setenv("NOTIFY_SOCKET", address)
    monkeypatch.setenv("WATCHDOG_USEC", "1000000")
    watchdog = watch(done, "tick")
    watchdog.ready("up")
    done["tick"] += 1
    assert not watchdog.beat()
    watchdog.stopping()
    watchdog.close()
    assert manager.pending() == []


def test_the_abstract_namespace_is_written_with_an_at(
    done: Counter[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    name = f"edge-bdl-test-{os.getpid()}-{tmp_path.name}"
    manager = Manager("\0" + name)
    monkeypatch.setenv("NOTIFY_SOCKET", "@" + name)
    watchdog = watch(done, "tick")
    watchdog.ready()
    assert manager.pending() == ["READY=1"]
    watchdog.close()
    manager.close()


def test_a_service_manager_that_is_behind_delays_nobody_and_gets_the_ping_later(
    manager: Manager, done: Counter[str]
) -> None:
    watchdog = watch(done, "tick")
    lost = False
    for _ in range(100_000):  # more than any receive buffer holds
        done["tick"] += 1
        lost = not watchdog.ping()
        if lost:
            break
    assert lost
    manager.pending()
    assert watchdog.ping()  # for the progress whose ping was lost
    watchdog.close()


def test_after_closing_nothing_is_said(manager: Manager, done: Counter[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "1000000")
    watchdog = watch(done, "tick")
    watchdog.close()
    done["tick"] += 1
    assert not watchdog.beat()
    watchdog.stopping()
    assert manager.pending() == []


SERVICE = """
import sys, threading
from edge_bdl_firmware.watchdog import Watchdog

done = {"tick": 0, "worker": 0}
go, went = threading.Semaphore(0), threading.Semaphore(0)

def work():
    while True:
        go.acquire()
        done["worker"] += 1
        went.release()

threading.Thread(target=work, daemon=True).start()
watchdog = Watchdog({name: lambda name=name: done[name] for name in done})
watchdog.ready("up")
for line in sys.stdin:
    done["tick"] += 1
    if line == "tick and work\\n":
        go.release()
        went.acquire()
    print("ping" if watchdog.beat() else "silence", flush=True)
watchdog.stopping()
"""


def test_a_process_whose_worker_hangs_falls_silent_although_it_goes_on_ticking(
    tmp_path: Path, manager: Manager
) -> None:
    environment = os.environ | {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "2"}
    service = subprocess.Popen(
        [sys.executable, "-c", SERVICE], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert service.stdin is not None
    assert service.stdout is not None
    answers = []
    for line in ["tick and work"] * 3 + ["tick"] * 5 + ["tick and work"]:
        service.stdin.write(f"{line}\n")
        service.stdin.flush()
        answers.append(service.stdout.readline().strip())
    service.communicate()
    assert service.returncode == 0
    assert answers == ["ping"] * 3 + ["silence"] * 5 + ["ping"]
    assert manager.pending() == ["READY=1\nSTATUS=up", *["WATCHDOG=1"] * 4, "STOPPING=1"]
