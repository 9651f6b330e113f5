"""What must never happen, on random stories.

Each story is judged by an oracle that knows nothing of levels: it looks back over all that was handed to the policy and
says whether there is valid, fresh evidence, whether conditions are clear, and how many good frames came in a row.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_bdl.policy import Decision, Evidence, Level, Policy, limit_command
from edge_bdl.policy_spec import PolicyConfig, PolicySpec, Score, Thresholds

SLOW, HANDOFF, SMALLEST_S = 1.0, 2.0, 4
CONFIG = PolicyConfig()
FLAT = Thresholds(slow=SLOW, handoff=HANDOFF)
FALLING = Thresholds(slow=SLOW, handoff=HANDOFF, speed_curve=((0.0, 1.0), (1.0, 0.8), (2.0, 0.3)))
SPEC = PolicySpec(
    scores=(
        Score(name="epistemic", thresholds={2: FLAT, SMALLEST_S: FLAT}),
        Score(name="density", thresholds={SMALLEST_S: FALLING}),
    )
)
WITHOUT_THRESHOLDS = PolicySpec(scores=(*SPEC.scores, Score(name="total")))

names = st.sampled_from(["epistemic", "density", "other"])
numbers = st.sampled_from([0.0, 0.5, 0.9]) | st.floats(allow_nan=True, allow_infinity=True)
good = st.builds(
    Evidence,
    scores=st.fixed_dictionaries({"epistemic": st.floats(0.0, SLOW), "density": st.floats(0.0, SLOW)}),
    samples=st.integers(SMALLEST_S, 64),
    age_s=st.floats(-0.1, 0.3),
)
suspicious = st.builds(
    Evidence,
    scores=st.dictionaries(names, st.floats(0.0, 3.0) | numbers, max_size=3),
    samples=st.integers(-1, 8) | st.just(SMALLEST_S),
    age_s=st.sampled_from([0.0, 0.05, 0.35, -0.2, math.nan, math.inf]) | st.floats(-0.5, 0.5),
    fault=st.sampled_from([None, None, None, "all members are equal"]),
)  # fmt: skip


def scored(low: float, high: float) -> st.SearchStrategy[Evidence]:
    scores = st.fixed_dictionaries({"epistemic": st.floats(low, high), "density": st.floats(0.0, high)})
    return st.builds(Evidence, scores=scores, samples=st.just(16))


@dataclass(frozen=True)
class Tick:
    """One call of the policy."""

    passed_s: float
    evidence: Evidence | None
    people: dict[str, bool] = field(default_factory=dict)


def people(likely: float) -> st.SearchStrategy[dict[str, bool]]:
    flag = st.floats(0.0, 1.0).map(lambda draw: draw < likely)
    return st.fixed_dictionaries({"acknowledged": flag, "human_in_control": flag, "standstill": flag})


def ticks(
    evidence: st.SearchStrategy[Any], passed_s: st.SearchStrategy[float], likely: float
) -> st.SearchStrategy[Any]:
    return st.builds(Tick, passed_s, evidence, people(likely))


def steady(evidence: st.SearchStrategy[Any], fewest: int, most: int) -> st.SearchStrategy[list[Tick]]:
    """The same again and again: single ticks drawn alike hardly ever last until a robot drives, slows or gives up."""
    tick = ticks(evidence, st.just(0.05), 0.0)
    return st.builds(lambda same, times: [same] * times, tick, st.integers(fewest, most))


nobody = {"acknowledged": False, "human_in_control": False, "standstill": False}
answer = st.builds(
    lambda seen: [Tick(0.05, seen, {**nobody, "acknowledged": True, "standstill": True})], scored(0.0, 1.0)
)
odd_s = st.sampled_from([0.05, -0.5, 3.0, math.nan, math.inf])
driving = steady(scored(0.0, SLOW), 5, 60)
slowed = steady(scored(1.001 * SLOW, HANDOFF), 2, 90)
briefly_slowed = steady(scored(1.001 * SLOW, HANDOFF), 2, 20)  # ends before the budget of SLOW is spent
silent = steady(st.none(), 1, 250)
phase = st.one_of(
    driving,
    slowed,
    st.tuples(driving, slowed | briefly_slowed, driving | silent).map(lambda parts: list(itertools.chain(*parts))),
    st.tuples(driving, briefly_slowed, silent).map(lambda parts: list(itertools.chain(*parts))),
    steady(scored(1.001 * HANDOFF, 3.0), 1, 250),
    silent,
    answer,
    st.lists(ticks(st.none() | good, st.just(0.05), 0.5), max_size=8),
    st.lists(ticks(st.none() | good | scored(0.0, 2.2) | suspicious, st.floats(0.0, 0.2), 0.2), max_size=20),
    st.lists(ticks(good | suspicious, odd_s, 0.2), max_size=3),
)
stories = st.lists(phase, min_size=1, max_size=10).map(lambda phases: [tick for part in phases for tick in part])


class Oracle:
    """What is known at this moment, by definition and without levels."""

    def __init__(self) -> None:
        self.now_s: float | None = None
        self.image_s = -math.inf
        self.valid = self.good = False
        self.good_in_row = 0

    def tick(self, now_s: float, evidence: Evidence | None) -> None:
        broken = not math.isfinite(now_s) or (self.now_s is not None and now_s < self.now_s)
        if math.isfinite(now_s):
            self.now_s = now_s
        if broken:
            self.valid, self.good, self.good_in_row = False, False, 0
            return
        if now_s - self.image_s > CONFIG.assessment_timeout_s + 1e-9:
            self.valid, self.good, self.good_in_row = False, False, 0
        if evidence is not None:
            scores = [evidence.scores.get(name, math.nan) for name in ("epistemic", "density")]
            self.valid = (
                evidence.fault is None
                and evidence.samples >= SMALLEST_S
                and -CONFIG.future_tolerance_s <= evidence.age_s <= CONFIG.assessment_timeout_s
                and all(map(math.isfinite, scores))
            )
            self.good = self.valid and max(scores) <= SLOW
            self.good_in_row = self.good_in_row + 1 if self.good else 0
            self.image_s = now_s - max(evidence.age_s, 0.0) if self.valid else -math.inf


@dataclass(frozen=True)
class Moment:
    """One step of a story."""

    tick: Tick
    before: Decision
    after: Decision
    passed_s: float
    valid: bool
    good: bool
    good_in_row: int
    handed_back: bool


def told(story: list[Tick], spec: PolicySpec = SPEC, *, stopped: bool = False) -> list[Moment]:
    policy, oracle = Policy(spec, stopped="stopped before the restart" if stopped else None), Oracle()
    decision = Decision(policy.level, 0.0, "")
    now_s, human, moments = 1000.0, False, []
    for tick in story:
        at_s = now_s + tick.passed_s
        before, decision = decision, policy.step(at_s, tick.evidence, **tick.people)
        oracle.tick(at_s, tick.evidence)
        now_s = at_s if math.isfinite(at_s) else now_s
        passed_s = max(0.0, tick.passed_s) if math.isfinite(tick.passed_s) else 0.0
        handed_back = human and not tick.people.get("human_in_control", False)
        human = tick.people.get("human_in_control", False)
        moments.append(
            Moment(tick, before, decision, passed_s, oracle.valid, oracle.good, oracle.good_in_row, handed_back)
        )
    return moments


slow_to_draw = [HealthCheck.too_slow, HealthCheck.data_too_large]
never = settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=slow_to_draw)


@never
@given(stories)
def test_the_speed_factor_is_a_share_and_zero_without_fresh_valid_evidence(story: list[Tick]) -> None:
    for moment in told(story):
        assert 0.0 <= moment.after.speed_factor <= 1.0
        if not moment.valid or moment.after.level in (Level.HOLD, Level.STOP):
            assert moment.after.speed_factor == 0.0


@never
@given(stories)
def test_never_nominal_or_slow_without_fresh_valid_evidence(story: list[Tick]) -> None:
    for moment in told(story):
        if moment.after.level in (Level.NOMINAL, Level.SLOW):
            assert moment.valid
            assert not moment.tick.people.get("human_in_control")


@never
@given(stories)
def test_never_driving_again_before_the_good_assessments(story: list[Tick]) -> None:
    for moment in told(story):
        if moment.before.level is Level.HOLD and moment.after.level is not Level.HOLD:
            assert moment.after.level in (Level.NOMINAL, Level.HANDOFF, Level.STOP)
            if moment.after.level is Level.NOMINAL:
                assert moment.good_in_row >= CONFIG.good_frames_to_start


@never
@given(stories)
def test_handoff_is_left_only_in_clear_conditions_and_by_a_human(story: list[Tick]) -> None:
    for moment in told(story):
        if moment.before.level is Level.HANDOFF and moment.after.level not in (Level.HANDOFF, Level.STOP):
            assert moment.after.level is Level.HOLD
            assert moment.good
            assert moment.tick.people["acknowledged"] or moment.handed_back
            assert not moment.tick.people["human_in_control"]


@never
@given(stories, st.booleans())
def test_stop_is_left_only_at_standstill_in_clear_conditions_and_acknowledged(story: list[Tick], stopped: bool) -> None:
    for moment in told(story, stopped=stopped):
        if moment.before.level is Level.STOP and moment.after.level is not Level.STOP:
            assert moment.after.level is Level.HOLD
            assert moment.good
            assert moment.tick.people["acknowledged"]
            assert moment.tick.people["standstill"]


@never
@given(stories)
def test_the_limit_loosens_no_faster_than_the_ramp_and_never_in_a_handoff_or_a_transition(story: list[Tick]) -> None:
    for moment in told(story):
        rise = moment.after.speed_factor - moment.before.speed_factor
        assert rise <= CONFIG.loosen_per_s * moment.passed_s + 1e-9
        if moment.after.level is Level.HANDOFF or moment.after.level is not moment.before.level:
            assert rise <= 0.0


@never
@given(stories)
def test_a_score_over_its_handoff_threshold_never_leaves_the_robot_driving(story: list[Tick]) -> None:
    for moment in told(story):
        evidence = moment.tick.evidence
        if evidence is not None and any(evidence.scores.get(name, 0.0) > HANDOFF for name in ("epistemic", "density")):
            assert moment.after.level not in (Level.NOMINAL, Level.SLOW)


@never
@given(stories)
def test_without_thresholds_for_a_score_nothing_ever_drives(story: list[Tick]) -> None:
    assert all(moment.after.speed_factor == 0.0 for moment in told(story, WITHOUT_THRESHOLDS))


@never
@given(stories)
def test_the_same_story_gives_the_same_decisions(story: list[Tick]) -> None:
    assert [moment.after for moment in told(story)] == [moment.after for moment in told(story)]


@never
@given(stories, stories)
def test_reconfiguring_is_no_way_out_of_handoff_or_stop_and_no_way_to_keep_driving(
    before: list[Tick], after: list[Tick]
) -> None:
    policy = Policy(SPEC)
    now_s = 0.0
    for tick in before:
        now_s += tick.passed_s if math.isfinite(tick.passed_s) else 0.0
        policy.step(now_s, tick.evidence, **tick.people)
    level = policy.level
    policy.reconfigure(SPEC)
    assert policy.level is (level if level in (Level.HANDOFF, Level.STOP) else Level.HOLD)
    for tick in after[: CONFIG.good_frames_to_start - 1]:
        now_s += tick.passed_s if math.isfinite(tick.passed_s) else 0.0
        assert policy.step(now_s, tick.evidence, **tick.people).level not in (Level.NOMINAL, Level.SLOW)


RAMPED = PolicySpec(config=PolicyConfig(hold_ramp_s=0.7), scores=SPEC.scores)


@never
@given(stories, st.booleans())
def test_a_hold_by_a_ramp_never_lets_more_pass_and_nothing_after_it(story: list[Tick], stopped: bool) -> None:
    held_s = 0.0
    for moment in told(story, RAMPED, stopped=stopped):
        if moment.after.level is not Level.HOLD:
            held_s = 0.0
            continue
        held_s = held_s + moment.passed_s if moment.before.level is Level.HOLD else 0.0
        assert moment.after.speed_factor <= moment.before.speed_factor
        if held_s >= 0.7 + 1e-6:
            assert moment.after.speed_factor == 0.0


@never
@given(stories, st.sampled_from([SPEC, RAMPED]))
def test_with_and_without_the_ramp_the_levels_are_the_same(story: list[Tick], spec: PolicySpec) -> None:
    assert [moment.after.level for moment in told(story, spec)] == [moment.after.level for moment in told(story)]


@never
@given(stories, st.sampled_from([SPEC, RAMPED]), st.floats(0.0, 1.0))
def test_a_policy_restored_anywhere_in_a_story_decides_the_rest_alike(
    story: list[Tick], spec: PolicySpec, share: float
) -> None:
    policy, other = Policy(spec), Policy(SPEC, stopped="forgets this")
    now_s = 1000.0
    cut = int(share * len(story))
    for number, tick in enumerate(story):
        if number == cut:
            other.restore(policy.snapshot())
        now_s += tick.passed_s if math.isfinite(tick.passed_s) else 0.0
        at_s = now_s if math.isfinite(tick.passed_s) else tick.passed_s
        decision = policy.step(at_s, tick.evidence, **tick.people)
        if number >= cut:
            assert other.step(at_s, tick.evidence, **tick.people) == decision
            assert other.snapshot() == policy.snapshot()


@never
@given(
    st.lists(st.floats(allow_nan=True, allow_infinity=True), max_size=6),
    st.floats(allow_nan=True, allow_infinity=True) | st.floats(0.0, 1.0),
)
def test_a_command_never_grows_and_never_changes_sign(command: list[float], factor: float) -> None:
    limited = limit_command(command, Decision(Level.SLOW, factor, ""))
    assert len(limited) == len(command)
    for axis, passed in zip(command, limited, strict=True):
        assert math.isfinite(passed)
        if math.isfinite(axis):
            assert abs(passed) <= abs(axis)
            assert passed * axis >= 0.0
        else:
            assert passed == 0.0


def test_the_stories_reach_every_transition_of_the_table() -> None:
    """The properties above say nothing of levels that no story comes to."""
    reached: set[tuple[Level, Level]] = set()

    @settings(never, max_examples=600)
    @given(stories)
    def tell(story: list[Tick]) -> None:
        reached.update((moment.before.level, moment.after.level) for moment in told(story))

    tell()
    wanted = {
        (Level.HOLD, Level.NOMINAL), (Level.HOLD, Level.HANDOFF), (Level.HOLD, Level.STOP), (Level.NOMINAL, Level.SLOW),
        (Level.NOMINAL, Level.HOLD), (Level.NOMINAL, Level.HANDOFF), (Level.SLOW, Level.NOMINAL),
        (Level.SLOW, Level.HOLD), (Level.SLOW, Level.HANDOFF), (Level.HANDOFF, Level.HOLD), (Level.HANDOFF, Level.STOP),
        (Level.STOP, Level.HOLD),
    }  # fmt: skip
    assert wanted <= reached


@pytest.mark.parametrize("broken", ["late", "nan", "few"])
def test_the_oracle_itself_refuses(broken: str) -> None:
    scores = {"epistemic": math.nan if broken == "nan" else 0.0, "density": 0.0}
    oracle = Oracle()
    oracle.tick(0.0, Evidence(scores, 2 if broken == "few" else 16, 0.4 if broken == "late" else 0.0))
    assert not oracle.valid
