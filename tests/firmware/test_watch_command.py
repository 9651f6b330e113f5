"""``edge-bdl watch`` as a person calls it: a real process, real sockets, a real terminal."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_bdl_firmware.local.channel import Outbox
from edge_bdl_firmware.messages import Assessment, Opening, Step

WATCH = "import sys; from edge_bdl.cli import main; sys.exit(main())"
# So that Ctrl-C reaches it as it would from a keyboard.
OWN_TERMINAL = "import fcntl, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0)"
DIGEST = "ab" * 32
SAID = (
    Step(now_s=0.0, trigger="tick", level="SLOW", speed_factor=0.5, reason="dense fog", output=(0.4, 0.0)),
    Assessment(
        sequence=0,
        stamp_ns=0,
        received_s=0.0,
        boot_id="boot",
        bundle=DIGEST,
        scores={"epistemic": 0.3},
        samples=16,
        stages_ms={"engine": 3.0, "all": 5.0},
    ),
    Opening(
        process="gate",
        bundle=DIGEST,
        bundle_path="/b/pilot.ebdl",
        parameters={"threshold.epistemic.slow": "0.25", "threshold.epistemic.handoff": "0.5"},
    ),
)


@pytest.fixture
def sockets(tmp_path: Path) -> Path:
    folder = tmp_path / "sockets"
    folder.mkdir(mode=0o700)
    return folder


@pytest.fixture
def talking(sockets: Path) -> Iterator[threading.Event]:
    """A thread says everything to every watcher, 20 times a second, as gate and monitor do; set the event to end it."""
    quiet = threading.Event()

    def talk() -> None:
        while not quiet.wait(0.05):
            for path in sockets.glob("watch.*.sock"):
                outbox = Outbox(sockets, path.stem)
                for message in SAID:
                    outbox.send(message)
                outbox.close()

    thread = threading.Thread(target=talk)
    thread.start()
    yield quiet
    quiet.set()
    thread.join()


def command(sockets: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-c", WATCH, "watch", "--sockets", str(sockets), *arguments]


def once(sockets: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(sockets, "--once", *arguments),
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONUTF8": "1"} | environment,
    )


def test_one_view(sockets: Path, talking: threading.Event) -> None:
    result = once(sockets)
    assert (result.returncode, result.stderr) == (0, "")
    for expected in ("dense fog", " 50%", "0.25 │ 0.5", "abababababab pilot.ebdl"):
        assert expected in result.stdout
    assert "\x1b" not in result.stdout
    assert not list(sockets.glob("watch.*.sock"))


def test_one_view_where_only_ascii_can_be_printed(sockets: Path, talking: threading.Event) -> None:
    result = once(sockets, PYTHONUTF8="0", PYTHONIOENCODING="ascii")
    assert result.returncode == 0
    assert result.stdout.isascii()
    assert "0.25 | 0.5" in result.stdout


def test_one_object(sockets: Path, talking: threading.Event) -> None:
    result = once(sockets, "--json")
    assert (result.returncode, result.stderr) == (0, "")
    (row,) = result.stdout.splitlines()
    report = json.loads(row)
    assert (report["level"], report["speed_factor"], report["reason"]) == ("SLOW", 0.5, "dense fog")
    assert report["scores"] == [{"name": "epistemic", "value": 0.3, "slow": 0.25, "handoff": 0.5}]
    assert report["stages_ms"]["engine"] == {"p50": 3.0, "max": 3.0}


@pytest.mark.parametrize("arguments", [(), ("--json",)])
def test_nobody_there_is_said_and_fails(sockets: Path, arguments: tuple[str, ...]) -> None:
    result = once(sockets, *arguments)
    assert result.returncode == 1
    assert ('"level":"UNKNOWN"' if arguments else "no word from the gate yet") in result.stdout


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_objects_line_by_line_until_a_signal(sockets: Path, talking: threading.Event, number: signal.Signals) -> None:
    watcher = subprocess.Popen(command(sockets, "--json"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert watcher.stdout is not None
    assert any(json.loads(row)["level"] == "SLOW" for row in watcher.stdout)
    watcher.send_signal(number)
    _, errors = watcher.communicate()
    assert (watcher.returncode, errors) == (0, "")
    assert not list(sockets.glob("watch.*.sock"))


def test_a_pipe_gets_one_line_for_every_change(sockets: Path, talking: threading.Event) -> None:
    watcher = subprocess.Popen(command(sockets), stdout=subprocess.PIPE, text=True)
    assert watcher.stdout is not None
    rows = iter(watcher.stdout)
    assert any("SLOW 0.50: dense fog" in row for row in rows)
    talking.set()
    assert "UNKNOWN; no word from the gate for" in next(rows)
    watcher.send_signal(signal.SIGINT)
    watcher.communicate()
    assert watcher.returncode == 0


class Terminal:
    """A terminal of a given size, with the watcher in it."""

    def __init__(self, sockets: Path, columns: int, rows: int, **environment: str) -> None:
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        inherited = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
        self.process = subprocess.Popen(
            [sys.executable, "-c", f"{OWN_TERMINAL}; {WATCH}", *command(sockets)[3:]],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            env=inherited | {"PYTHONUTF8": "1", "TERM": "xterm"} | environment,
        )
        os.close(slave)
        self.shown = ""

    def read_until(self, text: str) -> None:
        while text not in self.shown:
            assert self._read(), f"{text!r} never came: {self.shown[-2000:]!r}"

    def press_ctrl_c(self) -> int:
        """Press it, read the rest, and return the exit code."""
        os.write(self._master, b"\x03")
        while self._read():
            pass
        os.close(self._master)
        return self.process.wait()

    def _read(self) -> bool:
        if not select.select([self._master], [], [], 60.0)[0]:
            return False
        try:
            data = os.read(self._master, 65536)
        except OSError:  # Linux says so when nobody has the other end any more
            return False
        self.shown += data.decode(errors="replace")
        return bool(data)


@pytest.mark.parametrize(("columns", "rows"), [(80, 30), (40, 16)])
def test_a_terminal_is_drawn_on_and_given_back(
    sockets: Path, talking: threading.Event, columns: int, rows: int
) -> None:
    terminal = Terminal(sockets, columns, rows)
    terminal.read_until("dense fog")
    assert terminal.press_ctrl_c() == 0
    assert terminal.shown.startswith("\x1b[?1049h\x1b[?7l\x1b[?25l")
    assert "\x1b[?25h\x1b[?7h\x1b[?1049l" in terminal.shown
    assert "\x1b[30;43m" in terminal.shown  # SLOW is yellow
    assert "Traceback" not in terminal.shown


def test_no_color_is_honoured(sockets: Path, talking: threading.Event) -> None:
    terminal = Terminal(sockets, 80, 30, NO_COLOR="1")
    terminal.read_until("dense fog")
    assert terminal.press_ctrl_c() == 0
    assert "\x1b[7m" in terminal.shown
    assert "\x1b[3" not in terminal.shown
    assert "\x1b[9" not in terminal.shown


def test_a_dumb_terminal_gets_lines(sockets: Path, talking: threading.Event) -> None:
    terminal = Terminal(sockets, 80, 30, TERM="dumb")
    terminal.read_until("SLOW 0.50: dense fog")
    assert terminal.press_ctrl_c() == 0
    assert "\x1b" not in terminal.shown


def test_metrics_are_served_while_it_watches(sockets: Path, talking: threading.Event) -> None:
    pytest.importorskip("prometheus_client")
    watcher = subprocess.Popen(
        command(sockets, "--json", "--metrics", "0"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert watcher.stdout is not None
    assert watcher.stderr is not None
    address = watcher.stderr.readline().split()[-1]
    assert any('"level":"SLOW"' in row for row in watcher.stdout)
    with urllib.request.urlopen(address, timeout=60) as answer:
        served = answer.read().decode()
    assert 'edge_bdl_steps_total{trigger="tick"}' in served
    assert 'edge_bdl_stage_seconds_count{stage="engine"}' in served
    watcher.send_signal(signal.SIGINT)
    watcher.communicate()
    assert watcher.returncode == 0


def test_without_the_library_the_pip_line_is_said(sockets: Path) -> None:
    blocked = f"import sys; sys.modules['prometheus_client'] = None; {WATCH}"
    result = subprocess.run(
        [sys.executable, "-c", blocked, *command(sockets, "--metrics", "0")[3:]],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 2
    assert "pip install 'edge-bdl[metrics]'" in result.stderr


@pytest.mark.parametrize("port", ["-1", "65536", "http", "²"])
def test_a_port_that_is_none_is_bad_usage(sockets: Path, port: str) -> None:
    result = subprocess.run(command(sockets, "--metrics", port), capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert "port" in result.stderr
    assert result.stdout == ""
