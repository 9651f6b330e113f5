"""The gate and its surroundings: whatever disk, log, recorder and guard do, the ticks go out and the order is kept."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from edge_bdl.bundle import Bundle
from edge_bdl.policy import Level, Policy
from edge_bdl.policy_spec import PolicyConfig, PolicySpec
from edge_bdl_firmware.evidence import evidence_of
from edge_bdl_firmware.gate import Gate, GateConfig
from edge_bdl_firmware.gate_process import GateProcess
from edge_bdl_firmware.local.channel import Inbox
from edge_bdl_firmware.messages import (
    AnyMessage,
    Assessment,
    Command,
    Heartbeat,
    Human,
    Opening,
    Snapshot,
    Step,
    boot_id,
)
from edge_bdl_firmware.state_file import Latch, StateFile

LONG_S = 30.0  # for what is awaited; no test is about how long it takes


def wait_for(condition: Callable[[], object]) -> None:
    until_s = time.monotonic() + LONG_S
    while not condition():
        assert time.monotonic() < until_s
        time.sleep(0.005)


class Rig:
    """A process of the gate on a real folder, with what it published and logged."""

    def __init__(
        self, bundle: Bundle, sockets: Path, state: Path, good: Callable[..., Assessment], log: Callable[[str], object]
    ) -> None:
        self.spec, self.good, self.state = bundle.manifest.policy, good, StateFile(state)
        self.published: list[Step] = []
        self.frames = 0
        latch = self.state.read()
        gate = Gate(self.spec, bundle.digest, boot_id(), stopped=latch.reason if latch.latched else None, axes=2)
        opening = Opening(process="gate", bundle=bundle.digest, bundle_path=str(bundle.folder))
        self.process = GateProcess(gate, self.state, sockets, opening, self.published.append, log)

    def see(self, **fields: object) -> Step:
        self.frames += 1
        return self.process.assess(self.good(self.frames, **fields))

    def drive(self) -> None:
        for _ in range(6):
            self.process.tick()
            step = self.see()
        assert step.level == "NOMINAL"
        self.process.command(Command(axes=(1.0, 2.0)))

    def hand_over(self) -> Step:
        scores = {score.name: 1e9 for score in self.spec.scores}
        step = self.see(scores=scores)
        assert step.level == "HANDOFF"
        return step

    def tick_until(self, condition: Callable[[Step], bool]) -> list[Step]:
        """Ticks, with good frames and commands, until one is as it should be."""
        steps = []
        until_s = time.monotonic() + LONG_S
        while not steps or not condition(steps[-1]):
            assert time.monotonic() < until_s
            time.sleep(0.02)
            self.see()
            self.process.command(Command(axes=(1.0, 2.0)))
            steps.append(self.process.tick())
        return steps


Build = Callable[..., Rig]


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "gate.state"


@pytest.fixture
def build(masks: Bundle, sockets: Path, state: Path, good: Callable[..., Assessment]) -> Iterator[Build]:
    with ExitStack() as stack:

        def built(log: Callable[[str], object] = lambda line: None) -> Rig:
            rig = Rig(masks, sockets, state, good, log)
            stack.callback(rig.process._guard.close)
            stack.callback(rig.process.telemetry.close)
            stack.callback(rig.process.stop)
            return rig

        yield built


def heard(inbox: Inbox) -> list[AnyMessage]:
    messages = []
    while (message := inbox.receive(0.0)) is not None:
        messages.append(message)
    return messages


# --- the disk


def test_a_handoff_is_on_the_disk_soon_and_a_restart_comes_up_stopped(build: Build, state: Path) -> None:
    rig = build()
    rig.drive()
    assert StateFile(state).read() == Latch(latched=False)
    rig.hand_over()
    wait_for(lambda: StateFile(state).read().latched)
    assert build().process.tick().level == "STOP"


def test_an_acknowledged_stop_is_no_more_on_the_disk(build: Build, state: Path) -> None:
    StateFile(state).write(Latch(True, "stopped before"))
    rig = build()
    assert rig.process.tick().reason.startswith("stopped before")
    rig.tick_until(lambda step: step.standstill)
    rig.see()
    assert rig.process.human(Human(act="acknowledge")).level == "HOLD"
    wait_for(lambda: not StateFile(state).read().latched)


def test_while_the_disk_hangs_ticks_go_on_with_an_objection_and_without_when_it_answers(
    build: Build, state: Path, tmp_path: Path
) -> None:
    rig = build()
    rig.drive()
    state.unlink()
    os.mkfifo(state)  # opening it for writing waits for a reader, as for a disk that does not answer
    rig.hand_over()
    # Every one of these ticks returned while the write was hanging: nobody reads yet.
    steps = rig.tick_until(lambda step: step.fault is not None)
    assert steps[-1].fault == "the disk or the log does not answer"
    assert not any(steps[-1].output)
    assert rig.process.human(Human(act="acknowledge")).level == "HANDOFF"  # with no memory nobody drives on
    assert rig.process._background.busy_s() > 1.0
    # Now the write comes back with an error, and the next try finds a disk that works.
    (tmp_path / "new").touch()
    hanging = tmp_path / "hanging"
    os.link(state, hanging)
    (tmp_path / "new").rename(state)
    reader = os.open(hanging, os.O_RDONLY | os.O_NONBLOCK)
    steps = rig.tick_until(lambda step: step.fault is None)
    os.close(reader)
    assert StateFile(state).read().latched
    rig.see()
    assert rig.process.human(Human(act="acknowledge")).level == "HOLD"
    wait_for(lambda: not StateFile(state).read().latched)


def test_while_the_disk_fails_ticks_go_on_with_an_objection_that_says_why_and_it_is_tried_again(
    build: Build, state: Path
) -> None:
    rig = build()
    rig.drive()
    state.unlink()
    state.mkdir()
    rig.hand_over()
    steps = rig.tick_until(lambda step: step.fault is not None)
    assert steps[-1].fault is not None
    assert steps[-1].fault.startswith("a latched STOP cannot be kept: ")
    assert "Is a directory" in steps[-1].fault
    assert not any(steps[-1].output)
    assert rig.process.human(Human(act="acknowledge")).level == "HANDOFF"
    state.rmdir()
    rig.tick_until(lambda step: step.fault is None)
    assert StateFile(state).read().latched


def test_what_the_disk_holds_in_the_end_is_what_was_decided_last(build: Build, state: Path) -> None:
    """Handed over and acknowledged again and again, while the thread is busy with something else."""
    rig, let_go = build(), threading.Event()
    rig.drive()
    rig.process._background.put(let_go.wait)
    for _ in range(20):
        rig.hand_over()
        rig.see()
        assert rig.process.human(Human(act="acknowledge")).level == "HOLD"
        rig.drive()
    rig.hand_over()
    assert not StateFile(state).read().latched
    let_go.set()
    wait_for(lambda: rig.process.tick() and StateFile(state).read().latched)
    rig.process.stop()
    assert StateFile(state).read().latched


def test_where_too_many_jobs_wait_a_stop_is_written_as_soon_as_there_is_room(build: Build, state: Path) -> None:
    rig, let_go = build(), threading.Event()
    rig.drive()
    while rig.process._background.put(let_go.wait):
        pass
    rig.hand_over()
    let_go.set()
    wait_for(lambda: rig.process._background._jobs.empty())
    rig.process.tick()
    wait_for(lambda: StateFile(state).read().latched)


# --- the log


@pytest.mark.parametrize("error", [BrokenPipeError("nobody reads"), ValueError("closed"), RuntimeError("bug")])
def test_a_log_that_fails_keeps_nobody_from_driving_and_a_stop_from_nowhere(
    error: Exception, build: Build, state: Path
) -> None:
    def log(line: str) -> None:
        raise error

    rig = build(log)
    rig.drive()
    rig.hand_over()
    wait_for(lambda: StateFile(state).read().latched)
    assert rig.process.tick().fault is None


def test_every_change_of_level_is_logged_once(build: Build) -> None:
    lines: list[str] = []
    rig = build(lines.append)
    rig.drive()
    rig.hand_over()
    rig.tick_until(lambda step: True)
    wait_for(lambda: len(lines) >= 3)
    assert [line.split(":")[0] for line in lines] == ["HOLD", "NOMINAL", "HANDOFF"]


# --- what goes out, and in which order


def test_every_tick_and_command_is_published_and_an_assessment_only_where_it_changes_the_output(build: Build) -> None:
    rig = build()
    for _ in range(4):
        rig.process.tick()
        rig.see()
    assert [step.trigger for step in rig.published] == ["tick"] * 4
    rig.see()
    rig.process.command(Command(axes=(1.0, 2.0)))
    assert rig.published[-1].trigger == "command"
    time.sleep(0.05)
    rig.process.tick()
    assert any(rig.published[-1].output)
    rig.see(fault="blind")
    assert (rig.published[-1].trigger, rig.published[-1].output) == ("assessment", (0.0, 0.0))


def test_the_command_goes_out_before_anything_is_told_and_the_guard_hears_every_tick(
    build: Build, sockets: Path
) -> None:
    with Inbox(sockets, "recorder") as recorder, Inbox(sockets, "guard") as guard:
        rig = build()
        heard(recorder)
        told: list[list[AnyMessage]] = []
        publish = rig.published.append
        rig.process._publish = lambda step: (publish(step), told.append(heard(recorder)))
        before_s = time.monotonic()
        rig.process.tick()
        assert told == [[]]
        assert rig.published[0] in heard(recorder)
        (beat,) = heard(guard)
        assert isinstance(beat, Heartbeat)
        assert before_s <= beat.now_s <= time.monotonic()
        rig.see()
        assert heard(guard) == []  # an assessment is no proof that the gate ticks
        rig.process._publish = publish


def test_stopping_sends_a_last_zero_whatever_the_level(build: Build) -> None:
    rig = build()
    rig.drive()
    rig.process.human(Human(act="set_bypass"))
    rig.process.command(Command(axes=(1.0, 2.0)))
    time.sleep(0.02)
    assert any(rig.process.tick().output)
    rig.process.stop()
    last = rig.published[-1]
    assert (last.output, last.fault) == ((0.0, 0.0), "the gate is being stopped")


def test_stopping_does_not_wait_for_a_disk_that_hangs(build: Build) -> None:
    rig, let_go = build(), threading.Event()
    rig.process._background.put(lambda: let_go.wait(LONG_S))
    rig.process.tick()
    rig.process.stop()
    assert not let_go.is_set()
    assert rig.published[-1].fault == "the gate is being stopped"
    let_go.set()


# --- what is recorded


def replay(spec: PolicySpec, messages: list[AnyMessage], assessments: dict[int, Assessment]) -> int:
    """Decide the recorded steps again; returns how many came out the same, which is all of them."""
    policy, same = Policy(spec), 0
    for message in messages:
        if isinstance(message, Snapshot):
            policy.restore(message.state)
        elif isinstance(message, Step):
            assessment = None if message.assessment is None else assessments[message.assessment]
            decision = policy.step(
                message.now_s,
                evidence_of(message, assessment),
                acknowledged=message.acknowledged,
                human_in_control=message.human_in_control,
                standstill=message.standstill,
            )
            assert decision.level is Level(message.level)
            assert (decision.speed_factor, decision.reason) == (message.speed_factor, message.reason)
            same += 1
    return same


def test_what_the_recorder_hears_is_all_that_a_replay_needs(build: Build, sockets: Path, state: Path) -> None:
    with Inbox(sockets, "recorder") as recorder:
        rig = build()
        messages, assessments = heard(recorder), {}
        assert isinstance(messages[0], Opening)
        assert isinstance(messages[1], Snapshot)
        steps = []

        def note(step: Step | None) -> None:
            steps.append(step)
            messages.extend(heard(recorder))

        good = rig.good
        rig.good = lambda number, **fields: assessments.setdefault(number, good(number, **fields))
        for _ in range(8):
            note(rig.process.tick())
            note(rig.see())
            note(rig.process.command(Command(axes=(1.0, 2.0))))
        note(rig.see(bundle="c" * 64))
        note(rig.process.refuse("no assessment"))
        config = PolicyConfig(hold_ramp_s=0.5)
        rig.process.reconfigure(
            PolicySpec(config=config, scores=rig.spec.scores), GateConfig(), rig.process.telemetry.opening
        )
        for _ in range(8):
            note(rig.see())
        note(rig.hand_over())
        rig.process.gate.object("somebody", "objects")
        note(rig.see())
        rig.process.gate.object("somebody", None)
        for act in ("take_control", "set_bypass", "release_control", "acknowledge"):
            note(rig.process.human(Human(act=act)))  # type: ignore[arg-type]
        rig.process.stop()
        messages.extend(heard(recorder))
        taken = [step for step in steps if step is not None]
        recorded = [message for message in messages if isinstance(message, Step)]
        assert recorded[:-1] == taken
        assert [message.act for message in messages if isinstance(message, Human)] == [
            "take_control", "set_bypass", "release_control", "acknowledge",
        ]  # fmt: skip
        assert replay(rig.spec, messages, assessments) == len(taken) + 1
        # And so it is from any later snapshot on.
        starts = [number for number, message in enumerate(messages) if isinstance(message, Snapshot)]
        assert len(starts) >= 5
        for start in starts:
            replay(rig.spec, messages[start:], assessments)
