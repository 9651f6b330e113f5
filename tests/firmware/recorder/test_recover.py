from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from mcap.reader import make_reader
from mcap.records import Chunk
from mcap.stream_reader import StreamReader
from mcap.writer import CompressionType, Writer

from edge_bdl import cli
from edge_bdl_firmware.messages import Frame
from edge_bdl_firmware.recorder.log_reader import Log, RecordingError
from edge_bdl_firmware.recorder.recover import recover
from edge_bdl_firmware.recorder.ring import Received

Record = Callable[..., Path]
Drive = Sequence[Received]


def test_whatever_was_written_before_a_cut_is_rescued(drive: Drive, record: Record, tmp_path: Path) -> None:
    path = record(drive)
    sound = Log(path)
    whole, frames = path.read_bytes(), list(sound.frames())
    most = 0
    for length in range(0, len(whole), len(whole) // 37):
        cut = tmp_path / f"cut{length}.mcap.partial"
        cut.write_bytes(whole[:length])
        rescue = recover(cut)
        assert cut.read_bytes() == whole[:length]
        assert 0 <= rescue.lost_bytes <= length
        if rescue.path is None:
            assert rescue.messages == 0
            continue
        log = Log(Path(rescue.path))
        assert log.messages == sound.messages[: len(log.messages)]
        rescued = list(log.frames())
        assert rescued == frames[: len(rescued)]
        # A message may be in the file before the views that people see of it.
        assert len(rescued) >= sum(isinstance(entry.message, Frame) for entry in log.messages) - 1
        assert log.metadata["trigger"] == "test"
        assert len(log.messages) >= most
        most = len(log.messages)
    assert most > 0.9 * len(sound.messages)
    assert not list(tmp_path.glob("*.recovered.mcap.partial"))


def test_little_is_lost_at_a_cut(drive: Drive, record: Record, tmp_path: Path) -> None:
    whole = record(drive).read_bytes()
    cut = tmp_path / "cut.mcap"
    cut.write_bytes(whole[: len(whole) // 2])
    assert recover(cut).lost_bytes < 40_000


def chunk_offsets(path: Path) -> list[int]:
    """Where the data of each chunk lies, about."""
    offsets = []
    with path.open("rb") as file:
        for record in StreamReader(file, emit_chunks=True).records:
            if isinstance(record, Chunk):
                offsets.append(file.tell() - len(record.data) // 2)
    return offsets


def test_damage_in_the_middle_costs_no_more_than_its_piece(drive: Drive, record: Record, tmp_path: Path) -> None:
    path = record(drive)
    sound = Log(path)
    damaged = bytearray(path.read_bytes())
    offsets = chunk_offsets(path)
    assert len(offsets) > 4
    damaged[offsets[2]] ^= 0xFF
    broken = tmp_path / "broken.mcap"
    broken.write_bytes(damaged)
    with pytest.raises(RecordingError):
        list(Log(broken).frames())
    rescue = recover(broken)
    assert (rescue.damaged_chunks, rescue.lost_bytes) == (1, 0)
    log = Log(Path(rescue.path or ""))
    lost = len(sound.messages) - len(log.messages)
    assert 0 < lost < len(sound.messages) / 2
    assert log.messages[-1] == sound.messages[-1]
    assert all(entry in sound.messages for entry in log.messages)


def test_a_sound_recording_needs_nothing(drive: Drive, record: Record, tmp_path: Path) -> None:
    rescue = recover(record(drive))
    assert rescue.sound
    assert rescue.path is None
    assert [path.name for path in tmp_path.iterdir()] == ["a.mcap"]


def test_another_mcap_is_rescued_as_well(tmp_path: Path) -> None:
    path = tmp_path / "chatter.mcap"
    with path.open("wb") as file:
        writer = Writer(file, chunk_size=100, compression=CompressionType.ZSTD)
        writer.start("none", "somebody")
        channel = writer.register_channel("/chatter", "json", 0, {"who": "me"})
        writer.add_attachment(1, 2, "a.txt", "text/plain", b"abc")
        for number in range(100):
            writer.add_message(channel, number, b"%d" % number, number, number)
        writer.finish()
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 3])
    rescue = recover(path)
    with Path(rescue.path or "").open("rb") as file:
        reader = make_reader(file, validate_crcs=True)
        messages = [(channel, message) for _, channel, message in reader.iter_messages()]
        assert next(iter(reader.iter_attachments())).data == b"abc"
        assert reader.get_header().profile == "none"
    assert len(messages) == rescue.messages > 10
    assert [message.data for _, message in messages] == [b"%d" % number for number in range(len(messages))]
    assert all((channel.topic, channel.metadata) == ("/chatter", {"who": "me"}) for channel, _ in messages)


def test_nothing_is_overwritten(drive: Drive, record: Record, tmp_path: Path) -> None:
    cut = tmp_path / "cut.mcap"
    cut.write_bytes(record(drive).read_bytes()[:-100])
    mine = tmp_path / "cut.recovered.mcap"
    mine.write_text("mine")
    with pytest.raises(RecordingError, match="is there already"):
        recover(cut)
    assert mine.read_text() == "mine"


def test_random_damage_never_gives_more_than_errors_and_sound_files(
    drive: Drive, record: Record, tmp_path: Path
) -> None:
    whole = record(drive).read_bytes()
    generator = np.random.default_rng(0)
    for number in range(60):
        damaged = bytearray(whole)
        for offset in generator.integers(8, len(whole), generator.integers(1, 30)):
            damaged[offset] = generator.integers(0, 256)
        path = tmp_path / f"{number}.mcap"
        path.write_bytes(damaged)
        rescue = recover(path)
        if rescue.path is not None:
            assert recover(Path(rescue.path)).sound


def test_noise_after_the_magic_holds_nothing(tmp_path: Path) -> None:
    path = tmp_path / "noise.mcap"
    for seed in range(20):
        path.write_bytes(b"\x89MCAP0\r\n" + np.random.default_rng(seed).bytes(5000))
        assert recover(path).messages == 0
    assert [path.name for path in tmp_path.iterdir()] == ["noise.mcap"]


# The verb.


def test_the_verb_says_what_was_rescued(
    drive: Drive, record: Record, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cut = tmp_path / "cut.mcap.partial"
    cut.write_bytes(record(drive).read_bytes()[:-1000])
    assert cli.main(["recover", str(cut), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["path"] == str(tmp_path / "cut.recovered.mcap")
    assert facts["messages"] > 1000
    Path(facts["path"]).unlink()
    assert cli.main(["recover", str(cut)]) == 0
    out = capsys.readouterr().out
    assert f"{facts['messages']} messages" in out
    assert f"{facts['lost_bytes']} bytes at the end" in out


def test_the_verb_says_that_a_recording_is_sound(
    drive: Drive, record: Record, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["recover", str(record(drive))]) == 0
    assert "nothing to recover" in capsys.readouterr().out


@pytest.mark.parametrize("content", [b"", b"\x89MCAP0\r\n"], ids=["empty", "magic"])
def test_a_recording_in_which_nothing_is_gives_1(
    tmp_path: Path, content: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.mcap"
    path.write_bytes(content)
    assert cli.main(["recover", str(path)]) == 1
    assert "no whole message" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["a.mcap"]


def test_what_is_no_mcap_gives_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.mcap"
    path.write_bytes(np.random.default_rng(0).bytes(1000))
    for wrong in (path, tmp_path / "none.mcap", tmp_path):
        assert cli.main(["recover", str(wrong)]) == 2
        assert capsys.readouterr().err.count("\n") == 1
