from __future__ import annotations

import re
from pathlib import Path

import pytest

from edge_bdl_firmware.recorder.recordings import Recordings

NAMES = [f"edge-bdl-2026112{day}T080000.000Z.mcap" for day in range(1, 6)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Five recordings of 100 bytes, and things that somebody else put there."""
    for name in NAMES:
        (tmp_path / name).write_bytes(bytes(100))
    for name in ("notes.txt", "other.mcap", f"kept-{NAMES[0]}", f"{NAMES[0]}.bak"):
        (tmp_path / name).write_bytes(bytes(1000))
    (tmp_path / "edge-bdl-20201121T080000.000Z.mcap").mkdir()
    (tmp_path / "edge-bdl-20201122T080000.000Z.mcap").symlink_to(tmp_path / "other.mcap")
    return tmp_path


def own(folder: Path) -> list[str]:
    return sorted(name for name in NAMES if (folder / name).exists())


def test_a_name_says_when_and_is_known_as_own(tmp_path: Path) -> None:
    path = Recordings(tmp_path / "deep" / "er", 10**6).new(1_795_000_000_123_456_789)
    assert path == tmp_path / "deep" / "er" / "edge-bdl-20261118T110640.123Z.mcap"
    assert path.parent.is_dir()
    assert re.fullmatch(r"edge-bdl-\d{8}T\d{6}\.\d{3}Z\.mcap", path.name)


def test_nothing_goes_while_there_is_room(folder: Path) -> None:
    Recordings(folder, 600).make_room(100, folder / "x.mcap")
    assert own(folder) == NAMES


def test_the_oldest_make_room_and_nobody_elses_does(folder: Path) -> None:
    others = {path.name for path in folder.iterdir()} - set(NAMES)
    Recordings(folder, 600).make_room(350, folder / "x.mcap")
    assert own(folder) == NAMES[3:]
    Recordings(folder, 600).make_room(10**9, folder / "x.mcap")
    assert own(folder) == []
    assert {path.name for path in folder.iterdir()} == others


def test_what_is_being_written_stays(folder: Path) -> None:
    Recordings(folder, 100).make_room(10**9, folder / NAMES[2])
    assert own(folder) == [NAMES[2]]


def test_what_a_killed_recorder_left_counts_and_goes_as_well(folder: Path) -> None:
    partial = folder / "edge-bdl-20261101T080000.000Z.mcap.partial"
    partial.write_bytes(bytes(200))
    Recordings(folder, 700).make_room(1, folder / "x.mcap")
    assert not partial.exists()
    assert own(folder) == NAMES
