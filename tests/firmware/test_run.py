from __future__ import annotations

import json
import math
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_bdl import cli
from edge_bdl.bundle import Bundle

BUNDLES = Path(__file__).parents[1] / "bundles"
MASKS, WEIGHTS, DENSE = (str(BUNDLES / f"tiny_{name}.ebdl") for name in ("masks", "weights", "dense"))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Forty frames: the calibration's kind, with ten black and white ones in the middle."""
    folder = tmp_path / "frames"
    folder.mkdir()
    golden = Bundle.open(MASKS).golden()["input.frame"][:, 0]
    rng = np.random.default_rng(0)
    for index in range(40):
        stripes = np.where(rng.random(golden[0].shape) < 0.5, 5, 250).astype(np.uint8)
        np.save(folder / f"{index}.npy", stripes if 20 <= index < 30 else golden[index % 3])
    return folder


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "edge_bdl.cli", "run", *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True, check=False, timeout=60)


def answer(*arguments: object) -> dict[str, Any]:
    ran = run(*arguments, "--json")
    assert ran.returncode == 0, ran.stderr
    value: dict[str, Any] = json.loads(ran.stdout)
    return value


def test_run_starts_held_drives_after_five_good_frames_and_hands_over_at_once(source: Path) -> None:
    told = answer(MASKS, "--source", source, "--rate", 20)
    assert list(told) == ["frames", "faults", "dropped", "level_s", "p50_ms", "ticks"]
    assert (told["frames"] + told["dropped"], told["faults"]) == (40, 0)
    assert len(told["ticks"]) == told["frames"]
    assert [tick["level"] for tick in told["ticks"][:6]] == ["HOLD"] * 4 + ["NOMINAL"] * 2
    assert [tick["speed_factor"] for tick in told["ticks"][:4]] == [0.0] * 4
    # A machine that is busy drops frames; those that it saw are decided the same.
    assert {tick["level"] for tick in told["ticks"] if 6 <= tick["frame"] < 20} == {"NOMINAL"}
    assert {tick["level"] for tick in told["ticks"] if tick["frame"] >= 20} == {"HANDOFF"}
    assert math.isclose(sum(told["level_s"].values()), 39 / 20, rel_tol=0.3)


def test_run_tells_people_what_changed_and_for_how_long(source: Path) -> None:
    lines = run(MASKS, "--source", source, "--rate", 20).stdout.splitlines()
    assert [line.split()[2] for line in lines[:3]] == ["HOLD:", "NOMINAL:", "HANDOFF:"]
    assert re.match(r"\d+ frames, 0 without valid evidence, \d+ dropped", lines[3])


def test_a_frame_of_another_shape_is_a_fault_and_holds(source: Path) -> None:
    np.save(source / "10.npy", np.zeros((2, 2), np.uint8))
    told = answer(MASKS, "--source", source, "--rate", 20)
    assert told["faults"] == 1
    (fault,) = (tick for tick in told["ticks"] if tick["frame"] == 10)
    assert fault["level"] == "HOLD"
    assert "the bundle takes 16 x 16" in fault["reason"]


def test_where_no_frame_can_be_assessed_the_exit_code_says_so(tmp_path: Path) -> None:
    np.save(tmp_path / "0.npy", np.zeros((2, 2), np.uint8))
    ran = run(MASKS, "--source", tmp_path)
    assert ran.returncode == 1
    assert "first fault: the frame is 2 x 2, the bundle takes 16 x 16" in ran.stdout


def test_a_damaged_file_is_bad_input(source: Path) -> None:
    (source / "10.npy").write_bytes(b"damaged")
    ran = run(MASKS, "--source", source)
    assert ran.returncode == 2
    assert "10.npy cannot be read" in ran.stderr


def test_without_thresholds_nothing_drives(
    source: Path, copy_bundle: Callable[[str], Path], reseal: Callable[..., None]
) -> None:
    bundle = copy_bundle("tiny_masks")
    reseal(bundle, lambda manifest: manifest["policy"].update(scores=[], source=None))
    told = answer(bundle, "--source", source, "--rate", 20)
    assert {tick["level"] for tick in told["ticks"]} == {"HOLD"}
    assert "no score to judge by" in told["ticks"][0]["reason"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--rate", "4"), "a camera of 4 Hz is too slow to be safe, expected at least 5 Hz"),
        (("--rate", "0"), "expected a number above 0"),
        (("--samples", "0"), "samples must be"),
        (("--engine", "abacus"), "abacus"),
    ],
)
def test_bad_options_are_one_line(arguments: tuple[str, str], message: str, source: Path) -> None:
    ran = run(MASKS, "--source", source, *arguments)
    assert ran.returncode == 2
    assert ran.stderr.splitlines()[-1].startswith("edge-bdl: ")
    assert message in ran.stderr
    assert "Traceback" not in ran.stderr


def test_a_source_must_be_there_and_the_bundle_must_take_images(
    tmp_path: Path, source: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    for bundle, folder, message in (
        (MASKS, tmp_path / "empty", "holds no frames"),
        (MASKS, tmp_path / "camera", "is no source"),
        (DENSE, source, "this one has 2"),
    ):
        assert cli.main(["run", bundle, "--source", str(folder)]) == 2
        assert message in capfd.readouterr().err


def test_an_interrupt_ends_the_processes_and_tells_the_story_so_far(source: Path, sockets: Path) -> None:
    line = [sys.executable, "-m", "edge_bdl.cli", "run", MASKS, "--source", str(source), "--rate", "5"]
    line += ["--sockets", str(sockets)]
    with subprocess.Popen(line, stdout=subprocess.PIPE, text=True) as started:
        assert started.stdout is not None
        assert "HOLD" in started.stdout.readline()
        assert "NOMINAL" in started.stdout.readline()
        started.send_signal(signal.SIGINT)
        rest = started.stdout.read()
    assert started.returncode == 0
    assert "without valid evidence" in rest
    assert subprocess.run(["pgrep", "-f", str(sockets)], check=False).returncode == 1


def test_no_process_outlives_a_killed_run(sockets: Path, tmp_path: Path) -> None:
    line = [sys.executable, "-m", "edge_bdl.cli", "run", MASKS, "--source", "socket", "--sockets", str(sockets)]
    line += ["--record", str(tmp_path / "all.mcap")]
    with subprocess.Popen(line, stdout=subprocess.PIPE, text=True) as started:
        assert started.stdout is not None
        assert "HOLD" in started.stdout.readline()  # the gate runs; the monitor is being started
        children = Path(f"/proc/{started.pid}/task/{started.pid}/children")
        wait_for(lambda: len(children.read_text().split()) == 3)
        theirs = [Path("/proc", child) for child in children.read_text().split()]
        started.kill()
        wait_for(lambda: not any(map(alive, theirs)))


def alive(process: Path) -> bool:
    try:
        return "State:\tZ" not in (process / "status").read_text()
    except FileNotFoundError:
        return False


def wait_for(condition: Callable[[], bool], most_s: float = 20.0) -> None:
    until_s = time.monotonic() + most_s
    while not condition():
        assert time.monotonic() < until_s
        time.sleep(0.02)
