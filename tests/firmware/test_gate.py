"""The gate's rules, one by one: commands, assessments, objections, people."""

from __future__ import annotations

import math

import pytest

from edge_bdl.policy_spec import PolicyConfig, PolicySpec, Score, Thresholds
from edge_bdl_firmware.gate import Gate, GateConfig
from edge_bdl_firmware.messages import Assessment, Command, Human, Step

BUNDLE, BOOT = "b" * 64, "boot"
LIMITS = {4: Thresholds(slow=1.0, handoff=2.0)}
SPEC = PolicySpec(scores=(Score(name="epistemic", thresholds=LIMITS), Score(name="density", thresholds=LIMITS)))
TICK_S = 0.05
GOOD, OVER_SLOW, OVER_HANDOFF = 0.5, 1.5, 3.0
ZERO = (0.0, 0.0, 0.0)


class Car:
    """A gate, its clock, a camera and a controller."""

    def __init__(
        self, spec: PolicySpec = SPEC, config: GateConfig | None = None, *, stopped: str | None = None
    ) -> None:
        self.gate = Gate(spec, BUNDLE, BOOT, config or GateConfig(), stopped=stopped, axes=3)
        self.now_s = 100.0
        self.frames = 0

    def tick(self) -> Step:
        self.now_s += TICK_S
        return self.gate.tick(self.now_s)

    def see(self, score: float = GOOD, **fields: object) -> Step:
        """The next frame, 10 ms old."""
        self.frames += 1
        whole: dict[str, object] = {
            "sequence": self.frames, "stamp_ns": self.frames, "received_s": self.now_s - 0.01, "boot_id": BOOT,
            "bundle": BUNDLE, "scores": {"epistemic": score, "density": 0.0}, "samples": 16,
        }  # fmt: skip
        return self.gate.assess(self.now_s, Assessment(**{**whole, **fields}))  # type: ignore[arg-type]

    def command(self, *axes: float, kept: tuple[float, ...] = ()) -> Step | None:
        return self.gate.command(self.now_s, Command(axes=axes, kept=kept))

    def human(self, act: str) -> Step:
        return self.gate.human(self.now_s, Human(act=act))  # type: ignore[arg-type]

    def run(self, seconds: float, *axes: float, score: float | None = GOOD) -> Step:
        """Ticks, with a frame and a command in each where they are given."""
        for _ in range(round(seconds / TICK_S)):
            step = self.tick()
            if score is not None:
                step = self.see(score)
            if axes:
                step = self.command(*axes) or step
        return step


@pytest.fixture
def car() -> Car:
    return Car()


@pytest.fixture
def driving() -> Car:
    """At full speed."""
    driven = Car()
    step = driven.run(3.0, 1.0, -2.0, 0.5)
    assert (step.level, step.output) == ("NOMINAL", (1.0, -2.0, 0.5))
    return driven


def stopped_car() -> Car:
    return Car(stopped="stopped before the restart")


# --- commands


def test_before_the_first_command_zeros_go_out_for_every_axis(car: Car) -> None:
    step = car.tick()
    assert (step.level, step.command, step.output, step.kept) == ("HOLD", None, ZERO, ())


def test_without_assessments_no_command_passes(car: Car) -> None:
    step = car.run(5.0, 1.0, 2.0, 3.0, score=None)
    assert (step.level, step.command, step.output) == ("HOLD", (1.0, 2.0, 3.0), ZERO)


def test_after_five_good_assessments_the_speed_is_given_out_by_a_ramp(car: Car) -> None:
    levels = []
    for _ in range(5):
        car.tick()
        levels.append(car.see().level)
    assert levels == ["HOLD"] * 4 + ["NOMINAL"]
    entered_s = car.now_s
    for _ in range(60):
        car.tick()
        car.see()
        step = car.command(1.0, -2.0, 0.0)
        assert step is not None
        factor = min(1.0, 0.5 * (car.now_s - entered_s))
        assert step.output == pytest.approx((factor, -2.0 * factor, 0.0))


def test_a_command_is_passed_on_as_it_comes(driving: Car) -> None:
    driving.now_s += 0.02
    step = driving.command(0.1, 0.2, 0.3)
    assert step is not None
    assert (step.trigger, step.output) == ("command", (0.1, 0.2, 0.3))


def test_a_command_lasts_until_its_timeout_and_no_longer(driving: Car) -> None:
    driving.gate.config = GateConfig(command_timeout_s=0.2)
    said_s = driving.now_s
    for _ in range(8):
        driving.tick()
        step = driving.see()
        assert step.output == ((1.0, -2.0, 0.5) if driving.now_s - said_s <= 0.2 else ZERO)
    assert (step.level, step.command) == ("NOMINAL", None)  # an idle robot is not a fault


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", ["axes", "kept"])
def test_a_command_with_any_number_that_is_none_stops_at_once_and_leaves_none_before_it(
    bad: float, where: str, driving: Car
) -> None:
    driving.now_s += 0.02
    axes, kept = ((1.0, bad, 0.0), (0.3,)) if where == "axes" else ((1.0, 1.0, 0.0), (0.3, bad))
    step = driving.command(*axes, kept=kept)
    assert step is not None
    assert (step.command, step.output, step.level) == (None, ZERO, "NOMINAL")
    assert driving.tick().output == ZERO


def test_a_burst_is_not_passed_on_one_by_one_but_its_newest_goes_out_with_the_next_tick(driving: Car) -> None:
    driving.now_s += 0.02
    assert driving.command(0.1, 0.0, 0.0) is not None
    for number in range(50):
        driving.now_s += 0.0001
        assert driving.command(0.0, float(number), 0.0) is None
    assert driving.tick().output == (0.0, 49.0, 0.0)


def test_within_a_burst_a_command_that_is_none_stops_at_once(driving: Car) -> None:
    driving.now_s += 0.02
    driving.command(0.1, 0.0, 0.0)
    step = driving.command(math.nan, 0.0, 0.0)
    assert step is not None
    assert step.output == ZERO
    driving.now_s += 0.02
    assert driving.see().output == ZERO


def test_what_is_kept_passes_untouched_and_the_last_valid_one_stays(driving: Car) -> None:
    driving.now_s += 0.02
    driving.command(0.1, 0.0, 0.0, kept=(0.3,))
    driving.see(OVER_HANDOFF)
    assert driving.tick().kept == (0.3,)
    driving.command(math.nan, 0.0, 0.0, kept=(0.7,))
    assert driving.tick().kept == (0.3,)
    driving.command(0.1, 0.0, 0.0, kept=(math.nan,))
    assert driving.tick().kept == (0.3,)
    driving.run(1.0, score=None)
    assert driving.tick().kept == (0.3,)  # wheels stay where they are while the robot brakes


def test_the_zeros_have_the_newest_commands_number_of_axes(car: Car) -> None:
    car.command(1.0, 2.0)
    assert car.tick().output == (0.0, 0.0)
    car.command(*[1.0] * 6)
    assert car.run(1.0, score=None).output == (0.0,) * 6
    car.command(math.nan)
    assert car.tick().output == (0.0,)


def test_a_command_without_any_number_counts_as_none_and_takes_no_zeros_away(driving: Car) -> None:
    driving.now_s += 0.02
    step = driving.command()
    assert step is not None
    assert (step.command, step.output) == (None, ZERO)


@pytest.mark.parametrize("held_up_s", [0.3, 0.45, 10.0])
def test_commands_that_waited_while_the_gate_was_held_up_do_not_count_as_fresh(held_up_s: float, driving: Car) -> None:
    """They come out of the queue as if they were new; how long they waited there nobody knows."""
    driving.now_s += held_up_s
    for _ in range(20):
        driving.now_s += 0.001
        assert driving.command(1.0, 1.0, 1.0) is None
        assert driving.see().output == ZERO
    assert driving.tick().output == ZERO
    driving.now_s += TICK_S
    step = driving.command(1.0, 1.0, 1.0)  # and from now on they are new again
    assert step is not None
    assert step.command == (1.0, 1.0, 1.0)


# --- assessments


def refused(car: Car, step: Step, reason: str) -> None:
    assert (step.level, step.output, step.speed_factor) == ("HOLD", ZERO, 0.0)
    assert step.fault is not None
    assert reason in step.fault
    assert reason in step.reason


def test_an_assessment_by_another_bundle_holds(driving: Car) -> None:
    refused(driving, driving.see(bundle="c" * 64), f"assessed by the bundle {'c' * 12}, this gate has {'b' * 12}")


def test_an_assessment_from_another_machine_holds(driving: Car) -> None:
    refused(driving, driving.see(boot_id="other"), "assessed on another machine")


def test_an_assessment_that_comes_again_holds(driving: Car) -> None:
    driving.tick()
    driving.see(received_s=driving.now_s - 0.01)
    refused(driving, driving.see(received_s=driving.now_s - 0.01), "of the same frame, or of an older one")


def test_an_assessment_of_an_older_frame_holds(driving: Car) -> None:
    driving.tick()
    driving.see(received_s=driving.now_s - 0.01)
    driving.tick()
    refused(driving, driving.see(received_s=driving.now_s - 0.01 - 2 * TICK_S), "of the same frame, or of an older one")


@pytest.mark.parametrize("ahead_s", [0.0, 0.05, 0.09])
def test_one_assessment_however_often_it_comes_is_one_good_one(ahead_s: float, car: Car) -> None:
    received_s = car.now_s + ahead_s
    levels = set()
    for _ in range(50):
        car.now_s += 0.001
        levels.add(car.see(received_s=received_s).level)
    assert levels == {"HOLD"}


@pytest.mark.parametrize("ahead_s", [0.11, 1.0, 1e9, math.inf])
def test_an_assessment_from_the_future_holds_and_those_that_follow_count_again_soon(
    ahead_s: float, driving: Car
) -> None:
    step = driving.see(received_s=driving.now_s + ahead_s)
    assert (step.level, step.output) == ("HOLD", ZERO)
    assert "future" in step.reason or "age" in step.reason
    assert driving.run(0.5).level == "NOMINAL"


@pytest.mark.parametrize("received_s", [math.nan, -math.inf])
def test_an_assessment_received_at_no_time_holds_and_those_that_follow_count(received_s: float, driving: Car) -> None:
    assert driving.see(received_s=received_s).level == "HOLD"
    assert driving.run(0.3).level == "NOMINAL"


def test_an_assessment_ages_while_it_waits_for_us(driving: Car) -> None:
    driving.run(1.0, score=None)
    step = driving.see(received_s=driving.now_s - 0.31)
    assert step.level == "HOLD"
    assert "0.31 s old" in step.reason


def test_evidence_that_went_late_between_two_ticks_holds_back_a_command_that_comes_then(driving: Car) -> None:
    driving.tick()
    driving.see(received_s=driving.now_s - 0.28)
    driving.now_s += 0.03
    step = driving.command(1.0, 1.0, 1.0)
    assert step is not None
    assert (step.level, step.output) == ("HOLD", ZERO)


@pytest.mark.parametrize(
    "fields",
    [
        {"fault": "all members are equal"}, {"scores": {"epistemic": math.nan, "density": 0.0}}, {"scores": {}},
        {"scores": {"epistemic": 0.1}}, {"samples": 3}, {"samples": -1}, {"fault": ""},
        {"scores": {"epistemic": 0.1, "density": 0.1, "other": math.inf}},
    ],
    ids=["fault", "nan", "no scores", "one missing", "too few", "negative", "empty fault", "inf of another score"],
)  # fmt: skip
def test_evidence_that_is_none_holds(fields: dict[str, object], driving: Car) -> None:
    step = driving.see(**fields)  # type: ignore[arg-type]
    assert (step.level, step.output) == ("HOLD", ZERO)


def test_what_comes_instead_of_an_assessment_holds_and_says_why(driving: Car) -> None:
    step = driving.gate.refuse(driving.now_s, "the assessment lacks samples")
    assert (step.level, step.output, step.trigger, step.assessment) == ("HOLD", ZERO, "assessment", None)
    assert step.reason == step.fault == "the assessment lacks samples"


def test_bad_news_need_not_wait_for_a_tick(driving: Car) -> None:
    driving.now_s += 0.02
    assert driving.see(OVER_SLOW).output == (1.0, -2.0, 0.5)
    driving.now_s += 0.001
    assert driving.see(OVER_SLOW, received_s=driving.now_s).output == (0.5, -1.0, 0.25)


# --- objections


def test_while_somebody_objects_nothing_passes(driving: Car) -> None:
    driving.gate.object("disk", "the disk does not answer")
    refused(driving, driving.tick(), "the disk does not answer")
    refused(driving, driving.see(), "the disk does not answer")
    assert driving.command(1.0, 1.0, 1.0).output == ZERO  # type: ignore[union-attr]
    driving.gate.object("guard", "another one")
    driving.gate.object("disk", None)
    refused(driving, driving.tick(), "another one")
    driving.gate.object("guard", None)
    driving.gate.object("never there", None)
    assert [driving.run(TICK_S).level for _ in range(5)] == ["HOLD"] * 4 + ["NOMINAL"]


# --- people


def acknowledge(car: Car) -> Step:
    car.tick()
    car.see()
    return car.human("acknowledge")


def test_stop_is_left_at_standstill_in_clear_conditions_when_a_human_acknowledges() -> None:
    car = stopped_car()
    assert car.gate.latched
    assert acknowledge(car).level == "STOP"  # it is not known yet to stand still
    car.run(1.1)
    step = acknowledge(car)
    assert (step.level, step.standstill, step.acknowledged) == ("HOLD", True, True)
    assert not car.gate.latched


def test_stop_is_not_left_without_evidence() -> None:
    car = stopped_car()
    car.run(2.0, score=None)
    assert car.human("acknowledge").level == "STOP"
    car.run(2.0, score=OVER_SLOW)
    assert car.human("acknowledge").level == "STOP"


def test_after_zeros_for_a_second_the_robot_is_taken_to_stand_still(driving: Car) -> None:
    driving.tick()
    driving.see(fault="blind")
    for _ in range(19):
        assert not driving.tick().standstill
    driving.tick()
    assert driving.tick().standstill


def test_while_a_human_drives_the_robot_does_not_stand_still() -> None:
    """The zeros are ours; what moves the robot is not."""
    car = stopped_car()
    car.run(2.0)
    assert car.tick().standstill
    car.human("take_control")
    car.run(5.0)
    assert not car.tick().standstill
    car.human("release_control")
    assert acknowledge(car).level == "STOP"
    car.run(1.1)
    assert acknowledge(car).level == "HOLD"


def test_a_human_takes_control_and_gives_it_back(driving: Car) -> None:
    step = driving.human("take_control")
    assert (step.level, step.output, step.human_in_control) == ("HANDOFF", ZERO, True)
    assert driving.gate.human_in_control
    step = driving.run(20.0, 1.0, 1.0, 1.0)
    assert (step.level, step.output) == ("HANDOFF", ZERO)
    step = driving.human("release_control")
    assert (step.level, step.human_in_control) == ("HOLD", False)
    assert driving.run(0.3).level == "NOMINAL"


def test_human_acts_are_steps_of_their_own(car: Car) -> None:
    for act in ("acknowledge", "take_control", "release_control", "set_bypass", "end_bypass"):
        car.now_s += 0.01
        assert car.human(act).trigger == "human"


# --- the bypass


CONFIG = GateConfig(bypass_factor=0.2, bypass_limit_s=5.0)


@pytest.fixture
def stuck() -> Car:
    car = Car(config=CONFIG, stopped="stopped before the restart")
    car.run(0.5, 1.0, -2.0, 0.0, score=None)
    return car


def test_with_the_bypass_a_share_of_the_command_passes_whatever_the_level(stuck: Car) -> None:
    step = stuck.human("set_bypass")
    assert (step.level, step.bypass) == ("STOP", True)
    assert step.output == pytest.approx((0.2, -0.4, 0.0))
    assert step.speed_factor == 0.0  # what the policy says stays what it says


def test_the_bypass_is_a_limit_also_where_the_level_would_allow_more(driving: Car) -> None:
    driving.human("set_bypass")
    step = driving.run(0.1, 1.0, -2.0, 0.0)
    assert step.level == "NOMINAL"
    assert step.output == pytest.approx((0.3, -0.6, 0.0))


def test_the_bypass_needs_a_fresh_valid_command(stuck: Car) -> None:
    stuck.human("set_bypass")
    stuck.now_s += 0.02
    assert stuck.command(math.nan, 0.0, 0.0).output == ZERO  # type: ignore[union-attr]
    stuck.run(0.2, 1.0, 0.0, 0.0, score=None)
    assert stuck.run(0.6, score=None).output == ZERO


def test_the_bypass_ends_by_itself(stuck: Car) -> None:
    stuck.human("set_bypass")
    assert stuck.run(4.9, 1.0, 0.0, 0.0, score=None).output == (0.2, 0.0, 0.0)
    assert stuck.run(0.2, 1.0, 0.0, 0.0, score=None).output == ZERO
    assert not stuck.tick().bypass


@pytest.mark.parametrize("act", ["end_bypass", "take_control"])
def test_a_human_ends_the_bypass(act: str, stuck: Car) -> None:
    stuck.human("set_bypass")
    step = stuck.human(act)
    assert (step.bypass, step.output) == (False, ZERO)
    stuck.human("release_control")
    assert not stuck.tick().bypass  # nor does it come back


def test_while_a_human_drives_there_is_no_bypass(stuck: Car) -> None:
    stuck.human("take_control")
    step = stuck.human("set_bypass")
    assert (step.bypass, step.output) == (False, ZERO)
    stuck.human("release_control")
    assert not stuck.tick().bypass


def test_the_bypass_does_not_survive_a_clock_that_goes_back_or_other_times(stuck: Car) -> None:
    stuck.human("set_bypass")
    stuck.now_s -= 1.0
    assert not stuck.tick().bypass
    stuck.now_s += 1.0
    stuck.human("set_bypass")
    stuck.gate.reconfigure(SPEC, CONFIG)
    assert not stuck.tick().bypass


def test_driving_by_bypass_is_not_standing_still() -> None:
    car = Car(stopped="stopped before the restart")
    car.run(2.0)
    car.human("set_bypass")
    assert car.run(2.0, 1.0, 0.0, 0.0).level == "STOP"
    assert acknowledge(car).level == "STOP"


# --- clocks and other times


@pytest.mark.parametrize("now_s", [99.0, 0.0, math.nan, math.inf, -math.inf])
def test_a_clock_that_is_wrong_holds(now_s: float, driving: Car) -> None:
    assert driving.gate.tick(now_s).output == ZERO
    assert driving.gate.level.value == "HOLD"


@pytest.mark.parametrize("hold_ramp_s", [0.0, 1.0])
def test_other_times_hold_at_once_or_by_the_ramp_and_never_let_more_pass(hold_ramp_s: float, driving: Car) -> None:
    config = PolicyConfig(hold_ramp_s=hold_ramp_s)
    driving.gate.reconfigure(PolicySpec(config=config, scores=SPEC.scores), GateConfig(command_timeout_s=1.0))
    assert driving.gate.level.value == "HOLD"
    before = 1.0
    for _ in range(30):
        step = driving.run(TICK_S, 1.0, 0.0, 0.0, score=None)
        assert step.output[0] <= before
        before = step.output[0]
    assert before == 0.0


def test_other_times_are_no_way_out_of_stop() -> None:
    car = stopped_car()
    car.gate.reconfigure(SPEC, GateConfig())
    car.run(5.0)
    assert car.gate.level.value == "STOP"


@pytest.mark.parametrize("name", ["command_timeout_s", "standstill_s", "bypass_factor", "bypass_limit_s"])
@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf, 1000.0])
def test_times_and_factors_that_make_no_sense_cannot_be_set(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name} is above 0 and at most"):
        GateConfig(**{name: value})
