"""Sockets between processes: what is sent arrives whole or is counted as lost, and nobody ever waits for anybody."""

from __future__ import annotations

import array
import fcntl
import gc
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edge_bdl.errors import InputError
from edge_bdl_firmware.local import channel
from edge_bdl_firmware.local.channel import Inbox, Outbox, socket_folder
from edge_bdl_firmware.messages import AnyMessage, Command, Frame, Human, encode

SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
IN_A_FILE = b"\xc1"


def frame(size: int, sequence: int = 0) -> Frame:
    return Frame(
        sequence=sequence, stamp_ns=1, received_s=2.0, encoding="mono8", height=1, width=size, step=size,
        data=os.urandom(1024) * (size // 1024),
    )  # fmt: skip


@pytest.fixture
def inbox(sockets: Path) -> Iterator[Inbox]:
    with Inbox(sockets, "gate") as opened:
        yield opened


@pytest.fixture
def outbox(sockets: Path) -> Iterator[Outbox]:
    opened = Outbox(sockets, "gate")
    yield opened
    opened.close()


@pytest.fixture
def stranger() -> Iterator[socket.socket]:
    """A program of somebody else's."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as opened:
        yield opened


def descriptors() -> int:
    gc.collect()  # what other tests left to it must not be closed between two counts
    return len(os.listdir("/proc/self/fd"))


def send_descriptors(stranger: socket.socket, path: Path, data: bytes, sent: list[int]) -> None:
    rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", sent))
    stranger.sendmsg([data], [rights], 0, str(path))


def memory(data: bytes, seals: int = SEALS) -> int:
    descriptor = os.memfd_create("test", os.MFD_ALLOW_SEALING)
    os.write(descriptor, data)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
    return descriptor


# --- what arrives


@pytest.mark.parametrize(
    "size", [0, 1024, 31 * 1024, 32 * 1024, 33 * 1024, 2**20, 32 * 2**20], ids=lambda size: f"{size} bytes"
)
def test_a_frame_of_any_size_arrives_whole(size: int, inbox: Inbox, outbox: Outbox) -> None:
    sent = frame(size)
    assert outbox.send(sent)
    assert inbox.receive(1.0) == sent
    assert (outbox.lost, inbox.refused) == (0, 0)


def test_messages_arrive_in_their_order_the_large_ones_too(inbox: Inbox, outbox: Outbox) -> None:
    sent: list[AnyMessage] = [Command(axes=(1.0,)), frame(2**20), Command(axes=(2.0,)), frame(1024)]
    assert all(map(outbox.send, sent))
    assert [inbox.receive(1.0) for _ in sent] == sent


def test_nothing_is_received_where_nothing_was_sent(inbox: Inbox) -> None:
    assert inbox.receive() is None
    assert inbox.receive(0.01) is None


def test_an_inbox_can_wait_until_something_comes(inbox: Inbox, outbox: Outbox) -> None:
    later = threading.Timer(0.05, outbox.send, [Human(act="acknowledge")])
    later.start()
    assert inbox.receive(None) == Human(act="acknowledge")
    later.join()


# --- what does not arrive


def test_without_a_receiver_messages_are_lost_and_counted(sockets: Path, outbox: Outbox) -> None:
    assert not sockets.exists()
    assert not outbox.send(Command(axes=(1.0,)))
    assert not outbox.send(frame(2**20))
    assert outbox.lost == 2


def test_a_receiver_that_is_behind_loses_messages_and_the_sender_never_waits(inbox: Inbox, outbox: Outbox) -> None:
    """Nothing here is timed: a send that waited would never return, as nobody receives."""
    sent = sum(outbox.send(Command(axes=(float(n),))) for n in range(5000))
    assert 0 < sent < 5000
    assert outbox.lost == 5000 - sent
    received = [inbox.receive() for _ in range(sent)]
    assert [message.axes for message in received if isinstance(message, Command)] == [(float(n),) for n in range(sent)]
    assert outbox.send(Command(axes=(0.0,)))


def test_frames_that_wait_for_a_receiver_that_hangs_are_few(sockets: Path, inbox: Inbox) -> None:
    """However long this system's queue is: ten senders stand for a queue of ten times the length."""
    sent = 0
    for _ in range(10):
        outbox = Outbox(sockets, "gate")
        sent += sum(outbox.send(frame(2**20)) for _ in range(100))
        assert outbox._files is not None
        charged = outbox._files.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
        outbox.close()
    assert sent < 100
    assert charged <= 2 * channel._FILES_ON_THE_WAY_BYTES  # the kernel doubles it; some 768 bytes a frame


def test_a_receiver_that_was_killed_comes_back_under_the_same_name(sockets: Path, outbox: Outbox) -> None:
    code = (
        "import sys, time; from pathlib import Path; from edge_bdl_firmware.local.channel import Inbox\n"
        "with Inbox(Path(sys.argv[1]), 'gate'):\n print('up', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(sockets)], stdout=subprocess.PIPE) as receiver:
        assert receiver.stdout is not None
        assert receiver.stdout.readline() == b"up\n"
        assert outbox.send(Command(axes=(1.0,)))
        with pytest.raises(InputError, match=r"another process already receives at .*gate\.sock: stop it first"):
            Inbox(sockets, "gate")
        receiver.send_signal(signal.SIGKILL)
    assert (sockets / "gate.sock").exists()
    assert not outbox.send(Command(axes=(2.0,)))
    with Inbox(sockets, "gate") as inbox:
        assert outbox.send(Command(axes=(3.0,)))
        assert inbox.receive() == Command(axes=(3.0,))
        assert inbox.receive() is None
    assert not (sockets / "gate.sock").exists()


def test_two_receivers_of_one_name_are_refused_also_in_one_process_and_the_first_goes_on(
    sockets: Path, inbox: Inbox, outbox: Outbox
) -> None:
    before = descriptors()
    for _ in range(3):
        with pytest.raises(InputError, match="another process already receives"):
            Inbox(sockets, "gate")
    assert descriptors() == before
    assert outbox.send(Command(axes=(1.0,)))
    assert inbox.receive() == Command(axes=(1.0,))


def test_a_name_is_free_again_as_soon_as_it_was_given_back(sockets: Path) -> None:
    for _ in range(20):
        Inbox(sockets, "gate").close()
    assert [path.name for path in sockets.iterdir()] == ["gate.lock"]


def test_names_do_not_hear_each_other(sockets: Path, inbox: Inbox) -> None:
    with Inbox(sockets, "base") as base:
        other = Outbox(sockets, "base")
        assert other.send(Command(axes=(1.0,)))
        other.close()
        assert inbox.receive() is None
        assert base.receive() == Command(axes=(1.0,))


# --- what is none of ours


@pytest.mark.parametrize(
    "data", [b"", b"\x00", IN_A_FILE, b"hello", b"\x91" * 30_000, os.urandom(60_000), encode(frame(60 * 1024))],
    ids=["empty", "zero", "a file without one", "text", "deep", "random", "cut short"],
)  # fmt: skip
def test_a_foreign_datagram_is_counted_and_passed_over(
    data: bytes, inbox: Inbox, outbox: Outbox, stranger: socket.socket
) -> None:
    stranger.sendto(data, str(inbox.path))
    outbox.send(Command(axes=(1.0,)))
    assert inbox.receive(1.0) == Command(axes=(1.0,))
    assert inbox.refused == 1


def test_a_flood_of_foreign_datagrams_does_not_keep_a_receiver_from_its_other_work(
    inbox: Inbox, stranger: socket.socket
) -> None:
    """A gate ticks between two calls: without an end of its time it would not, for as long as the flood lasts."""
    flooding = threading.Event()

    def flood() -> None:
        stranger.setblocking(False)
        while not flooding.is_set():
            try:
                stranger.sendto(b"foreign", str(inbox.path))
            except BlockingIOError:
                os.sched_yield()

    flooder = threading.Thread(target=flood)
    flooder.start()
    try:
        until_s = time.monotonic() + 5.0
        while inbox.refused < 50 and time.monotonic() < until_s:
            assert inbox.receive(0.01) is None
    finally:
        flooding.set()
        flooder.join()
    assert inbox.refused >= 50


def zeros(size: int) -> int:
    descriptor = os.memfd_create("sparse", os.MFD_ALLOW_SEALING)
    os.ftruncate(descriptor, size)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, SEALS)
    return descriptor


FORGED: dict[str, Callable[[], list[int]]] = {
    "not sealed": lambda: [memory(encode(Command(axes=(1.0,))), 0)],
    "sealed against growing only": lambda: [memory(encode(Command(axes=(1.0,))), fcntl.F_SEAL_GROW)],
    "empty": lambda: [memory(b"")],
    "cut short": lambda: [memory(encode(frame(64 * 1024))[:-1])],
    "no message": lambda: [memory(b"hello")],
    "too large": lambda: [zeros(257 * 2**20)],
    "nothing but zeros": lambda: [zeros(2**20)],
    "a folder": lambda: [os.open("/", os.O_RDONLY)],
    "a device": lambda: [os.open("/dev/zero", os.O_RDONLY)],
    "a plain file": lambda: [os.open(__file__, os.O_RDONLY)],
    "a pipe": lambda: list(os.pipe()),
    "write only": lambda: [os.open("/dev/null", os.O_WRONLY)],
    "too many": lambda: [memory(encode(Command(axes=(1.0,)))) for _ in range(20)],
}


@pytest.mark.parametrize("kind", FORGED)
@pytest.mark.parametrize("data", [IN_A_FILE, b"hello", encode(Human(act="acknowledge"))], ids=["file", "text", "ours"])
def test_forged_files_are_refused_and_none_stays_open(
    kind: str, data: bytes, inbox: Inbox, outbox: Outbox, stranger: socket.socket
) -> None:
    before = descriptors()
    sent = FORGED[kind]()
    send_descriptors(stranger, inbox.path, data, sent)
    for descriptor in sent:
        os.close(descriptor)
    outbox.send(Command(axes=(7.0,)))
    received = [inbox.receive(1.0)]
    if data == encode(Human(act="acknowledge")):
        assert received == [Human(act="acknowledge")]  # what came with it is nothing to us
        received = [inbox.receive(1.0)]
    elif kind == "too many" and data == IN_A_FILE:
        assert received in ([Command(axes=(1.0,))], [Command(axes=(7.0,))])
        received = [Command(axes=(7.0,))]
    else:
        assert inbox.refused == 1
    assert received == [Command(axes=(7.0,))]
    assert descriptors() == before


def test_large_messages_leave_no_descriptor_behind_whether_they_arrive_or_not(inbox: Inbox, outbox: Outbox) -> None:
    outbox.send(frame(2**20))
    inbox.receive()
    before = descriptors()
    for _ in range(100):
        outbox.send(frame(64 * 1024))
    assert outbox.lost
    while inbox.receive() is not None:
        pass
    assert descriptors() == before


# --- the folder


def test_the_folder_is_made_for_this_user_alone(sockets: Path, inbox: Inbox) -> None:
    assert sockets.stat().st_mode & 0o777 == 0o700


def test_a_folder_that_is_a_file_and_a_name_that_is_too_long_are_said_in_one_line(sockets: Path) -> None:
    sockets.write_text("")
    with pytest.raises(InputError, match="cannot receive at") as refused:
        Inbox(sockets, "gate")
    assert "\n" not in str(refused.value)
    sockets.unlink()
    before = descriptors()
    for _ in range(2):  # the second time, too, it is the length: the first left no lock behind
        with pytest.raises(InputError, match="too long"):
            Inbox(sockets, "x" * 100)
    assert descriptors() == before


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a folder to another user")
def test_another_users_folder_is_refused(sockets: Path) -> None:
    sockets.mkdir()
    os.chown(sockets, 12345, 12345)
    with pytest.raises(InputError, match="belongs to another user: name a folder of your own with EDGE_BDL_SOCKETS"):
        Inbox(sockets, "gate")
    assert list(sockets.iterdir()) == []


def test_the_folder_is_this_users_own_unless_somebody_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EDGE_BDL_SOCKETS", raising=False)
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/7")
    assert socket_folder() == Path(f"/run/user/7/edge-bdl-{os.getuid()}")
    monkeypatch.setenv("EDGE_BDL_SOCKETS", "/run/car")
    assert socket_folder() == Path("/run/car")


def test_sending_through_a_closed_outbox_is_our_own_mistake_and_not_lost(inbox: Inbox, sockets: Path) -> None:
    outbox = Outbox(sockets, "gate")
    outbox.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        outbox.send(Command(axes=(1.0,)))
