"""The policy: every state against every event, ramps against closed forms, reasons for people."""

import itertools
import math
import subprocess
import sys

import msgspec
import pytest

from edge_bdl.errors import InputError
from edge_bdl.policy import TRANSITIONS, Decision, Evidence, Level, Policy, limit_command
from edge_bdl.policy_spec import PolicyConfig, PolicySpec, Score, Thresholds

TICK_S = 0.05
EPISTEMIC = Score(
    name="epistemic", thresholds={2: Thresholds(slow=0.2, handoff=0.4), 16: Thresholds(slow=0.1, handoff=0.3)}
)
DENSITY = Score(
    name="density", thresholds={2: Thresholds(slow=10.0, handoff=20.0), 16: Thresholds(slow=10.0, handoff=20.0)}
)
SPEC = PolicySpec(scores=(EPISTEMIC, DENSITY), source="episode_replay")


def frame(epistemic: float = 0.05, density: float = 1.0, *, samples: int = 16, age_s: float = 0.0) -> Evidence:
    return Evidence({"epistemic": epistemic, "density": density}, samples, age_s)


GOOD, OVER_SLOW, OVER_HANDOFF = frame(), frame(0.2), frame(density=25.0)
INVALID = Evidence({}, 16, 0.0, "the output is not finite")


class Robot:
    """A policy and its clock."""

    def __init__(self, spec: PolicySpec = SPEC, *, stopped: str | None = None, tick_s: float = TICK_S) -> None:
        self.policy = Policy(spec, stopped=stopped)
        self.tick_s = tick_s
        self.now_s = 100.0
        self.decision = Decision(Level.HOLD, 0.0, "")

    def tick(self, evidence: Evidence | None = None, **people: bool) -> Decision:
        self.now_s += self.tick_s
        self.decision = self.policy.step(self.now_s, evidence, **people)
        return self.decision

    def run(self, seconds: float, evidence: Evidence | None = None, **people: bool) -> Decision:
        for _ in range(round(seconds / self.tick_s)):
            self.tick(evidence, **people)
        return self.decision


def started() -> Robot:
    return Robot()


def nominal() -> Robot:
    robot = Robot()
    robot.run(5.0, GOOD)
    return robot


def held() -> Robot:
    robot = nominal()
    robot.tick(INVALID)
    return robot


def slow() -> Robot:
    robot = nominal()
    robot.run(2 * TICK_S, OVER_SLOW)
    return robot


def handoff() -> Robot:
    robot = nominal()
    robot.tick(OVER_HANDOFF)
    return robot


def human() -> Robot:
    robot = handoff()
    robot.tick(OVER_HANDOFF, human_in_control=True)
    return robot


def stopped() -> Robot:
    robot = handoff()
    robot.run(10.1, OVER_HANDOFF)
    return robot


STATES = {
    "start": (started, Level.HOLD), "held": (held, Level.HOLD), "nominal": (nominal, Level.NOMINAL),
    "slow": (slow, Level.SLOW), "handoff": (handoff, Level.HANDOFF), "human": (human, Level.HANDOFF),
    "stopped": (stopped, Level.STOP),
}  # fmt: skip


def clock_back(robot: Robot) -> Decision:
    robot.now_s -= 1.0
    return robot.tick(GOOD)


def clock_nan(robot: Robot) -> Decision:
    return robot.policy.step(math.nan, GOOD)


def reconfigured(robot: Robot) -> Decision:
    robot.policy.reconfigure(SPEC)
    return robot.tick()


def good_ones(robot: Robot) -> Decision:
    return robot.run(5 * TICK_S, GOOD)


EVENTS = {
    "nothing": lambda robot: robot.tick(),
    "one good": lambda robot: robot.tick(GOOD),
    "four good": lambda robot: robot.run(4 * TICK_S, GOOD),
    "five good": good_ones,
    "five good, human": lambda robot: robot.run(5 * TICK_S, GOOD, human_in_control=True),
    "2 s good": lambda robot: robot.run(2.0, GOOD),
    "11 s good": lambda robot: robot.run(11.0, GOOD),
    "one over slow": lambda robot: robot.tick(OVER_SLOW),
    "two over slow": lambda robot: robot.run(2 * TICK_S, OVER_SLOW),
    "4 s over slow": lambda robot: robot.run(4.0, OVER_SLOW),
    "one over handoff": lambda robot: robot.tick(OVER_HANDOFF),
    "11 s over handoff": lambda robot: robot.run(11.0, OVER_HANDOFF),
    "fault": lambda robot: robot.tick(INVALID),
    "late": lambda robot: robot.tick(frame(age_s=0.31)),
    "future": lambda robot: robot.tick(frame(age_s=-0.11)),
    "age not a number": lambda robot: robot.tick(frame(age_s=math.nan)),
    "score not a number": lambda robot: robot.tick(frame(math.nan)),
    "score infinite": lambda robot: robot.tick(frame(density=-math.inf)),
    "score missing": lambda robot: robot.tick(Evidence({"epistemic": 0.0}, 16)),
    "too few samples": lambda robot: robot.tick(frame(samples=1)),
    "0.4 s silence": lambda robot: robot.run(0.4),
    "11 s silence": lambda robot: robot.run(11.0),
    "clock back": clock_back,
    "clock not a number": clock_nan,
    "reconfigured": reconfigured,
    "ack": lambda robot: robot.tick(acknowledged=True),
    "ack, good": lambda robot: robot.tick(GOOD, acknowledged=True),
    "ack, good, still": lambda robot: robot.tick(GOOD, acknowledged=True, standstill=True),
    "ack, over slow, still": lambda robot: robot.tick(OVER_SLOW, acknowledged=True, standstill=True),
    "ack, fault, still": lambda robot: robot.tick(INVALID, acknowledged=True, standstill=True),
    "good, still": lambda robot: robot.tick(GOOD, standstill=True),
    "human, good": lambda robot: robot.tick(GOOD, human_in_control=True),
    "human, 11 s bad": lambda robot: robot.run(11.0, OVER_HANDOFF, human_in_control=True),
    "ack, good, human": lambda robot: robot.tick(GOOD, acknowledged=True, human_in_control=True),
}  # fmt: skip

# Which level each event leads to from each state; the column `human` hands back with every event but human ones.
TABLE = """
event                 | start   | held    | nominal | slow    | handoff | human   | stopped
nothing               | HOLD    | HOLD    | NOMINAL | SLOW    | HANDOFF | HANDOFF | STOP
one good              | HOLD    | HOLD    | NOMINAL | SLOW    | HANDOFF | HOLD    | STOP
four good             | HOLD    | HOLD    | NOMINAL | SLOW    | HANDOFF | HOLD    | STOP
five good             | NOMINAL | NOMINAL | NOMINAL | SLOW    | HANDOFF | HOLD    | STOP
five good, human      | HANDOFF | HANDOFF | HANDOFF | HANDOFF | HANDOFF | HANDOFF | STOP
2 s good              | NOMINAL | NOMINAL | NOMINAL | NOMINAL | HANDOFF | NOMINAL | STOP
11 s good             | NOMINAL | NOMINAL | NOMINAL | NOMINAL | STOP    | NOMINAL | STOP
one over slow         | HOLD    | HOLD    | NOMINAL | SLOW    | HANDOFF | HANDOFF | STOP
two over slow         | HOLD    | HOLD    | SLOW    | SLOW    | HANDOFF | HANDOFF | STOP
4 s over slow         | HOLD    | HOLD    | HANDOFF | HANDOFF | HANDOFF | HANDOFF | STOP
one over handoff      | HOLD    | HANDOFF | HANDOFF | HANDOFF | HANDOFF | HANDOFF | STOP
11 s over handoff     | HOLD    | STOP    | STOP    | STOP    | STOP    | STOP    | STOP
fault                 | HOLD    | HOLD    | HOLD    | HOLD    | HANDOFF | HANDOFF | STOP
late                  | HOLD    | HOLD    | HOLD    | HOLD    | HANDOFF | HANDOFF | STOP
future                | HOLD    | HOLD    | HOLD    | HOLD    | HANDOFF | HANDOFF | STOP
age not a number      | HOLD    | HOLD    | HOLD    | HOLD    | HANDOFF | HANDOFF | STOP
score not a number    | HOLD    | HOLD    | HOLD    | HOLD    | HANDOFF | HANDOFF | STOP
score infinite        | HOLD    | HOLD    | HOLD    | HOLD    | HANDOFF | HANDOFF | STOP
score missing         | HOLD    | HOLD    | HOLD    | HOLD    | HANDOFF | HANDOFF | STOP
too few samples       | HOLD    | HOLD    | HOLD    | HOLD    | HANDOFF | HANDOFF | STOP
0.4 s silence         | HOLD    | HOLD    | HOLD    | HOLD    | HANDOFF | HANDOFF | STOP
11 s silence          | HOLD    | STOP    | STOP    | STOP    | STOP    | STOP    | STOP
clock back            | HOLD    | HOLD    | HOLD    | HOLD    | HANDOFF | HANDOFF | STOP
clock not a number    | HOLD    | HOLD    | HOLD    | HOLD    | HANDOFF | HANDOFF | STOP
reconfigured          | HOLD    | HOLD    | HOLD    | HOLD    | HANDOFF | HANDOFF | STOP
ack                   | HOLD    | HOLD    | NOMINAL | SLOW    | HANDOFF | HANDOFF | STOP
ack, good             | HOLD    | HOLD    | NOMINAL | SLOW    | HOLD    | HOLD    | STOP
ack, good, still      | HOLD    | HOLD    | NOMINAL | SLOW    | HOLD    | HOLD    | HOLD
ack, over slow, still | HOLD    | HOLD    | NOMINAL | SLOW    | HANDOFF | HANDOFF | STOP
ack, fault, still     | HOLD    | HOLD    | HOLD    | HOLD    | HANDOFF | HANDOFF | STOP
good, still           | HOLD    | HOLD    | NOMINAL | SLOW    | HANDOFF | HOLD    | STOP
human, good           | HANDOFF | HANDOFF | HANDOFF | HANDOFF | HANDOFF | HANDOFF | STOP
human, 11 s bad       | HANDOFF | HANDOFF | HANDOFF | HANDOFF | HANDOFF | HANDOFF | STOP
ack, good, human      | HANDOFF | HANDOFF | HANDOFF | HANDOFF | HANDOFF | HANDOFF | STOP
"""


def cells() -> list[tuple[str, str, Level]]:
    header, *rows = [[cell.strip() for cell in line.split("|")] for line in TABLE.strip().splitlines()]
    return [(state, row[0], Level(level)) for row in rows for state, level in zip(header[1:], row[1:], strict=True)]


@pytest.mark.parametrize(("state", "event", "expected"), cells())
def test_every_event_in_every_state_leads_where_the_table_says(state: str, event: str, expected: Level) -> None:
    build, level = STATES[state]
    robot = build()
    assert robot.policy.level is level
    decision = EVENTS[event](robot)
    assert decision.level is robot.policy.level is expected
    if expected in (Level.HOLD, Level.STOP):
        assert decision.speed_factor == 0.0


def test_the_table_tries_every_state_against_every_event() -> None:
    assert {(state, event) for state, event, _ in cells()} == {(state, event) for state in STATES for event in EVENTS}
    assert set(TRANSITIONS) == {level for _, level in STATES.values()} == set(Level)


# --- HOLD


def test_hold_at_the_start_waits_forever() -> None:
    assert Robot(tick_s=0.3).run(3600.0).level is Level.HOLD


def test_hold_needs_good_assessments_in_a_row() -> None:
    robot = started()
    for evidence in (GOOD, GOOD, GOOD, GOOD, OVER_SLOW, GOOD, GOOD, GOOD, GOOD, INVALID, GOOD, GOOD, GOOD, GOOD):
        assert robot.tick(evidence).level is Level.HOLD
    assert robot.tick(GOOD).level is Level.NOMINAL


def test_ticks_without_news_do_not_count_as_good_assessments() -> None:
    robot = Robot(tick_s=0.01)
    robot.tick(GOOD)
    assert robot.run(0.2).level is Level.HOLD


def test_evidence_that_went_late_between_two_ticks_is_not_covered_up_by_the_next() -> None:
    robot = nominal()
    robot.now_s += 0.3
    assert robot.tick(GOOD) == Decision(Level.HOLD, 0.0, "1 of 5 good assessments in a row")


def test_age_at_receipt_and_waiting_time_add_up() -> None:
    robot = nominal()
    robot.tick(frame(age_s=0.22))
    assert robot.tick().level is Level.NOMINAL
    assert robot.tick().level is Level.HOLD


def test_a_stamp_slightly_ahead_is_taken_but_earns_no_extra_time() -> None:
    robot = nominal()
    robot.tick(frame(age_s=-0.09))
    assert robot.run(0.25).level is Level.NOMINAL
    assert robot.run(0.10).level is Level.HOLD


def test_held_for_ten_seconds_after_driving_stops() -> None:
    robot = held()
    assert robot.run(9.9, INVALID).level is Level.HOLD
    assert robot.run(0.2, INVALID).level is Level.STOP


def ramped(hold_ramp_s: float = 0.8, **config: float) -> PolicySpec:
    return PolicySpec(config=PolicyConfig(hold_ramp_s=hold_ramp_s, **config), scores=SPEC.scores)  # type: ignore[arg-type]


@pytest.mark.parametrize("slowed", [False, True], ids=["from full speed", "from SLOW"])
def test_hold_ramps_to_zero_from_the_last_factor(slowed: bool) -> None:
    robot = Robot(ramped())
    robot.run(5.0, GOOD)
    if slowed:
        robot.run(2 * TICK_S, OVER_SLOW)
    before = robot.decision.speed_factor
    assert before == (0.5 if slowed else 1.0)
    assert robot.tick(INVALID) == Decision(Level.HOLD, before, "the output is not finite")
    entered = robot.now_s
    for _ in range(30):
        robot.tick(INVALID)
        left = 1.0 - (robot.now_s - entered) / 0.8
        assert robot.decision.speed_factor == pytest.approx(before * max(0.0, left), abs=1e-9)


def test_hold_without_a_ramp_is_zero_at_once() -> None:
    robot = Robot(ramped(0.0))
    robot.run(5.0, GOOD)
    assert robot.tick(INVALID).speed_factor == 0.0


def test_hold_with_a_ramp_never_moves_before_it_has_driven() -> None:
    robot = Robot(ramped())
    robot.run(4 * TICK_S, GOOD)
    assert robot.run(2.0, OVER_SLOW) == Decision(Level.HOLD, 0.0, "epistemic 0.2 over its SLOW threshold 0.1 (S=16)")


def test_a_hold_that_ends_within_its_ramp_goes_on_from_where_it_was_and_no_faster_than_loosening() -> None:
    robot = Robot(ramped())
    robot.run(5.0, GOOD)
    robot.tick(INVALID)
    assert robot.run(4 * TICK_S, GOOD).speed_factor == pytest.approx(0.75)
    # The good frame that ends HOLD still loses what its tick lost; only then is it loosened.
    assert robot.tick(GOOD) == Decision(Level.NOMINAL, pytest.approx(0.6875), "5 good assessments in a row")
    left = robot.now_s
    robot.run(0.3, GOOD)
    assert robot.decision.speed_factor == pytest.approx(0.6875 + 0.5 * (robot.now_s - left))


@pytest.mark.parametrize("now_s", [math.nan, math.inf, 0.0])
def test_there_is_no_ramp_without_a_clock(now_s: float) -> None:
    robot = Robot(ramped())
    robot.run(5.0, GOOD)
    assert robot.policy.step(now_s, INVALID).speed_factor == 0.0
    assert robot.tick(INVALID).speed_factor == 0.0


def test_a_ramp_that_is_made_longer_on_its_way_gives_nothing_back() -> None:
    robot = Robot(ramped(0.4))
    robot.run(5.0, GOOD)
    robot.tick(INVALID)
    before = robot.run(0.3, INVALID).speed_factor
    assert before == pytest.approx(0.25)
    robot.policy.reconfigure(ramped(1.0))
    for _ in range(30):
        robot.tick(INVALID)
        assert robot.decision.speed_factor <= before
        before = robot.decision.speed_factor
    assert before == 0.0


# --- SLOW


def test_slow_needs_two_of_five_frames() -> None:
    robot = nominal()
    for evidence in (OVER_SLOW, GOOD, GOOD, GOOD, GOOD) * 3:
        assert robot.tick(evidence).level is Level.NOMINAL
    for evidence in (OVER_SLOW, GOOD, GOOD, GOOD):
        assert robot.tick(evidence).level is Level.NOMINAL
    assert robot.tick(OVER_SLOW).level is Level.SLOW


def test_slow_tightens_at_once_and_loosens_by_a_ramp() -> None:
    robot = slow()
    assert robot.decision.speed_factor == 0.5
    entered = robot.now_s
    while robot.tick(GOOD).level is Level.SLOW:
        assert robot.decision.speed_factor == 0.5
    # The first good frame comes one tick after the last bad one; from then on it is 1.0 s.
    assert robot.now_s - entered == pytest.approx(1.0 + TICK_S, abs=TICK_S + 1e-9)
    left = robot.now_s
    for _ in range(40):
        robot.tick(GOOD)
        assert robot.decision.speed_factor == pytest.approx(min(1.0, 0.5 + 0.5 * (robot.now_s - left)))


def test_a_frame_over_the_threshold_starts_the_release_time_again() -> None:
    robot = slow()
    robot.run(0.9, GOOD)
    robot.tick(OVER_SLOW)
    assert robot.run(0.9, GOOD).level is Level.SLOW


def test_votes_before_slow_do_not_bring_it_back_after_its_release() -> None:
    config = PolicyConfig(slow_window=50)
    robot = Robot(PolicySpec(config=config, scores=SPEC.scores))
    robot.run(1.0, GOOD)
    robot.run(0.1, OVER_SLOW)
    robot.run(1.2, GOOD)
    assert robot.tick(OVER_SLOW).level is Level.NOMINAL


def test_slow_budget_is_spent_at_one_and_recharged_at_a_quarter() -> None:
    robot = slow()
    robot.run(1.5, OVER_SLOW)
    spent = 1.5
    while robot.tick(GOOD).level is Level.SLOW:
        spent += TICK_S
    spent += TICK_S
    robot.run(2.0 - 2 * TICK_S, GOOD)
    robot.run(2 * TICK_S, OVER_SLOW)
    assert robot.policy.level is Level.SLOW
    entered = robot.now_s
    while robot.tick(OVER_SLOW).level is Level.SLOW:
        pass
    assert robot.policy.level is Level.HANDOFF
    assert "budget" in robot.decision.reason
    assert robot.now_s - entered == pytest.approx(3.0 - (spent - 0.25 * 2.0), abs=2 * TICK_S)


FALLING = Thresholds(slow=0.1, handoff=9.0, speed_curve=((0.1, 1.0), (0.5, 0.2)))
STEP = Thresholds(slow=10.0, handoff=99.0, speed_curve=((10.0, 0.9), (10.0, 0.4)))
CURVED = PolicySpec(
    scores=(Score(name="epistemic", thresholds={2: FALLING}), Score(name="density", thresholds={2: STEP}))
)


@pytest.mark.parametrize(
    ("epistemic", "density", "factor"),
    [(0.3, 1.0, 0.6), (0.2, 1.0, 0.8), (5.0, 1.0, 0.2), (0.3, 11.0, 0.4), (0.5, 11.0, 0.2), (0.0, 11.0, 0.4)],
)
def test_speed_factor_is_the_smallest_that_a_curve_gives(epistemic: float, density: float, factor: float) -> None:
    robot = Robot(CURVED)
    robot.run(3.0, frame(0.0, samples=4))
    assert robot.run(2 * TICK_S, frame(epistemic, density, samples=4)).speed_factor == pytest.approx(factor)


def test_within_slow_a_better_score_loosens_by_the_ramp() -> None:
    robot = Robot(CURVED)
    robot.run(3.0, frame(0.0))
    robot.run(2 * TICK_S, frame(0.5))
    assert robot.decision.speed_factor == pytest.approx(0.2)
    robot.tick(frame(0.2))
    assert robot.run(0.4, frame(0.2)).speed_factor == pytest.approx(0.2 + 0.5 * 0.4)
    assert robot.run(1.2, frame(0.2)).speed_factor == pytest.approx(0.8)


# --- HANDOFF and STOP


def test_handoff_ramps_to_zero_in_a_second() -> None:
    robot = handoff()
    entered = robot.now_s
    assert robot.decision.speed_factor == 1.0
    for _ in range(30):
        robot.tick(OVER_HANDOFF)
        assert robot.decision.speed_factor == pytest.approx(max(0.0, 1.0 - (robot.now_s - entered)), abs=1e-9)


def test_handoff_ramps_from_where_slow_was() -> None:
    robot = slow()
    assert robot.tick(OVER_HANDOFF).speed_factor == 0.5
    assert robot.run(0.5, OVER_HANDOFF).speed_factor == pytest.approx(0.25)


def test_handoff_never_moves_again_after_invalid_evidence() -> None:
    robot = handoff()
    assert robot.tick(INVALID).speed_factor == 0.0
    assert robot.run(0.5, GOOD).speed_factor == 0.0


def test_a_human_in_control_silences_the_network_at_once() -> None:
    assert nominal().tick(GOOD, human_in_control=True).speed_factor == 0.0


def test_an_acknowledgement_in_bad_conditions_is_not_remembered() -> None:
    robot = handoff()
    robot.tick(OVER_SLOW, acknowledged=True)
    assert robot.run(1.0, GOOD).level is Level.HANDOFF


def test_an_unanswered_handoff_stops_after_ten_seconds() -> None:
    robot = handoff()
    assert robot.run(9.9, OVER_HANDOFF).level is Level.HANDOFF
    assert robot.run(0.2, OVER_HANDOFF).level is Level.STOP


def test_handing_back_too_early_asks_again_for_ten_seconds() -> None:
    robot = handoff()
    robot.run(8.0, OVER_HANDOFF)
    robot.run(60.0, OVER_HANDOFF, human_in_control=True)
    assert robot.run(9.9, OVER_HANDOFF).level is Level.HANDOFF
    assert robot.run(0.2, OVER_HANDOFF).level is Level.STOP


def test_handing_back_counts_once_however_slow_the_ticks() -> None:
    robot = human()
    robot.tick(OVER_HANDOFF)
    robot.now_s += 10.0
    assert robot.tick(OVER_HANDOFF).level is Level.STOP


def test_after_handing_back_five_good_frames_drive_again() -> None:
    robot = human()
    robot.run(3.0, GOOD, human_in_control=True)
    levels = [robot.tick(GOOD).level for _ in range(6)]
    assert levels == [Level.HOLD] * 5 + [Level.NOMINAL]
    assert robot.decision.speed_factor == 0.0
    assert robot.run(0.5, GOOD).speed_factor == pytest.approx(0.25)


def test_stop_is_latched_through_any_number_of_good_frames_and_humans() -> None:
    robot = stopped()
    robot.run(20.0, GOOD)
    robot.run(20.0, GOOD, human_in_control=True)
    assert robot.run(20.0, GOOD, standstill=True).level is Level.STOP


def test_stop_left_then_needs_good_assessments_again() -> None:
    robot = stopped()
    robot.tick(GOOD, acknowledged=True, standstill=True)
    assert robot.run(4 * TICK_S, GOOD).level is Level.HOLD
    assert robot.tick(GOOD).level is Level.NOMINAL


def test_a_restart_comes_up_stopped_where_it_was_stopped_or_nobody_had_answered() -> None:
    assert [build().policy.latched for build, _ in STATES.values()] == [False, False, False, False, True, True, True]
    robot = Robot(stopped="stopped before the restart")
    assert robot.run(20.0, GOOD).level is Level.STOP
    assert robot.tick(GOOD, acknowledged=True, standstill=True).level is Level.HOLD
    # It drove before the restart, so that HOLD does not wait for ever.
    assert robot.run(10.4).level is Level.STOP


def test_reconfiguring_judges_by_the_new_thresholds() -> None:
    robot = nominal()
    strict = Score(name="epistemic", thresholds={2: Thresholds(slow=0.01, handoff=0.02)})
    robot.policy.reconfigure(PolicySpec(scores=(strict,)))
    assert robot.policy.level is Level.HOLD
    assert robot.run(0.2, GOOD).level is Level.HANDOFF


# --- snapshots


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("event", ["nothing", "11 s good", "4 s over slow", "11 s over handoff", "ack, good, still"])
def test_a_restored_policy_goes_on_as_the_one_that_was_snapped(state: str, event: str) -> None:
    robot, other = STATES[state][0](), Robot()
    other.policy.restore(robot.policy.snapshot())
    other.now_s = robot.now_s
    assert other.policy.level is robot.policy.level
    assert (other.policy.latched, other.policy.clear) == (robot.policy.latched, robot.policy.clear)
    assert EVENTS[event](other) == EVENTS[event](robot)
    assert other.policy.snapshot() == robot.policy.snapshot()


def test_a_restored_policy_takes_over_the_times_and_keeps_its_thresholds() -> None:
    other = Robot(PolicySpec(scores=(EPISTEMIC,)))
    other.policy.restore(Robot(ramped(assessment_timeout_s=0.1)).policy.snapshot())
    other.now_s = 100.0
    assert other.run(1.0, Evidence({"epistemic": 0.05}, 16)).level is Level.NOMINAL  # of one score
    assert other.run(0.15).level is Level.HOLD  # after 0.1 s
    assert 0.0 < other.decision.speed_factor < 0.5  # by its ramp


def test_a_snapshot_has_room_for_the_widest_window_of_votes() -> None:
    robot = Robot(PolicySpec(config=PolicyConfig(slow_window=63, slow_votes=63), scores=SPEC.scores))
    robot.run(1.0, GOOD)
    robot.run(62 * TICK_S, OVER_SLOW)
    other = Robot()
    other.policy.restore(robot.policy.snapshot())
    other.now_s = robot.now_s
    assert robot.policy.level is Level.NOMINAL
    assert other.tick(OVER_SLOW) == robot.tick(OVER_SLOW)
    assert other.policy.level is Level.SLOW


def changed(field: str, value: object) -> bytes:
    fields = msgspec.msgpack.decode(Robot().policy.snapshot())
    assert field in fields
    return msgspec.msgpack.encode({**fields, field: value})


@pytest.mark.parametrize(
    "snapshot",
    [
        b"", b"\xc1", b"hello", b"\x91" * 100_000, msgspec.msgpack.encode({}), msgspec.msgpack.encode([1, 2]),
        Robot().policy.snapshot()[:-1], Robot().policy.snapshot() + b"\x00", changed("level", "FAST"),
        changed("factor", "1.0"), changed("has_driven", None), changed("config", {"assessment_timeout_s": 9.0}),
    ],
    ids=range(12),
)  # fmt: skip
def test_what_is_no_snapshot_is_refused_and_changes_nothing(snapshot: bytes) -> None:
    robot = nominal()
    before = robot.policy.snapshot()
    with pytest.raises(InputError, match="no snapshot of a policy of this version"):
        robot.policy.restore(snapshot)
    assert robot.policy.snapshot() == before
    assert robot.tick(GOOD).level is Level.NOMINAL


# --- clocks


def test_a_clock_set_back_shortens_no_timer() -> None:
    robot = held()
    for _ in range(20):
        robot.run(0.5, INVALID)
        robot.now_s -= 50.0
        robot.tick(INVALID)
    assert robot.policy.level is Level.HOLD
    assert robot.run(0.2, INVALID).level is Level.STOP


def test_after_a_clock_fault_good_assessments_count_from_the_new_time() -> None:
    robot = nominal()
    robot.now_s -= 1000.0
    assert "went back" in robot.tick(GOOD).reason
    assert robot.run(4 * TICK_S, GOOD).level is Level.HOLD
    assert robot.tick(GOOD).level is Level.NOMINAL


@pytest.mark.parametrize("now_s", [math.nan, math.inf, -math.inf])
def test_a_clock_that_is_no_number_is_a_fault_and_leaves_the_time_alone(now_s: float) -> None:
    robot = nominal()
    assert robot.policy.step(now_s, GOOD) == Decision(Level.HOLD, 0.0, f"the clock says {now_s}")
    assert robot.run(5 * TICK_S, GOOD).level is Level.NOMINAL


def drive(ticks_s: list[float], frames: dict[float, Evidence]) -> list[tuple[float, Level, float]]:
    """Decisions at ``ticks_s``; a frame is handed over at the first tick at or after it came, with that much age."""
    policy = Policy(SPEC)
    waiting = sorted(frames.items())
    trace = []
    for now_s in ticks_s:
        evidence = None
        while waiting and waiting[0][0] <= now_s:
            came_s, seen = waiting.pop(0)
            evidence = Evidence(seen.scores, seen.samples, now_s - came_s)
        decision = policy.step(now_s, evidence)
        trace.append((now_s, decision.level, decision.speed_factor))
    return trace


def changes(trace: list[tuple[float, Level, float]]) -> list[tuple[float, Level]]:
    return [(now_s, level) for (_, before, _), (now_s, level, _) in itertools.pairwise(trace) if level is not before]


def test_decisions_do_not_depend_on_the_tick_rate() -> None:
    # 10 Hz frames: start, two slow stretches, silence, start again, a handoff that nobody answers.
    story = [*[GOOD] * 20, *[OVER_SLOW] * 10, *[GOOD] * 30, *[OVER_SLOW] * 4, *[GOOD] * 30]
    story += [None] * 10 + [GOOD] * 30 + [OVER_HANDOFF] * 110
    frames = {0.1 * i: seen for i, seen in enumerate(story) if seen is not None}
    end_s = 0.1 * len(story)
    fine = [0.001 * i for i in range(int(end_s / 0.001))]
    steps = [0.005 + 0.045 * ((7 * i) % 10) / 9 for i in range(int(end_s / 0.026))]
    jittered = [sum(steps[:i]) for i in range(len(steps)) if sum(steps[:i]) < end_s]
    reference = drive(fine, frames)
    assert [level.value for _, level in changes(reference)] == [
        "NOMINAL", "SLOW", "NOMINAL", "SLOW", "NOMINAL", "HOLD", "NOMINAL", "HANDOFF", "STOP",
    ]  # fmt: skip
    for ticks_s in (
        [0.05 * i for i in range(int(end_s / 0.05))],
        [0.02 * i for i in range(int(end_s / 0.02))],
        jittered,
    ):
        trace = drive(ticks_s, frames)
        # A level may be entered a tick later, and what is counted from there again.
        for (at_s, level), (fine_s, fine_level) in zip(changes(trace), changes(reference), strict=True):
            assert level is fine_level
            assert fine_s - 0.0011 <= at_s <= fine_s + 0.12
        for now_s, level, factor in trace:
            _, fine_level, fine_factor = reference[min(int(now_s / 0.001), len(reference) - 1)]
            if level is fine_level and level is not Level.STOP:
                assert factor == pytest.approx(fine_factor, abs=0.12)


# --- evidence


@pytest.mark.parametrize(
    ("evidence", "reason"),
    [
        (frame(0.31), "epistemic 0.31 over its HANDOFF threshold 0.3 (S=16)"),
        (frame(0.41, samples=8), "epistemic 0.41 over its HANDOFF threshold 0.4 (S=8)"),
        (frame(samples=1), "1 samples, but thresholds are known only from 2 on"),
        (frame(math.nan), "the score epistemic is nan"),
        (Evidence({"epistemic": 0.0}, 16), "the score density is missing"),
        (frame(age_s=0.5), "the assessment is 0.50 s old, at most 0.3 s are allowed"),
        (frame(age_s=-0.5), "the assessment is from 0.50 s in the future"),
        (frame(age_s=math.inf), "the age of the assessment is inf"),
        (INVALID, "the output is not finite"),
        (Evidence({}, 16, 0.0, ""), "the assessment is invalid"),
    ],
)
def test_reasons_say_what_was_found_and_what_is_allowed(evidence: Evidence, reason: str) -> None:
    robot = nominal()
    robot.tick(evidence)
    assert reason in robot.decision.reason


def test_reason_of_slow_names_the_votes() -> None:
    assert slow().decision.reason == "epistemic 0.2 over its SLOW threshold 0.1 (S=16), 2 of 5 frames"


def test_reason_of_handoff_and_stop_says_what_is_not_clear() -> None:
    robot = handoff()
    assert robot.tick(INVALID).reason == (
        "density 25 over its HANDOFF threshold 20 (S=16); not clear: the output is not finite"
    )
    assert robot.tick(GOOD).reason == "density 25 over its HANDOFF threshold 20 (S=16)"
    assert robot.tick(GOOD, human_in_control=True).reason == "a human has control"
    assert robot.tick(INVALID).reason == "handed back by a human too early; not clear: the output is not finite"
    assert stopped().decision.reason.startswith("handing over was not answered for 10 s; not clear: density 25")


def test_a_frame_uses_the_thresholds_of_the_largest_calibrated_sample_count() -> None:
    # 0.15 is over the SLOW threshold at 16 samples and below the one for 2, which 15 samples still use.
    assert Robot().run(0.5, frame(0.15, samples=15)).level is Level.NOMINAL
    assert Robot().run(0.5, frame(0.15, samples=16)).level is Level.HOLD


def test_every_score_must_be_calibrated_at_the_sample_count() -> None:
    late_density = Score(name="density", thresholds={16: Thresholds(slow=1.0, handoff=2.0)})
    spec = PolicySpec(scores=(EPISTEMIC, late_density))
    assert "known only from 16 on" in Robot(spec).run(0.5, frame(samples=8)).reason
    assert Robot(spec).run(0.5, frame(samples=16)).level is Level.NOMINAL


@pytest.mark.parametrize(
    ("scores", "reason"),
    [((), "no score to judge by"), ((EPISTEMIC, Score(name="density")), "no thresholds for density")],
)
def test_without_calibrated_scores_nothing_drives(scores: tuple[Score, ...], reason: str) -> None:
    decision = Robot(PolicySpec(scores=scores)).run(2.0, GOOD)
    assert decision.level is Level.HOLD
    assert reason in decision.reason


# --- commands


def test_a_command_is_scaled_on_all_axes_alike() -> None:
    assert limit_command([2.0, -1.0, 0.0], Decision(Level.SLOW, 0.5, "")) == (1.0, -0.5, 0.0)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_command_with_any_axis_not_finite_is_zero_on_every_axis(bad: float) -> None:
    assert limit_command([1.0, bad], Decision(Level.NOMINAL, 1.0, "")) == (0.0, 0.0)


@pytest.mark.parametrize("factor", [math.nan, -0.5, 1.5, math.inf, 0.0])
def test_a_factor_that_is_none_passes_nothing(factor: float) -> None:
    assert limit_command([1.0, -2.0], Decision(Level.NOMINAL, factor, "")) == (0.0, 0.0)


def test_importing_the_policy_loads_no_numpy_and_no_engine() -> None:
    code = "import sys, edge_bdl.policy; print(sorted({'numpy', 'onnxruntime', 'torch'} & set(sys.modules)))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"
