"""What must never happen, on random stories of everything that can come to a gate.

Every story is judged by a witness that knows nothing of levels: it remembers what came and when, and says which command
is fresh, how many good assessments came in a row, and what people did. And every story, recorded as its steps, is told
to a new policy, which must decide the same to the last bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_bdl.policy import Level, Policy
from edge_bdl.policy_spec import PolicyConfig, PolicySpec, Score, Thresholds
from edge_bdl_firmware.evidence import evidence_of
from edge_bdl_firmware.gate import Gate, GateConfig
from edge_bdl_firmware.messages import Assessment, Command, Human, Snapshot, Step, decode, encode

BUNDLE, BOOT = "b" * 64, "boot"
LIMITS = {4: Thresholds(slow=1.0, handoff=2.0, speed_curve=((1.0, 0.8), (2.0, 0.3)))}
SCORES = (
    Score(name="epistemic", thresholds=LIMITS),
    Score(name="density", thresholds={2: Thresholds(slow=1.0, handoff=2.0)}),
)
SPEC = PolicySpec(scores=SCORES)
RAMPED = PolicySpec(config=PolicyConfig(hold_ramp_s=0.8, hold_to_stop_s=2.0, handoff_to_stop_s=2.0), scores=SCORES)
CONFIG = GateConfig(bypass_limit_s=3.0)


@dataclass(frozen=True)
class Event:
    """One thing that happens, so long after the one before."""

    passed_s: float
    kind: str
    value: Any = None


class Teller:
    """Tells a story to a gate and records it, as the gate's process would."""

    def __init__(self, spec: PolicySpec, stopped: str | None = None) -> None:
        self.gate = Gate(spec, BUNDLE, BOOT, CONFIG, stopped=stopped, axes=2)
        self.spec, self.stopped = spec, stopped
        self.now_s, self.frames = 1000.0, 0
        self.assessments: dict[int, Assessment] = {}
        self.record: list[Step | Snapshot] = [self.gate.snapshot(self.now_s)]

    def tell(self, event: Event) -> Step | None:
        self.now_s += event.passed_s
        step = getattr(self, f"_{event.kind}")(event.value)
        if step is not None:
            self.record += [step, self.gate.snapshot(self.now_s)]
        return step

    def _tick(self, _: object) -> Step:
        return self.gate.tick(self.now_s)

    def _see(self, fields: dict[str, Any]) -> Step:
        self.frames += 1
        whole = {
            "sequence": self.frames, "stamp_ns": self.frames, "boot_id": BOOT, "bundle": BUNDLE, "samples": 16,
            "scores": {"epistemic": 0.1, "density": 0.1}, **fields,
        }  # fmt: skip
        age_s = whole.pop("age_s", 0.03)
        assessment = Assessment(received_s=self.now_s - age_s, **whole)
        self.assessments[self.frames] = assessment
        return self.gate.assess(self.now_s, assessment)

    def _refuse(self, fault: str) -> Step:
        return self.gate.refuse(self.now_s, fault)

    def _command(self, command: Command) -> Step | None:
        return self.gate.command(self.now_s, command)

    def _human(self, act: Any) -> Step:
        return self.gate.human(self.now_s, Human(act=act))

    def _object(self, reason: str | None) -> None:
        self.gate.object("disk", reason)

    def _reconfigure(self, spec: PolicySpec) -> None:
        self.gate.reconfigure(spec, CONFIG)
        self.record.append(self.gate.snapshot(self.now_s))


# --- stories

numbers = st.floats(-3.0, 3.0) | st.floats(allow_nan=True, allow_infinity=True)
axes = st.lists(st.floats(-3.0, 3.0), min_size=2, max_size=2).map(tuple)
commands = st.builds(Command, axes=axes, kept=st.just((0.2,)))
odd_commands = st.builds(
    Command, axes=st.lists(numbers, max_size=4).map(tuple), kept=st.lists(numbers, max_size=2).map(tuple)
)
scores = st.fixed_dictionaries({"epistemic": st.floats(0.0, 2.5), "density": st.floats(0.0, 2.5)})
odd_fields = st.one_of(
    st.fixed_dictionaries({"scores": scores}),
    st.fixed_dictionaries(
        {"age_s": st.sampled_from([0.0, 0.1, 0.35, -0.05, -0.2, 9.0, math.nan, math.inf, -math.inf])}
    ),
    st.fixed_dictionaries({"samples": st.integers(-1, 6)}),
    st.fixed_dictionaries({"scores": st.dictionaries(st.sampled_from(["epistemic", "density", "x"]), numbers)}),
    st.sampled_from([{"bundle": "c" * 64}, {"boot_id": "other"}, {"fault": "black"}, {"fault": ""}]),
)
acts = st.sampled_from(["acknowledge", "take_control", "release_control", "set_bypass", "end_bypass"])
passed = st.sampled_from([0.0, 0.001, 0.02, 0.05])
odd_passed = st.sampled_from([0.05, 0.3, 1.5, 12.0, -0.1, -5.0])


def events(kind: str, value: st.SearchStrategy[Any], passed_s: st.SearchStrategy[float] = passed) -> Any:
    return st.builds(Event, passed_s, st.just(kind), value)


def rounds(fields: dict[str, Any] | None, command: Command | None) -> list[Event]:
    """What happens in 50 ms: a tick, and perhaps a frame and a command."""
    told = [Event(0.05, "tick")]
    told += [] if fields is None else [Event(0.0, "see", fields)]
    return told + ([] if command is None else [Event(0.0, "command", command)])


SEEN: list[dict[str, Any] | None] = [
    {}, {"scores": {"epistemic": 1.5, "density": 0.0}}, {"scores": {"epistemic": 3.0, "density": 0.0}}, None,
]  # fmt: skip


def steady(seen: st.SearchStrategy[Any], fewest: int, most: int) -> st.SearchStrategy[list[Event]]:
    """The same again and again: single events hardly ever last until a robot drives, slows or gives up."""
    return st.builds(
        lambda fields, command, times: rounds(fields, command) * times, seen, commands, st.integers(fewest, most)
    )


start = steady(st.just({}), 5, 60)
slowed = steady(st.just(SEEN[1]), 2, 80)
handed = steady(st.just(SEEN[2]), 1, 60)
journey = st.tuples(start, slowed | handed | steady(st.none(), 5, 60), start | handed | steady(st.none(), 5, 60)).map(
    lambda parts: [event for part in parts for event in part]
)
quiet = st.tuples(start, st.integers(5, 40).map(lambda times: rounds({}, None) * times)).map(
    lambda parts: [event for part in parts for event in part]
)
answer = st.just([*rounds(None, None) * 21, Event(0.05, "see", {}), Event(0.01, "human", "acknowledge")])
anything = st.lists(
    st.one_of(
        events("tick", st.none()), events("see", st.just({})), events("see", odd_fields), events("command", commands),
        events("command", odd_commands), events("human", acts), events("refuse", st.just("no assessment")),
        events("tick", st.none(), odd_passed), events("see", odd_fields, odd_passed),
        events("object", st.sampled_from(["full", None])), events("reconfigure", st.sampled_from([SPEC, RAMPED])),
    ),
    max_size=15,
)  # fmt: skip
objecting = st.builds(
    lambda told: [Event(0.0, "object", "full"), *told, Event(0.0, "object", None)], st.one_of(journey, anything)
)
stories = st.lists(
    st.one_of(journey, quiet, start, slowed, handed, anything, answer, objecting), min_size=1, max_size=6
).map(lambda parts: [event for part in parts for event in part])
specs = st.sampled_from([SPEC, RAMPED])
stops = st.sampled_from([None, "stopped before the restart"])
never = settings(max_examples=120, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


# --- the witness


@dataclass
class Witness:
    """What is known at this moment, by definition and without levels."""

    command: tuple[float, ...] | None = None
    command_s: float = -math.inf
    now_s: float = -math.inf
    image_s: float = -math.inf
    newest_s: float = -math.inf
    good_in_row: int = 0
    bypass_s: float | None = None
    human: bool = False
    objection: str | None = None
    zeros_s: float | None = None
    outputs: list[tuple[float, ...]] = field(default_factory=list)

    def hear(self, event: Event, teller: Teller) -> None:
        back = teller.now_s < self.now_s
        self.now_s = teller.now_s
        if back or self.now_s - self.image_s > 0.3 + 1e-9:
            self.good_in_row = 0
        if event.kind == "command":
            sound = event.value.axes and all(map(math.isfinite, (*event.value.axes, *event.value.kept)))
            self.command, self.command_s = (event.value.axes if sound else None), self.now_s
        elif event.kind in ("see", "refuse"):
            good = not back and event.kind == "see" and self._good(teller.assessments[teller.frames])
            self.good_in_row = self.good_in_row + 1 if good else 0
        elif event.kind == "human":
            self.human = {"take_control": True, "release_control": False}.get(event.value, self.human)
            if event.value == "set_bypass" and not self.human:
                self.bypass_s = self.now_s
            if event.value in ("end_bypass", "take_control"):
                self.bypass_s = None
        elif event.kind == "object":
            self.objection = event.value
        elif event.kind == "reconfigure":
            self.bypass_s, self.good_in_row = None, 0
        if self.objection is not None and event.kind not in ("object", "reconfigure"):
            self.good_in_row = 0
        if self.bypass_s is not None and not 0.0 <= self.now_s - self.bypass_s <= CONFIG.bypass_limit_s:
            self.bypass_s = None

    def _good(self, assessment: Assessment) -> bool:
        age_s = self.now_s - assessment.received_s
        new = assessment.received_s > self.newest_s
        if math.isfinite(assessment.received_s) and age_s >= -0.1:
            self.newest_s = max(self.newest_s, assessment.received_s)
        self.image_s = min(self.now_s, assessment.received_s)
        values = [assessment.scores.get(name, math.nan) for name in ("epistemic", "density")]
        return (
            (assessment.bundle, assessment.boot_id, assessment.fault) == (BUNDLE, BOOT, None)
            and new
            and -0.1 - 1e-9 <= age_s <= 0.3 + 1e-9
            and assessment.samples >= 4
            and all(map(math.isfinite, assessment.scores.values()))
            and all(value <= 1.0 for value in values)
        )

    @property
    def fresh(self) -> tuple[float, ...] | None:
        return self.command if 0.0 <= self.now_s - self.command_s <= CONFIG.command_timeout_s else None

    @property
    def bypass(self) -> bool:
        return self.bypass_s is not None


@dataclass(frozen=True)
class Moment:
    """One step of a story, and what the witness knew."""

    before: Step | None
    step: Step
    fresh: tuple[float, ...] | None
    good_in_row: int
    bypass: bool
    human: bool
    handed_back: bool
    objection: str | None
    acknowledged: bool
    moved_s: float  # when the last output that was not zero went out


def told(story: list[Event], spec: PolicySpec, stopped: str | None) -> list[Moment]:
    teller, witness, moments = Teller(spec, stopped), Witness(), []
    before: Step | None = None
    moved_s, human = 1000.0, False
    for event in story:
        step = teller.tell(event)
        witness.hear(event, teller)
        if step is None:
            continue
        acknowledged = event.kind == "human" and event.value == "acknowledge"
        handed_back, human = human and not witness.human, witness.human
        moments.append(
            Moment(
                before, step, witness.fresh, witness.good_in_row, witness.bypass, witness.human, handed_back,
                witness.objection, acknowledged, moved_s,
            )
        )  # fmt: skip
        if any(step.output):
            moved_s = step.now_s
        before = step
    return moments


def holds(check: Callable[[Moment], None]) -> Callable[[], None]:
    @never
    @given(stories, specs, stops)
    def test(story: list[Event], spec: PolicySpec, stopped: str | None) -> None:
        for moment in told(story, spec, stopped):
            check(moment)

    return test


def _never_more_and_never_backwards(moment: Moment) -> None:
    output = moment.step.output
    if any(output):
        assert moment.fresh is not None
        for axis, passed in zip(moment.fresh, output, strict=True):
            assert abs(passed) <= abs(axis)
            assert passed * axis >= 0.0
    assert all(map(math.isfinite, (*output, *moment.step.kept)))


test_the_output_is_never_larger_than_the_newest_fresh_command_and_never_of_the_other_sign = holds(
    _never_more_and_never_backwards
)


def _no_motion_when_stopped(moment: Moment) -> None:
    assert moment.step.bypass is moment.bypass
    if not moment.bypass and (moment.step.level == "STOP" or moment.human):
        assert not any(moment.step.output)


test_in_stop_and_while_a_human_drives_nothing_moves_without_the_bypass = holds(_no_motion_when_stopped)


@never
@given(stories, stops)
def test_in_hold_nothing_moves_without_the_bypass(story: list[Event], stopped: str | None) -> None:
    for moment in told([event for event in story if event.kind != "reconfigure"], SPEC, stopped):
        if moment.step.level == "HOLD" and not moment.bypass:
            assert not any(moment.step.output)


def _bypass_is_a_limit(moment: Moment) -> None:
    if moment.bypass and any(moment.step.output):
        assert moment.fresh is not None
        for axis, passed in zip(moment.fresh, moment.step.output, strict=True):
            assert abs(passed) <= CONFIG.bypass_factor * abs(axis)


test_with_the_bypass_never_more_than_its_share_passes = holds(_bypass_is_a_limit)


def _good_ones_first(moment: Moment) -> None:
    before = "HOLD" if moment.before is None else moment.before.level
    if moment.step.level == "NOMINAL" and before not in ("NOMINAL", "SLOW"):
        assert moment.good_in_row >= 5


test_nominal_comes_only_after_five_good_assessments_in_a_row = holds(_good_ones_first)


def _left_as_allowed(moment: Moment) -> None:
    before = "HOLD" if moment.before is None else moment.before.level
    after = moment.step.level
    if before == "HANDOFF" and after not in ("HANDOFF", "STOP"):
        assert after == "HOLD"
        assert moment.acknowledged or moment.handed_back
        assert not moment.human
        assert moment.objection is None
    if before == "STOP" and after != "STOP":
        assert after == "HOLD"
        assert moment.acknowledged
        assert not moment.human
        assert moment.objection is None
        assert moment.step.now_s - moment.moved_s >= CONFIG.standstill_s - 1e-9


test_handoff_and_stop_are_left_only_by_people_in_clear_conditions = holds(_left_as_allowed)


@never
@given(stories, stops)
def test_while_somebody_objects_nothing_moves_without_the_bypass(story: list[Event], stopped: str | None) -> None:
    for moment in told([event for event in story if event.kind != "reconfigure"], SPEC, stopped):
        if moment.objection is not None:
            assert moment.step.level not in ("NOMINAL", "SLOW")
            assert moment.step.fault == moment.objection
            assert moment.step.speed_factor == 0.0
            if not moment.bypass:
                assert not any(moment.step.output)


def test_the_stories_reach_every_level_and_motion_in_each_way() -> None:
    """The properties above say nothing of what no story comes to."""
    levels: set[tuple[str, str]] = set()
    motions: set[tuple[str, bool]] = set()

    @settings(never, max_examples=800)
    @given(stories, specs, stops)
    def tell(story: list[Event], spec: PolicySpec, stopped: str | None) -> None:
        for moment in told(story, spec, stopped):
            levels.add(("HOLD" if moment.before is None else moment.before.level, moment.step.level))
            if any(moment.step.output):
                motions.add((moment.step.level, moment.bypass))

    tell()
    assert {
        ("HOLD", "NOMINAL"), ("HOLD", "HANDOFF"), ("HOLD", "STOP"), ("NOMINAL", "SLOW"), ("NOMINAL", "HOLD"),
        ("NOMINAL", "HANDOFF"), ("SLOW", "HANDOFF"), ("SLOW", "NOMINAL"), ("HANDOFF", "HOLD"), ("HANDOFF", "STOP"),
        ("STOP", "HOLD"),
    } <= levels  # fmt: skip
    assert {("HOLD", False), ("NOMINAL", False), ("SLOW", False), ("HANDOFF", False), ("STOP", True)} <= motions


# --- replay


def replayed(teller: Teller, begin: int) -> None:
    """Tell the recorded steps from a snapshot on to a new policy: every decision comes out to the last bit."""
    policy = Policy(SPEC, stopped=teller.stopped)
    if begin:
        assert isinstance(teller.record[begin - 1], Snapshot)
    for position, message in enumerate(teller.record[max(begin - 1, 0) :]):
        message = decode(encode(message))  # type: ignore[assignment]
        if isinstance(message, Snapshot):
            if position == 0 or not _follows_a_step(teller, max(begin - 1, 0) + position):
                policy.restore(message.state)
            assert policy.snapshot() == message.state
        else:
            assessment = None if message.assessment is None else teller.assessments[message.assessment]
            decision = policy.step(
                message.now_s,
                evidence_of(message, assessment),
                acknowledged=message.acknowledged,
                human_in_control=message.human_in_control,
                standstill=message.standstill,
            )
            assert (decision.level, decision.speed_factor, decision.reason) == (
                Level(message.level), message.speed_factor, message.reason,
            )  # fmt: skip


def _follows_a_step(teller: Teller, position: int) -> bool:
    """Of two snapshots in a row the second tells of another configuration, which no step does."""
    return isinstance(teller.record[position - 1], Step)


@never
@given(stories, specs, stops)
def test_the_recorded_steps_decide_the_same_again(story: list[Event], spec: PolicySpec, stopped: str | None) -> None:
    teller = Teller(spec, stopped)
    for event in story:
        teller.tell(event)
    replayed(teller, 1)


@never
@given(stories, specs, stops, st.floats(0.0, 1.0))
def test_the_recorded_steps_decide_the_same_again_from_any_snapshot_on(
    story: list[Event], spec: PolicySpec, stopped: str | None, share: float
) -> None:
    teller = Teller(spec, stopped)
    for event in story:
        teller.tell(event)
    snapshots = [position for position, message in enumerate(teller.record) if isinstance(message, Snapshot)]
    replayed(teller, 1 + snapshots[int(share * (len(snapshots) - 1))])
