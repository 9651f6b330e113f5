"""The systemd units are understood by systemd, and start what is there."""

from __future__ import annotations

import shutil
import subprocess
from collections import defaultdict
from pathlib import Path

import pytest

from edge_bdl.cli import VERBS

UNITS = Path(__file__).parents[2] / "firmware_py/systemd"
WATCHED = ("edge-bdl-gate", "edge-bdl-guard", "edge-bdl-monitor")
ALL = (*WATCHED, "edge-bdl-recorder")


def settings(unit: str) -> dict[str, list[str]]:
    """What a unit says, each key with all of its values."""
    found = defaultdict(list)
    for line in (UNITS / f"{unit}.service").read_text().splitlines():
        key, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            found[key].append(value)
    return found


def commands(unit: str) -> list[list[str]]:
    """Words of what a unit starts, and of what its comments say to start instead."""
    lines = [line.lstrip("# ") for line in (UNITS / f"{unit}.service").read_text().splitlines()]
    return [line.removeprefix("ExecStart=").split() for line in lines if line.startswith("ExecStart=/")]


def arguments() -> dict[str, str]:
    """The file of arguments, by name."""
    lines = (UNITS / "edge-bdl.env").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def test_these_are_all_units() -> None:
    assert sorted(path.stem for path in UNITS.glob("*.service")) == sorted(ALL)


def test_systemd_finds_nothing_wrong_with_them() -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("systemd-analyze is not installed")
    units = [str(UNITS / f"{unit}.service") for unit in ALL]
    result = subprocess.run([analyze, "verify", "--man=no", *units], capture_output=True, text=True, check=False)
    # It only warns of keys that it does not know, and returns 0.
    ours = [line for line in (result.stdout + result.stderr).splitlines() if "edge-bdl" in line]
    assert (result.returncode, ours) == (0, [])


@pytest.mark.parametrize("unit", ALL)
def test_what_they_start_is_a_verb_with_arguments_from_the_file(unit: str) -> None:
    found = commands(unit)
    assert len(found) == (2 if unit in WATCHED else 1)
    for program, command, verb, argument in found:
        assert (program, command) == ("/usr/bin/env", "edge-bdl")
        assert verb in VERBS
        assert argument.startswith("$")
        assert argument[1:] in arguments()


@pytest.mark.parametrize("unit", ALL)
def test_they_are_started_again_for_ever_and_gain_no_privileges(unit: str) -> None:
    said = settings(unit)
    assert said["Restart"] == ["always"]
    assert said["StartLimitIntervalSec"] == ["0"]
    assert said["NoNewPrivileges"] == ["yes"]
    assert said["User"] == ["edge-bdl"]


@pytest.mark.parametrize("unit", WATCHED)
def test_who_keeps_the_robot_safe_is_watched(unit: str) -> None:
    said = settings(unit)
    assert said["Type"] == ["notify"]
    assert 0.0 < float(said["WatchdogSec"][0]) <= 5.0


@pytest.mark.parametrize("unit", ALL)
def test_they_share_one_folder_of_sockets_that_outlives_each_of_them(unit: str) -> None:
    said = settings(unit)
    assert said["RuntimeDirectory"] == ["edge-bdl"]
    assert said["RuntimeDirectoryPreserve"] == ["yes"]
    assert "EDGE_BDL_SOCKETS=%t/edge-bdl" in said["Environment"]


def test_nothing_takes_the_camera_from_the_monitor() -> None:
    taken = {"PrivateDevices", "ProtectClock", "DevicePolicy", "DeviceAllow", "MemoryDenyWriteExecute"}
    assert not taken & settings("edge-bdl-monitor").keys()


def test_the_gate_goes_before_the_monitor_and_the_recorder_after() -> None:
    def order(key: str) -> list[float]:
        return [float((settings(unit)[key] or ["0"])[0]) for unit in ("edge-bdl-gate", "edge-bdl-monitor", ALL[-1])]

    nice, killed_first = order("Nice"), order("OOMScoreAdjust")
    assert nice == sorted(set(nice))
    assert killed_first == sorted(set(killed_first))
    assert all(settings(unit)["MemoryMax"] for unit in ("edge-bdl-monitor", "edge-bdl-recorder"))
