"""The latched STOP on the disk: whatever happens to the file, nobody drives who was stopped."""

from __future__ import annotations

import os
import resource
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_bdl_firmware.state_file import Latch, StateFile, default_state_path

STOPPED, DRIVING = Latch(True, "STOP: handing over was not answered for 10 s"), Latch(False, "HOLD: acknowledged")
shared_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "gate.state"


@pytest.fixture
def store(path: Path) -> StateFile:
    return StateFile(path)


def record_of(latch: Latch, path: Path) -> bytes:
    StateFile(path).write(latch)
    return path.read_bytes()


def test_without_a_file_nothing_was_latched_and_from_now_on_there_is_one(store: StateFile, path: Path) -> None:
    assert store.read() == Latch(latched=False)
    assert len(path.read_bytes()) == 1024
    assert path.stat().st_mode & 0o777 == 0o600
    assert store.read() == Latch(latched=False)


@pytest.mark.parametrize("latch", [STOPPED, DRIVING, Latch(True), Latch(False, "Größe: 5 µm \x00\x1f\n \U0001f697 ")])
def test_what_was_written_last_is_read(latch: Latch, store: StateFile) -> None:
    store.read()
    for other in (STOPPED, DRIVING, latch):
        store.write(other)
    assert store.read() == latch


@given(st.booleans(), st.text(max_size=400))
@shared_folder
def test_any_reason_fits_and_is_cut_where_it_is_too_long(tmp_path: Path, latched: bool, reason: str) -> None:
    store = StateFile(tmp_path / "gate.state")
    store.write(Latch(latched, reason))
    assert len((tmp_path / "gate.state").read_bytes()) == 1024
    read = store.read()
    assert read.latched is latched
    assert reason.startswith(read.reason)
    assert len(read.reason) == min(len(reason), 150)


# --- a write that was cut short


@pytest.mark.parametrize(("before", "after"), [(DRIVING, STOPPED), (STOPPED, DRIVING)], ids=["stops", "drives"])
def test_a_write_torn_at_any_place_leaves_one_of_the_two_or_counts_as_stopped(
    before: Latch, after: Latch, tmp_path: Path
) -> None:
    path = tmp_path / "gate.state"
    path.touch()
    old, new = record_of(before, path), record_of(after, path)
    for offset in range(len(old) + 1):
        for torn in (new[:offset] + old[offset:], old[:offset] + new[offset:]):
            path.write_bytes(torn)
            read = StateFile(path).read()
            assert read in (before, after) or read.latched
            if read == DRIVING:
                assert torn == (old if before == DRIVING else new)


def test_a_file_cut_short_or_made_longer_counts_as_stopped(store: StateFile, path: Path) -> None:
    store.read()
    whole = path.read_bytes()
    for damaged in (whole[:length] for length in range(len(whole))):
        path.write_bytes(damaged)
        assert store.read().latched
    for damaged in (whole + b" ", whole + b"\n", whole * 2):
        path.write_bytes(damaged)
        assert store.read().latched


def test_any_flipped_bit_of_what_is_said_counts_as_stopped(store: StateFile, path: Path) -> None:
    store.read()
    store.write(DRIVING)
    whole = path.read_bytes()
    said = len(whole.rstrip())
    for index in range(said):
        for bit in range(8):
            damaged = bytearray(whole)
            damaged[index] ^= 1 << bit
            path.write_bytes(damaged)
            assert store.read().latched, (index, bit)


@given(st.binary(max_size=1100) | st.binary(min_size=1024, max_size=1024))
@shared_folder
def test_random_bytes_count_as_stopped_and_say_why(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "gate.state"
    path.write_bytes(data)
    read = StateFile(path).read()
    assert read.latched
    assert f"the state file {path} cannot be used" in read.reason


def test_a_wrong_checksum_counts_as_stopped(store: StateFile, path: Path) -> None:
    store.read()
    path.write_bytes(b"00000000" + path.read_bytes()[8:])
    assert store.read() == Latch(True, f"the state file {path} cannot be used: it is damaged")


def test_a_damaged_file_stays_as_it_is_until_something_is_written(store: StateFile, path: Path) -> None:
    store.read()
    path.write_bytes(b"damaged")
    assert store.read().latched
    assert StateFile(path).read().latched
    store.write(Latch(latched=False))
    assert not store.read().latched


def test_reading_undoes_no_stop_that_somebody_else_is_just_writing(store: StateFile, path: Path) -> None:
    """As a second gate does that was started by mistake, or whoever looks."""
    store.read()
    done = threading.Event()

    def look() -> None:
        while not done.is_set():
            StateFile(path).read()

    looker = threading.Thread(target=look)
    looker.start()
    try:
        for _ in range(100):
            for latch in (DRIVING, STOPPED):
                store.write(latch)
                time.sleep(0.0005)
                assert store.read() == latch
    finally:
        done.set()
        looker.join()


# --- a place that cannot be used


def folder(path: Path) -> Path:
    path.mkdir()
    return path


def below_a_file(path: Path) -> Path:
    path.write_text("")
    return path / "gate.state"


def loop(path: Path) -> Path:
    path.symlink_to(path)
    return path


UNUSABLE = {
    "a folder": folder,
    "below a file": below_a_file,
    "a link to itself": loop,
    "a name that is too long": lambda path: path / ("x" * 300),
    "a name with a zero byte": lambda path: path / "x\0y",
    "the empty device": lambda path: Path("/dev/null"),
    "a full device": lambda path: Path("/dev/full/gate.state"),
    "no real file system": lambda path: Path("/proc/gate.state"),
}


@pytest.mark.parametrize("kind", UNUSABLE)
def test_a_place_that_cannot_be_used_counts_as_stopped_and_says_why(kind: str, tmp_path: Path) -> None:
    path = UNUSABLE[kind](tmp_path / "place")
    read = StateFile(path).read()
    assert read.latched
    assert "cannot be used: " in read.reason


def test_a_file_that_can_be_read_but_not_be_written_counts_as_stopped(
    store: StateFile, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What cannot be written now could not be later, when it is needed. Root may write anything, but not too much."""
    store.read()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        read = store.read()
        with pytest.raises(OSError, match="File too large"):
            store.write(DRIVING)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert read.latched
    assert "File too large" in read.reason


@pytest.mark.skipif(os.getuid() == 0, reason="root may write anywhere")
def test_without_permission_it_counts_as_stopped(store: StateFile, path: Path) -> None:
    store.read()
    path.chmod(0o400)
    assert store.read().latched
    path.parent.chmod(0o000)
    try:
        assert store.read().latched
    finally:
        path.parent.chmod(0o700)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of its own, of 64 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "edge-bdl-test", str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip(f"mounting a small disk is not allowed here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def fill(disk: Path) -> None:
    with (disk / "rest").open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))
    assert os.statvfs(disk).f_bavail == 0


def test_a_disk_that_became_full_still_takes_the_stop(disk: Path) -> None:
    store = StateFile(disk / "gate.state")
    assert not store.read().latched
    fill(disk)
    store.write(STOPPED)
    assert store.read() == STOPPED


def test_a_disk_that_is_full_from_the_start_counts_as_stopped(disk: Path) -> None:
    fill(disk)
    assert "No space left" in StateFile(disk / "gate.state").read().reason
    assert StateFile(disk / "gate.state").read().latched  # and so does what the attempt has left


def test_a_disk_that_became_read_only_counts_as_stopped(disk: Path) -> None:
    store = StateFile(disk / "gate.state")
    assert not store.read().latched
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    read = store.read()
    assert read.latched
    assert "Read-only file system" in read.reason


def test_the_service_managers_folder_comes_before_the_users(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("STATE_DIRECTORY", "/var/lib/edge-bdl")
    assert default_state_path() == Path("/var/lib/edge-bdl/gate.state")
    monkeypatch.delenv("STATE_DIRECTORY")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_state_path() == tmp_path / ".local/state/edge-bdl/gate.state"
