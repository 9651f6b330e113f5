"""The real processes over real sockets: zeros from the start, and zero whenever one of them is gone.

What is asserted are the times in the recorded steps, and the half second that is promised; a machine that is busy makes
these tests slower, not red.
"""

from __future__ import annotations

import itertools
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

from edge_bdl.bundle import Bundle
from edge_bdl_firmware.local.channel import Inbox, Outbox
from edge_bdl_firmware.messages import Assessment, Command, Frame, Human, Step
from edge_bdl_firmware.state_file import Latch, StateFile

LONG_S = 30.0  # for what is awaited; no test is about how long it takes
PROMISED_S = 0.5
MASKS = Path(__file__).parents[1] / "bundles" / "tiny_masks.ebdl"
ZERO = (0.0, 0.0)

Start = Callable[..., "subprocess.Popen[str]"]


class Base:
    """The wheels' end, and a controller that never rests."""

    def __init__(self, sockets: Path, good: Callable[..., Assessment]) -> None:
        self.inbox = Inbox(sockets, "base")
        self.gate = Outbox(sockets, "gate")
        self.monitor = Outbox(sockets, "monitor")
        self.good = good
        self.sequence = 0
        self.steps: list[Step] = []
        self.next_s = 0.0

    def close(self) -> None:
        for part in (self.inbox, self.gate, self.monitor):
            part.close()

    def listen(self, until: Callable[[Step], object], *, every: Callable[[], object] | None = None) -> list[Step]:
        """All steps up to the first one that is as it should be; ``every`` 50 ms something is done."""
        heard: list[Step] = []
        until_s = time.monotonic() + LONG_S
        while True:
            if every is not None and time.monotonic() >= self.next_s:
                self.next_s = time.monotonic() + 0.05
                every()
            message = self.inbox.receive(0.01)
            if isinstance(message, Step):
                heard.append(message)
                self.steps.append(message)
                if until(message):
                    return heard
            assert time.monotonic() < until_s, heard[-3:]

    def listen_for(self, seconds: float, *, every: Callable[[], object] | None = None) -> list[Step]:
        until_s = time.monotonic() + seconds
        return self.listen(lambda step: time.monotonic() > until_s, every=every)

    def silence_s(self) -> float:
        """Until nothing comes any more: what is left in the queue is taken."""
        last_s = time.monotonic()
        while time.monotonic() - last_s < 0.3:
            if self.inbox.receive(0.05) is not None:
                last_s = time.monotonic()
        return time.monotonic() - last_s

    def command(self) -> None:
        self.gate.send(Command(axes=(1.0, -0.5), kept=(0.2,)))

    def see(self, **fields: object) -> None:
        self.sequence += 1
        self.gate.send(self.good(self.sequence, **fields))

    def both(self) -> None:
        self.see()
        self.command()

    def act(self, act: str) -> None:
        self.gate.send(Human(act=act))  # type: ignore[arg-type]

    def drive(self) -> Step:
        """Until it moves."""
        return self.listen(lambda step: step.level == "NOMINAL" and any(step.output), every=self.both)[-1]


@pytest.fixture
def base(sockets: Path, good: Callable[..., Assessment]) -> Iterator[Base]:
    made = Base(sockets, good)
    yield made
    made.close()


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "gate.state"


@pytest.fixture
def gate(start: Start, sockets: Path, state: Path) -> Callable[[], subprocess.Popen[str]]:
    return lambda: start("gate", MASKS, "--sockets", sockets, "--state", state, "--axes", 2)


def stopped_at(steps: list[Step]) -> Step:
    """The first step from which on nothing moved any more."""
    moving = [number for number, step in enumerate(steps) if any(step.output)]
    return steps[moving[-1] + 1 if moving else 0]


# --- the start


def test_zeros_go_out_from_the_start_at_the_rate_with_nobody_else_there(
    gate: Callable[[], subprocess.Popen[str]], base: Base
) -> None:
    gate()
    steps = base.listen(lambda step: step.now_s > base.steps[0].now_s + 1.0)
    assert {(step.level, step.output, step.trigger) for step in steps} == {("HOLD", ZERO, "tick")}
    assert len(steps) >= 10
    planned = [step.now_s - step.late_ms / 1e3 for step in steps]
    for before, after in itertools.pairwise(planned):  # on the grid of 20 Hz, whatever this machine did meanwhile
        assert (after - before) / 0.05 == pytest.approx(round((after - before) / 0.05), abs=0.05)


def test_five_good_assessments_and_a_command_move_the_robot_and_not_one_less(
    gate: Callable[[], subprocess.Popen[str]], base: Base
) -> None:
    gate()
    base.listen(lambda step: True)
    base.listen(lambda step: step.command is not None, every=base.command)
    for _ in range(4):
        base.see()
    base.listen(lambda step: step.reason.startswith("4 of 5 good"))
    base.listen(lambda step: step.reason.startswith("no assessment"), every=base.command)
    assert not any(any(step.output) for step in base.steps)
    step = base.drive()
    assert step.output == pytest.approx(tuple(step.speed_factor * axis for axis in (1.0, -0.5)))
    assert step.kept == (0.2,)
    moving = base.listen(lambda step: step.speed_factor == 1.0, every=base.both)[-1]
    assert moving.command == (1.0, -0.5)


def test_a_second_gate_is_refused_in_one_line_and_the_first_drives_on(
    gate: Callable[[], subprocess.Popen[str]], base: Base
) -> None:
    first = gate()
    base.drive()
    second = gate()
    base.listen(lambda step: second.poll() is not None, every=base.both)
    _, said = second.communicate(timeout=LONG_S)
    assert second.returncode == 2
    assert said.count("\n") == 1
    assert "another process already receives at" in said
    base.drive()
    assert first.poll() is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--rate", "5"), "ticks at 10 to 50 Hz"),
        (("--camera-rate", "4"), "too slow to be safe"),
        (("--axes", "0"), "expected 1 to 64"),
        (("--axes", "-3"), "axes"),
    ],
)
def test_arguments_that_make_no_sense_are_refused_in_one_line(
    arguments: tuple[str, str], message: str, start: Start, sockets: Path, state: Path
) -> None:
    refused = start("gate", MASKS, "--sockets", sockets, "--state", state, *arguments)
    _, said = refused.communicate(timeout=LONG_S)
    assert refused.returncode == 2
    assert message in said
    assert said.count("\n") == 1


# --- the monitor is gone


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "hangs"])
def test_without_the_monitor_zero_within_half_a_second(
    number: signal.Signals,
    gate: Callable[[], subprocess.Popen[str]],
    base: Base,
    start: Start,
    sockets: Path,
    masks: Bundle,
) -> None:
    gate()
    monitor = start("monitor", MASKS, "--sockets", sockets, "--frozen-frames", 0)
    image = masks.golden()["input.frame"][0, 0]

    def see() -> None:
        base.sequence += 1
        frame = Frame(
            sequence=base.sequence, stamp_ns=time.monotonic_ns(), received_s=time.monotonic(), encoding="rgb8",
            height=image.shape[0], width=image.shape[1], step=image.shape[1] * 3, data=image.tobytes(),
        )  # fmt: skip
        base.monitor.send(frame)
        base.command()

    base.listen(lambda step: step.level == "NOMINAL" and any(step.output), every=see)
    monitor.send_signal(number)
    gone_s = time.monotonic()
    steps = base.listen(lambda step: step.now_s > gone_s + 1.5, every=see)
    stopped = stopped_at(steps)
    assert stopped.now_s - gone_s <= PROMISED_S
    assert stopped.level == "HOLD"
    assert len(steps) > 15  # zeros do not cease
    monitor.kill()


def test_without_commands_zero_within_half_a_second_and_the_level_stays(
    gate: Callable[[], subprocess.Popen[str]], base: Base
) -> None:
    gate()
    base.drive()
    base.command()
    silent_s = time.monotonic()
    steps = base.listen(lambda step: step.now_s > silent_s + 1.0, every=base.see)
    # It is the receipt that counts, which is after the sending; a tick must come.
    assert stopped_at(steps).now_s - silent_s <= PROMISED_S + 0.15
    assert steps[-1].level == "NOMINAL"


def test_a_flood_of_what_is_none_of_ours_does_not_keep_the_gate_from_its_ticks(
    gate: Callable[[], subprocess.Popen[str]], base: Base
) -> None:
    gate()
    base.drive()

    flooding = threading.Event()

    def flood() -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as stranger:
            stranger.setblocking(False)
            while not flooding.is_set():
                try:
                    stranger.sendto(b"foreign", base.gate.path)
                except BlockingIOError:
                    time.sleep(0.0001)

    flooder = threading.Thread(target=flood)
    flooder.start()
    try:
        steps = base.listen(lambda step: step.now_s > base.steps[0].now_s + 2.0)
    finally:
        flooding.set()
        flooder.join()
    assert sum(step.trigger == "tick" for step in steps) >= 5


# --- signals


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
@pytest.mark.parametrize("times", [1, 3], ids=["once", "three times at once"])
def test_a_signal_sends_a_last_zero_and_ends_well(
    number: signal.Signals, times: int, gate: Callable[[], subprocess.Popen[str]], base: Base
) -> None:
    """A launcher passes on the Ctrl-C that the terminal has sent already: it means no more than once."""
    running = gate()
    base.drive()
    for _ in range(times):
        running.send_signal(number)
        time.sleep(0.005)
    step = base.listen(lambda step: step.fault is not None)[-1]
    assert (step.fault, step.output) == ("the gate is being stopped", ZERO)
    # Python gives signals back to the system at its very end, long after the zero.
    assert running.wait(LONG_S) in ((0,) if times == 1 else (0, -number))
    base.silence_s()
    assert base.inbox.receive() is None


def test_whatever_breaks_in_the_gate_a_last_zero_goes_out(base: Base, sockets: Path, state: Path) -> None:
    """Here: a policy whose state has become nonsense."""
    code = (
        "import sys; from edge_bdl import cli; from edge_bdl_firmware.gate import Gate\n"
        "tick, count = Gate.tick, [0]\n"
        "def broken(self, now_s, late_ms=0.0):\n"
        "    count[0] += 1\n"
        "    if count[0] == 60: raise ZeroDivisionError('broken')\n"
        "    return tick(self, now_s, late_ms)\n"
        "Gate.tick = broken\n"
        "sys.exit(cli.main(sys.argv[1:]))"
    )
    line = ["gate", str(MASKS), "--sockets", str(sockets), "--state", str(state), "--axes", "2"]
    with subprocess.Popen([sys.executable, "-c", code, *line], stderr=subprocess.PIPE, text=True) as running:
        base.drive()
        step = base.listen(lambda step: step.fault is not None, every=base.both)[-1]
        assert (step.fault, step.output) == ("the gate is being stopped", ZERO)
        _, said = running.communicate(timeout=LONG_S)
    assert running.returncode != 0
    assert "ZeroDivisionError" in said


# --- what survives


def hand_over(base: Base) -> None:
    base.drive()
    base.see(scores={name: 1e9 for name in base.good().scores})
    base.listen(lambda step: step.level == "HANDOFF", every=base.command)


def test_a_gate_that_is_killed_in_a_handoff_comes_up_stopped_and_a_human_at_standstill_lets_it_drive_again(
    gate: Callable[[], subprocess.Popen[str]], base: Base, state: Path
) -> None:
    running = gate()
    hand_over(base)
    base.listen(lambda step: StateFile(state).read().latched, every=base.both)
    running.kill()
    running.wait(LONG_S)
    base.silence_s()
    gate()
    steps = base.listen(lambda step: step.standstill, every=base.both)
    assert {(step.level, step.output) for step in steps} == {("STOP", ZERO)}
    assert "HANDOFF" in steps[0].reason
    base.act("acknowledge")
    base.listen(lambda step: step.level == "HOLD", every=base.both)
    base.drive()
    base.listen(lambda step: not StateFile(state).read().latched, every=base.both)


def test_a_gate_that_was_stopped_comes_up_stopped_however_often_it_is_killed(
    gate: Callable[[], subprocess.Popen[str]], base: Base, state: Path
) -> None:
    StateFile(state).write(Latch(True, "STOP: held for 10 s"))
    for _ in range(3):
        running = gate()
        steps = base.listen_for(0.3, every=base.both)
        assert {(step.level, step.output) for step in steps} == {("STOP", ZERO)}
        assert "held for 10 s" in steps[0].reason
        running.kill()
        running.wait(LONG_S)
        base.silence_s()


@pytest.mark.parametrize("damage", [b"", b"damaged", bytes(1024)], ids=["empty", "short", "zeros"])
def test_with_a_state_that_cannot_be_read_the_gate_comes_up_stopped(
    damage: bytes, gate: Callable[[], subprocess.Popen[str]], base: Base, state: Path
) -> None:
    state.write_bytes(damage)
    gate()
    steps = base.listen_for(0.6, every=base.both)
    assert {(step.level, step.output) for step in steps} == {("STOP", ZERO)}
    assert f"the state file {state} cannot be used: it is damaged" in steps[0].reason


def test_a_gate_that_is_killed_while_it_drives_comes_up_held_and_drives_after_five_good_ones(
    gate: Callable[[], subprocess.Popen[str]], base: Base
) -> None:
    running = gate()
    base.drive()
    running.kill()
    running.wait(LONG_S)
    base.silence_s()
    gate()
    assert base.listen(lambda step: True)[0].level == "HOLD"
    base.drive()


# --- the guard


def from_guard(step: Step) -> bool:
    return step.reason == "the guard hears no heartbeat of the gate"


def test_the_guard_takes_over_when_the_gate_hangs_and_leaves_when_it_is_back(
    gate: Callable[[], subprocess.Popen[str]], base: Base, start: Start, sockets: Path
) -> None:
    guard = start("guard", "--sockets", sockets, "--axes", 2)
    assert base.listen(from_guard)[-1].output == ZERO  # nobody ever heard the gate
    running = gate()
    base.drive()
    base.listen_for(0.3, every=base.both)
    assert not any(map(from_guard, base.listen_for(0.5, every=base.both)))
    running.send_signal(signal.SIGSTOP)
    hung_s = time.monotonic()
    first = base.listen(from_guard, every=base.both)[-1]
    assert first.now_s - hung_s <= PROMISED_S
    steps = base.listen_for(0.5, every=base.both)
    assert len(steps) >= 5
    assert {(from_guard(step), step.output) for step in steps} == {(True, ZERO)}
    running.send_signal(signal.SIGCONT)
    base.listen(lambda step: not from_guard(step), every=base.both)
    base.listen_for(0.3, every=base.both)
    assert not any(map(from_guard, base.listen_for(0.5, every=base.both)))
    base.drive()
    guard.terminate()
    assert guard.wait(LONG_S) == 0
    assert guard.stderr is not None
    assert guard.stderr.read().splitlines() == [
        "guard: no heartbeat of the gate", "guard: the gate is back",
        "guard: no heartbeat of the gate", "guard: the gate is back",
    ]  # fmt: skip


def test_what_waited_while_the_gate_hung_moves_nothing(
    gate: Callable[[], subprocess.Popen[str]], base: Base, sockets: Path
) -> None:
    """The controller died meanwhile; its last commands still lie in the queue and look new, even to a bypass."""
    running = gate()
    base.drive()
    base.act("set_bypass")
    base.listen(lambda step: step.bypass and any(step.output), every=base.both)
    running.send_signal(signal.SIGSTOP)
    time.sleep(0.1)
    while base.gate.send(Command(axes=(1.0, -0.5))):
        pass
    time.sleep(1.0)
    base.silence_s()
    running.send_signal(signal.SIGCONT)
    back_s = time.monotonic()
    steps = base.listen(lambda step: step.now_s > back_s + 1.0)
    assert not any(any(step.output) for step in steps if step.now_s > back_s)


def test_a_guard_whose_log_nobody_reads_any_more_goes_on(
    start: Start, base: Base, sockets: Path, gate: Callable[[], subprocess.Popen[str]]
) -> None:
    guard = start("guard", "--sockets", sockets, "--axes", 2)
    base.listen(from_guard)
    assert guard.stderr is not None
    assert "no heartbeat" in guard.stderr.readline()
    guard.stderr.close()
    running = gate()
    base.listen(lambda step: not from_guard(step))
    base.listen_for(0.3)
    running.kill()
    base.listen(from_guard)
    base.listen_for(0.3)
    assert guard.poll() is None


def test_the_service_manager_is_told_when_gate_and_guard_are_ready(sockets: Path, state: Path, tmp_path: Path) -> None:
    for line in (["gate", str(MASKS), "--state", str(state)], ["guard"]):
        address = sockets.parent / f"{line[0]}.notify"
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
            manager.bind(str(address))
            manager.settimeout(LONG_S)
            command = [sys.executable, "-m", "edge_bdl.cli", *line, "--sockets", str(sockets)]
            with subprocess.Popen(
                command, env={**os.environ, "NOTIFY_SOCKET": str(address)}, stderr=subprocess.DEVNULL
            ) as running:
                assert manager.recv(4096) == b"READY=1"
                running.terminate()
                assert manager.recv(4096) == b"STOPPING=1"
            assert running.returncode == 0
