"""``edge-bdl record`` as a real process: recordings appear, whole, whatever happens to it or to its disk."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_bdl import cli
from edge_bdl.bundle import Bundle
from edge_bdl.runtime import Runtime
from edge_bdl_firmware.local.channel import Outbox
from edge_bdl_firmware.messages import AnyMessage, Frame, Heartbeat, Opening, Step, encode
from edge_bdl_firmware.recorder.log_reader import Log, RecordingError
from edge_bdl_firmware.recorder.recover import recover
from edge_bdl_firmware.recorder.replay import replay
from edge_bdl_firmware.recorder.ring import Received

BUNDLE = Path(__file__).parents[2] / "bundles" / "tiny_masks.ebdl"

Drive = Sequence[Received]
Start = Callable[..., Any]


@pytest.fixture
def outbox(tmp_path: Path) -> Iterator[Outbox]:
    """Sends to the recorder."""
    opened = Outbox(tmp_path / "sockets", "recorder")
    yield opened
    opened.close()


@pytest.fixture
def send(outbox: Outbox) -> Callable[..., None]:
    """Sends messages to the recorder, each until it is taken: what is tested here is not the loss."""

    def sent(*messages: AnyMessage) -> None:
        for message in messages:
            until_s = time.monotonic() + 30.0
            while not outbox.send(message):
                assert time.monotonic() < until_s, "the recorder takes nothing"
                time.sleep(0.001)

    return sent


def step(level: str) -> Step:
    return Step(now_s=0.0, trigger="tick", level=level, speed_factor=0.0, reason="because", output=(0.0,) * 6)


def frame(number: int, size: int = 100_000) -> Frame:
    data = np.random.default_rng(number).bytes(size)
    return Frame(sequence=number, stamp_ns=0, received_s=0.0, encoding="rgb8", data=data)


def wait_for(condition: Callable[[], Any]) -> Any:
    until_s = time.monotonic() + 30.0
    while not (value := condition()):
        assert time.monotonic() < until_s
        time.sleep(0.02)
    return value


def recordings(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.mcap"))


def contents(path: Path) -> list[AnyMessage]:
    log = Log(path)
    frames = iter(log.frames())
    return [next(frames) if isinstance(logged.message, Frame) else logged.message for logged in log.messages]


def test_a_drive_recorded_by_the_process_replays_identically(
    tmp_path: Path, start_recorder: Start, send: Callable[..., None], drive: Drive
) -> None:
    path = tmp_path / "all.mcap"
    recorder = start_recorder("--continuous", str(path), "--json")
    messages = [entry.message for entry in drive]
    send(*messages)
    code, out, err = recorder.end(signal.SIGTERM)
    assert code == 0, err
    assert [encode(message) for message in contents(path)] == [encode(message) for message in messages]
    summary = json.loads(out)
    assert summary["recordings"] == [{"path": str(path), "messages": len(messages), "bytes": path.stat().st_size}]
    assert (summary["messages"], summary["refused"], summary["dropped"]) == (len(messages), 0, 0)
    bundle = Bundle.open(BUNDLE)
    assert replay(Log(path), Runtime.open(bundle, bundle.manifest.engines[0]), bundle.digest).identical


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_finishes_the_recording_of_a_fall(
    tmp_path: Path, start_recorder: Start, send: Callable[..., None], number: int
) -> None:
    folder = tmp_path / "incidents"
    recorder = start_recorder("--folder", str(folder), "--after", "60")
    told = [frame(0), step("NOMINAL"), frame(1), step("STOP"), frame(2)]
    send(*told)
    code, _, err = recorder.end(number)
    assert code == 0, err
    assert contents(recordings(folder)[0]) == told
    assert not list(folder.glob("*.partial"))


def test_a_fall_is_recorded_from_before_it_until_after_it(
    tmp_path: Path, start_recorder: Start, send: Callable[..., None]
) -> None:
    folder = tmp_path / "incidents"
    start_recorder("--folder", str(folder), "--before", "60", "--after", "1")
    opening = Opening(process="monitor", bundle="ab" * 32, bundle_path="/b", parameters={"samples": "16", "seed": "3"})
    before = [opening, *(frame(number) for number in range(5)), step("HOLD"), step("NOMINAL")]
    send(*before)
    assert not folder.exists()
    send(step("SLOW"), frame(5))
    first = wait_for(lambda: recordings(folder))[0]
    assert contents(first) == [*before, step("SLOW"), frame(5)]
    metadata = Log(first).metadata
    assert metadata["trigger"] == "NOMINAL -> SLOW: because"
    assert metadata["monitor.bundle"] == "ab" * 32
    assert (metadata["monitor.samples"], metadata["monitor.seed"]) == ("16", "3")
    assert (metadata["evicted"], metadata["refused"], metadata["dropped"]) == ("0", "0", "0")
    # The next one stands for itself, with what came before it.
    send(step("HANDOFF"))
    second = wait_for(lambda: recordings(folder)[1:])[0]
    assert contents(second) == [*before, step("SLOW"), frame(5), step("HANDOFF")]


def test_a_fall_while_writing_prolongs_the_recording(
    tmp_path: Path, start_recorder: Start, send: Callable[..., None]
) -> None:
    folder = tmp_path / "incidents"
    recorder = start_recorder("--folder", str(folder), "--after", "60")
    told = [step("NOMINAL"), step("SLOW"), frame(0), step("HANDOFF"), frame(1), step("STOP")]
    send(*told)
    recorder.end(signal.SIGTERM)
    assert [contents(path) for path in recordings(folder)] == [told]


def test_sigusr1_records(tmp_path: Path, start_recorder: Start, send: Callable[..., None]) -> None:
    folder = tmp_path / "incidents"
    recorder = start_recorder("--folder", str(folder), "--after", "0.2")
    recorder.process.send_signal(signal.SIGUSR1)
    first = wait_for(lambda: recordings(folder))[0]
    assert first.name.startswith("edge-bdl-2")
    send(frame(0))
    recorder.process.send_signal(signal.SIGUSR1)
    second = wait_for(lambda: recordings(folder)[1:])[0]
    assert contents(second) == [frame(0)]
    assert Log(second).metadata["trigger"] == "asked for by SIGUSR1"


def test_a_killed_recorder_leaves_what_can_be_recovered(
    tmp_path: Path, start_recorder: Start, send: Callable[..., None], drive: Drive
) -> None:
    path = tmp_path / "all.mcap"
    partial = tmp_path / "all.mcap.partial"
    recorder = start_recorder("--continuous", str(path))
    messages = [entry.message for entry in drive]
    send(*messages)
    wait_for(lambda: partial.stat().st_size > 100_000)
    recorder.end(signal.SIGKILL)
    assert not path.exists()
    with pytest.raises(RecordingError):
        Log(partial)
    rescue = recover(partial)
    assert rescue.path == str(tmp_path / "all.recovered.mcap")
    rescued = contents(Path(rescue.path))
    assert len(rescued) > len(messages) // 2
    assert [encode(message) for message in rescued] == [encode(message) for message in messages[: len(rescued)]]
    bundle = Bundle.open(BUNDLE)
    assert replay(Log(Path(rescue.path)), Runtime.open(bundle, bundle.manifest.engines[0]), bundle.digest).identical
    # The name is free again at once.
    start_recorder("--folder", str(tmp_path / "incidents"))


def test_a_folder_that_cannot_be_written_is_told_once_and_used_once_it_can(
    tmp_path: Path, start_recorder: Start, send: Callable[..., None]
) -> None:
    """A file in the folder's place refuses root as well, where permissions would not."""
    folder = tmp_path / "incidents"
    folder.write_text("in the way")
    recorder = start_recorder("--folder", str(folder), "--after", "0.05")
    send(step("NOMINAL"), step("STOP"))
    assert "nothing can be recorded" in recorder.process.stderr.readline()
    for _ in range(3):
        send(step("NOMINAL"), step("STOP"))
    folder.unlink()
    send(step("NOMINAL"), step("STOP"))
    wait_for(lambda: recordings(folder) if folder.is_dir() else None)
    code, _, err = recorder.end(signal.SIGTERM)
    assert code == 0
    assert "nothing can be recorded" not in err


def test_a_disk_that_fills_up_costs_one_recording(
    tmp_path: Path, start_recorder: Start, send: Callable[..., None]
) -> None:
    """The limit on a process's files is refused by the kernel as a full disk is, in the middle of a write."""
    folder = tmp_path / "incidents"
    recorder = start_recorder("--folder", str(folder), "--before", "60", "--after", "0.05")
    unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    resource.prlimit(recorder.process.pid, resource.RLIMIT_FSIZE, (150_000, resource.RLIM_INFINITY))
    send(*(frame(number) for number in range(4)), step("NOMINAL"), step("STOP"))
    refusal = recorder.process.stderr.readline()
    assert "nothing can be recorded" in refusal
    wait_for(lambda: os.listdir(folder) == [])
    resource.prlimit(recorder.process.pid, resource.RLIMIT_FSIZE, unlimited)
    send(step("NOMINAL"), step("HOLD"))
    path = wait_for(lambda: recordings(folder))[0]
    assert [message for message in contents(path) if isinstance(message, Frame)] == [frame(n) for n in range(4)]
    assert recorder.end(signal.SIGTERM)[0] == 0


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip(f"needs to mount a file system: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_is_left_as_it_was_and_used_again(
    small_disk: Path, start_recorder: Start, send: Callable[..., None]
) -> None:
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(700_000))
    recorder = start_recorder("--folder", str(small_disk), "--before", "60", "--after", "0.05")
    send(*(frame(number) for number in range(5)), step("NOMINAL"), step("STOP"))
    assert "No space left on device" in recorder.process.stderr.readline()
    wait_for(lambda: os.listdir(small_disk) == ["ballast"])
    ballast.unlink()
    send(step("NOMINAL"), step("HOLD"))
    assert len(contents(wait_for(lambda: recordings(small_disk))[0])) == 9
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    send(step("NOMINAL"), step("HOLD"))
    assert "9 messages" in recorder.process.stderr.readline()
    assert "Read-only file system" in recorder.process.stderr.readline()
    assert recorder.end(signal.SIGTERM)[0] == 1


def test_everything_into_one_file_ends_with_the_disk_and_keeps_what_was_written(
    tmp_path: Path, start_recorder: Start, outbox: Outbox
) -> None:
    path = tmp_path / "all.mcap"
    recorder = start_recorder("--continuous", str(path))
    resource.prlimit(recorder.process.pid, resource.RLIMIT_FSIZE, (450_000, resource.RLIM_INFINITY))
    number = 0
    while recorder.process.poll() is None:
        number += outbox.send(frame(number))
        time.sleep(0.005)
    err = recorder.process.communicate()[1]
    assert recorder.process.returncode == 1
    assert "see edge-bdl recover" in err
    rescued = recover(tmp_path / "all.mcap.partial")
    assert contents(Path(rescued.path or "")) == [frame(n) for n in range(4)]


def test_old_recordings_make_room_for_new_ones(
    tmp_path: Path, start_recorder: Start, send: Callable[..., None]
) -> None:
    folder = tmp_path / "incidents"
    folder.mkdir()
    (folder / "notes.txt").write_bytes(bytes(3_000_000))
    start_recorder("--folder", str(folder), "--before", "0.05", "--after", "0.1", "--max-mb", "2")
    made: set[Path] = set()
    for number in range(8):
        send(frame(2 * number, 200_000), step("NOMINAL"), step("STOP"), frame(2 * number + 1, 200_000))
        wait_for(lambda known=frozenset(made): set(recordings(folder)) - known)
        made |= set(recordings(folder))
        assert sum(path.stat().st_size for path in folder.glob("edge-bdl-*")) <= 2_000_000
    assert len(made) == 8
    kept = recordings(folder)
    assert kept == sorted(made)[-len(kept) :]
    assert 1 <= len(kept) < 8
    assert (folder / "notes.txt").exists()


def test_an_endless_incident_is_cut(tmp_path: Path, start_recorder: Start, send: Callable[..., None]) -> None:
    folder = tmp_path / "incidents"
    recorder = start_recorder("--folder", str(folder), "--after", "60", "--max-mb", "2")
    send(step("NOMINAL"), step("STOP"), *(frame(number) for number in range(30)))
    path = wait_for(lambda: recordings(folder))[0]
    assert 1_000_000 < path.stat().st_size < 1_200_000
    assert "as large as a recording may be" in Log(path).metadata["ended"]
    assert recorder.end(signal.SIGTERM)[0] == 0


def test_what_is_no_message_of_ours_is_counted(
    tmp_path: Path, start_recorder: Start, outbox: Outbox, send: Callable[..., None]
) -> None:
    path = tmp_path / "all.mcap"
    recorder = start_recorder("--continuous", str(path), "--json")
    # Asleep, it finds the signal before what was sent before it.
    os.kill(recorder.process.pid, signal.SIGSTOP)
    for junk in (b"", b"junk", b"\xc1"):
        outbox._socket.sendto(junk, outbox.path)
    send(Heartbeat(now_s=1.0))
    os.kill(recorder.process.pid, signal.SIGTERM)
    _, out, _ = recorder.end(signal.SIGCONT)
    assert json.loads(out)["refused"] == 3
    assert Log(path).metadata["refused"] == "3"
    assert len(Log(path).messages) == 1


def test_a_recorder_that_hangs_holds_nobody_up(tmp_path: Path, start_recorder: Start, outbox: Outbox) -> None:
    path = tmp_path / "all.mcap"
    recorder = start_recorder("--continuous", str(path))
    os.kill(recorder.process.pid, signal.SIGSTOP)
    taken = sum(outbox.send(step("HOLD")) for _ in range(1000))
    assert taken < 1000
    assert outbox.lost == 1000 - taken
    os.kill(recorder.process.pid, signal.SIGCONT)
    assert recorder.end(signal.SIGTERM)[0] == 0
    assert len(Log(path).messages) == taken


def test_a_file_that_is_there_stays_as_it_is(tmp_path: Path, start_recorder: Start) -> None:
    path = tmp_path / "all.mcap"
    path.write_text("mine")
    recorder = start_recorder("--continuous", str(path))
    err = recorder.process.communicate(timeout=30)[1]
    assert recorder.process.returncode == 1
    assert "File exists" in err
    assert path.read_text() == "mine"


def test_a_second_recorder_is_refused(tmp_path: Path, start_recorder: Start) -> None:
    start_recorder("--folder", str(tmp_path / "incidents"))
    assert cli.main(["record", "--sockets", str(tmp_path / "sockets"), "--folder", str(tmp_path / "other")]) == 2


@pytest.mark.parametrize(
    "arguments", [[], ["--folder", "a", "--continuous", "b"], ["--folder", "a", "--before", "-1"]], ids=" ".join
)
def test_bad_usage_is_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["record", *arguments]) == 2
    assert capsys.readouterr().err.startswith("edge-bdl: ")


def test_frames_that_the_memory_has_no_room_for_are_counted(
    tmp_path: Path, start_recorder: Start, send: Callable[..., None]
) -> None:
    folder = tmp_path / "incidents"
    recorder = start_recorder("--folder", str(folder), "--ring-mb", "1", "--after", "60")
    send(*(frame(number) for number in range(20)), step("NOMINAL"), step("STOP"))
    recorder.end(signal.SIGTERM)
    log = Log(recordings(folder)[0])
    kept = [message for message in contents(recordings(folder)[0]) if isinstance(message, Frame)]
    assert kept == [frame(number) for number in range(20 - len(kept), 20)]
    assert 0 < len(kept) <= 10
    assert log.metadata["evicted"] == str(20 - len(kept))
