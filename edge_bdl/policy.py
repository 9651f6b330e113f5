"""HOLD / NOMINAL / SLOW / HANDOFF / STOP: how much of a command may pass, and why.

Pure: time, evidence and human events come in, a decision goes out; there is no clock and no I/O here. What leads from
level to level is the table ``TRANSITIONS``; its events are the functions above it, each of which answers with the
reason where it happens and with None where it does not. Whatever is late, missing, non-finite or not calibrated takes
the restrictive way.
"""

from __future__ import annotations

import enum
import itertools
import math
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence

import msgspec

from edge_bdl.errors import InputError
from edge_bdl.policy_spec import PolicyConfig, PolicySpec, Score, Thresholds


class Level(enum.Enum):
    """How far the network is trusted."""

    HOLD = "HOLD"
    NOMINAL = "NOMINAL"
    SLOW = "SLOW"
    HANDOFF = "HANDOFF"
    STOP = "STOP"


class Evidence(msgspec.Struct, frozen=True):
    """What one frame says.

    Attributes:
        scores: One number per score, larger = worse.
        samples: Members that the scores were computed from.
        age_s: Age of the image when this was handed to the policy, seconds.
        fault: Why the scores mean nothing; None where they are valid.
    """

    scores: Mapping[str, float]
    samples: int
    age_s: float = 0.0
    fault: str | None = None


class Decision(msgspec.Struct, frozen=True):
    """What the robot may do now.

    Attributes:
        level: How far the network is trusted.
        speed_factor: Largest share of a command that may pass, in [0, 1].
        reason: Why, for people.
    """

    level: Level
    speed_factor: float
    reason: str


def limit_command(command: Sequence[float], decision: Decision) -> tuple[float, ...]:
    """Scale a command by a decision; all axes alike, so that a curve keeps its radius.

    Args:
        command: Velocities of any number of axes, any units.
        decision: Its ``speed_factor`` counts as 0 where it is not in [0, 1].

    Returns:
        The command scaled: no axis larger than it came or of the other sign; zeros where any axis is not finite.
    """
    factor = decision.speed_factor
    if not 0.0 < factor <= 1.0 or not all(map(math.isfinite, command)):
        return (0.0,) * len(command)
    return tuple(factor * axis for axis in command)


class _Verdict(msgspec.Struct, frozen=True):
    """One frame's evidence, judged: texts where something is wrong, None where it is not."""

    fault: str | None = None
    over_slow: str | None = None
    over_handoff: str | None = None
    speed_factor: float = 0.0

    @property
    def objection(self) -> str | None:
        """Why conditions are not clear."""
        return self.fault or self.over_slow


class _Judge:
    """Holds evidence against the thresholds of a bundle."""

    def __init__(self, spec: PolicySpec) -> None:
        self._config = spec.config
        uncalibrated = [score.name for score in spec.scores if not score.thresholds]
        self._fault = None
        if not spec.scores:
            self._fault = "no score to judge by: export the bundle with calibration frames"
        elif uncalibrated:
            self._fault = f"no thresholds for {', '.join(uncalibrated)}: export the bundle with calibration frames"
        counts = sorted({count for score in spec.scores for count in score.thresholds})
        self._by_count = [(count, limits) for count in counts if (limits := _limits_at(spec.scores, count))]
        self._counts = [count for count, _ in self._by_count]

    def __call__(self, evidence: Evidence) -> _Verdict:
        fault = self._fault or self._fault_of(evidence)
        return _Verdict(fault=fault) if fault else self._verdict_on(evidence)

    def _fault_of(self, evidence: Evidence) -> str | None:
        age_s = evidence.age_s
        if evidence.fault is not None:
            return evidence.fault or "the assessment is invalid"
        if not math.isfinite(age_s):
            return f"the age of the assessment is {age_s}"
        if age_s < -self._config.future_tolerance_s:
            return f"the assessment is from {-age_s:.2f} s in the future"
        if age_s > self._config.assessment_timeout_s:
            return f"the assessment is {age_s:.2f} s old, at most {self._config.assessment_timeout_s:g} s are allowed"
        if not evidence.samples >= self._counts[0]:
            return f"{evidence.samples} samples, but thresholds are known only from {self._counts[0]} on"
        return None

    def _verdict_on(self, evidence: Evidence) -> _Verdict:
        over_slow = over_handoff = None
        factor = 1.0
        for name, limits in self._by_count[bisect_right(self._counts, evidence.samples) - 1][1]:
            value = evidence.scores.get(name)
            if value is None:
                return _Verdict(fault=f"the score {name} is missing")
            if not math.isfinite(value):
                return _Verdict(fault=f"the score {name} is {value}")
            if over_slow is None and value > limits.slow:
                over_slow = _over(name, value, Level.SLOW, limits.slow, evidence.samples)
            if over_handoff is None and value > limits.handoff:
                over_handoff = _over(name, value, Level.HANDOFF, limits.handoff, evidence.samples)
            allowed = _interpolate(limits.speed_curve, value) if limits.speed_curve else self._config.slow_factor
            factor = min(factor, allowed)
        return _Verdict(over_slow=over_slow, over_handoff=over_handoff, speed_factor=factor)


def _limits_at(scores: Sequence[Score], samples: int) -> tuple[tuple[str, Thresholds], ...] | None:
    """Thresholds of all scores for ``samples`` members, None where one of them has none."""
    limits = [(score.name, at) for score in scores if (at := score.at(samples)) is not None]
    return tuple(limits) if len(limits) == len(scores) else None


def _over(name: str, value: float, level: Level, limit: float, samples: int) -> str:
    return f"{name} {value:.3g} over its {level.value} threshold {limit:.3g} (S={samples})"


def _interpolate(curve: tuple[tuple[float, float], ...], score: float) -> float:
    """Speed factor at ``score``: linear between the points, constant beyond them."""
    if score <= curve[0][0]:
        return curve[0][1]
    for (left, before), (right, after) in itertools.pairwise(curve):
        if score <= right:
            return before + (after - before) * (score - left) / (right - left)
    return curve[-1][1]


class _State(msgspec.Struct):
    """All that the policy remembers. Durations are summed up, so that a clock set back shortens none of them."""

    config: PolicyConfig
    level: Level
    reason: str
    has_driven: bool
    now_s: float | None = None
    in_level_s: float = 0.0  # stands still while a human has control: nobody is kept waiting for an answer
    slow_spent_s: float = 0.0
    # The newest frame.
    verdict: _Verdict = _Verdict(fault="no assessment yet")
    age_s: float = 0.0
    below_s: float = 0.0  # since a score was over its SLOW threshold
    # The frames since this level was entered.
    good_in_row: int = 0
    votes: int = 0  # one bit per frame, the newest lowest: set where a score was over its SLOW threshold
    # The people.
    human_in_control: bool = False
    handed_back: bool = False
    acknowledged: bool = False
    standstill: bool = False
    # The limit.
    factor: float = 0.0
    last_factor: float = 0.0
    ramp_from: float = 0.0


# An event answers with the reason where it happens, with None where it does not.
Event = Callable[[_State], str | None]


def human_has_control(state: _State) -> str | None:
    """A human drives: whatever the network thinks, it has nothing to say until it is handed back to."""
    return "a human took control" if state.human_in_control else None


def unknown(state: _State) -> str | None:
    """There is no valid, fresh evidence."""
    return state.verdict.fault


def enough_good(state: _State) -> str | None:
    """Good assessments came in a row, long enough to start."""
    enough = state.good_in_row >= state.config.good_frames_to_start
    return f"{state.good_in_row} good assessments in a row" if enough else None


def held_too_long(state: _State) -> str | None:
    """It drove, was held, and nothing has become better."""
    if state.has_driven and state.in_level_s >= state.config.hold_to_stop_s:
        return f"held for {state.config.hold_to_stop_s:g} s"
    return None


def over_handoff(state: _State) -> str | None:
    """The newest frame is over a HANDOFF threshold: one is enough."""
    return state.verdict.over_handoff


def over_handoff_after_driving(state: _State) -> str | None:
    """Before it has driven a robot waits for good assessments as long as it takes, and nobody need be asked."""
    return state.verdict.over_handoff if state.has_driven else None


def voted_slow(state: _State) -> str | None:
    """Several of the newest frames are over a SLOW threshold: a single one is not enough."""
    config = state.config
    if state.votes.bit_count() < config.slow_votes:
        return None
    return f"{state.verdict.over_slow}, {config.slow_votes} of {config.slow_window} frames"


def slow_budget_spent(state: _State) -> str | None:
    """Slow for so long that somebody should look."""
    budget_s = state.config.slow_budget_s
    return f"the budget of {budget_s:g} s of SLOW is spent" if state.slow_spent_s >= budget_s else None


def below_long_enough(state: _State) -> str | None:
    """The SLOW thresholds have been kept for a while."""
    release_s = state.config.slow_release_s
    return f"below the SLOW thresholds for {release_s:g} s" if state.below_s >= release_s else None


def handed_back_clear(state: _State) -> str | None:
    """A human drove, and hands back in clear conditions."""
    return "handed back by a human" if state.handed_back and state.verdict.objection is None else None


def handed_back_unclear(state: _State) -> str | None:
    """A human hands back although conditions are not clear: ask again."""
    return "handed back by a human too early" if state.handed_back and state.verdict.objection is not None else None


def acknowledged_clear(state: _State) -> str | None:
    """An acknowledgement counts at its moment only: one given in fog must not start the robot when the fog lifts."""
    clear = state.verdict.objection is None and not state.human_in_control
    return "acknowledged" if state.acknowledged and clear else None


def acknowledged_clear_at_standstill(state: _State) -> str | None:
    """Out of STOP the robot must stand still besides."""
    return acknowledged_clear(state) if state.standstill else None


def unanswered(state: _State) -> str | None:
    """Nobody took control or acknowledged in clear conditions."""
    limit_s = state.config.handoff_to_stop_s
    return f"handing over was not answered for {limit_s:g} s" if state.in_level_s >= limit_s else None


# The first event that happens decides.
TRANSITIONS: dict[Level, tuple[tuple[Event, Level], ...]] = {
    Level.HOLD: (
        (human_has_control, Level.HANDOFF),
        (over_handoff_after_driving, Level.HANDOFF),
        (held_too_long, Level.STOP),
        (enough_good, Level.NOMINAL),
    ),
    Level.NOMINAL: (
        (human_has_control, Level.HANDOFF),
        (unknown, Level.HOLD),
        (over_handoff, Level.HANDOFF),
        (voted_slow, Level.SLOW),
    ),
    Level.SLOW: (
        (human_has_control, Level.HANDOFF),
        (unknown, Level.HOLD),
        (over_handoff, Level.HANDOFF),
        (slow_budget_spent, Level.HANDOFF),
        (below_long_enough, Level.NOMINAL),
    ),
    Level.HANDOFF: (
        (handed_back_clear, Level.HOLD),
        (handed_back_unclear, Level.HANDOFF),
        (unanswered, Level.STOP),
        (acknowledged_clear, Level.HOLD),
    ),
    Level.STOP: ((acknowledged_clear_at_standstill, Level.HOLD),),
}


class Policy:
    """The state machine. One object per robot, one ``step`` per tick.

    Args:
        spec: Thresholds and times, from the manifest.
        stopped: Why to come up in a latched STOP: the persisted ``latched`` was set, or could not be read.
    """

    def __init__(self, spec: PolicySpec, *, stopped: str | None = None) -> None:
        self._spec = spec
        self._judge = _Judge(spec)
        self._state = _State(
            config=spec.config,
            level=Level.HOLD if stopped is None else Level.STOP,
            reason="started" if stopped is None else stopped,
            has_driven=stopped is not None,
        )

    @property
    def level(self) -> Level:
        """Where the last step ended."""
        return self._state.level

    @property
    def latched(self) -> bool:
        """Whether a restart must come up stopped: in STOP, and in a HANDOFF that nobody has answered yet."""
        return self._state.level in (Level.HANDOFF, Level.STOP)

    @property
    def clear(self) -> bool:
        """Whether the newest frame is valid, fresh, and below every SLOW threshold."""
        return self._state.verdict.objection is None

    def reconfigure(self, spec: PolicySpec) -> None:
        """Take other thresholds and times: NOMINAL and SLOW fall back to HOLD, HANDOFF and STOP stay."""
        self._spec = spec
        self._judge = _Judge(spec)
        self._state.config = spec.config
        self._learn(_Verdict(fault="reconfigured, no assessment yet"), 0.0)
        self._transit()
        self._tighten()

    def snapshot(self) -> bytes:
        """All that is remembered, thresholds apart: after the same steps a restored policy decides the same."""
        return msgspec.msgpack.encode(self._state)

    def restore(self, snapshot: bytes) -> None:
        """Go on from a snapshot of a policy with the same thresholds.

        Raises:
            InputError: It is no snapshot of this version's policy.
        """
        try:
            state = msgspec.msgpack.decode(snapshot, type=_State)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise InputError(f"this is no snapshot of a policy of this version: {error}") from error
        self._spec = msgspec.structs.replace(self._spec, config=state.config)
        self._judge = _Judge(self._spec)
        self._state = state

    def step(
        self,
        now_s: float,
        evidence: Evidence | None = None,
        *,
        acknowledged: bool = False,
        human_in_control: bool = False,
        standstill: bool = False,
    ) -> Decision:
        """Decide for this tick.

        Args:
            now_s: Monotonic time, seconds, any origin. Not finite, or before the last step's, is a fault.
            evidence: What came since the last step; None where nothing new did, and the last one goes on aging.
            acknowledged: A human acknowledged since the last step.
            human_in_control: Whether a human drives, for as long as that lasts.
            standstill: Whether the robot is known to stand still.
        """
        state = self._state
        clock_fault = self._advance(now_s)
        # What time alone has done comes first: evidence that went late must not be covered up by the one after it.
        self._transit()
        if clock_fault is not None:
            self._learn(_Verdict(fault=clock_fault), 0.0)
            state.factor = 0.0  # no ramp without a clock
        elif evidence is not None:
            self._learn(self._judge(evidence), evidence.age_s)
        state.handed_back = state.human_in_control and not human_in_control
        state.human_in_control = human_in_control
        state.acknowledged = acknowledged
        state.standstill = standstill
        self._transit()
        self._tighten()
        return Decision(state.level, state.factor, self._reason())

    def _advance(self, now_s: float) -> str | None:
        """Let time pass: timers, budget, ramps and the age of what is known. Returns the clock's fault."""
        state, config = self._state, self._state.config
        state.acknowledged = state.handed_back = False
        state.last_factor = state.factor
        if not math.isfinite(now_s):
            return f"the clock says {now_s}"
        passed_s = 0.0 if state.now_s is None else now_s - state.now_s
        state.now_s = now_s
        if passed_s < 0.0:
            return f"the clock went back by {-passed_s:.3g} s"
        self._ramp(passed_s)
        state.age_s += passed_s
        if state.verdict.fault is None and state.age_s > config.assessment_timeout_s:
            self._learn(_Verdict(fault=f"no assessment of the last {config.assessment_timeout_s:g} s"), state.age_s)
        return None

    def _ramp(self, passed_s: float) -> None:
        state, config = self._state, self._state.config
        state.in_level_s = 0.0 if state.human_in_control else state.in_level_s + passed_s
        state.below_s = state.below_s + passed_s if state.verdict.over_slow is None else 0.0
        if state.level is Level.SLOW:
            state.slow_spent_s += passed_s
        else:
            state.slow_spent_s = max(0.0, state.slow_spent_s - config.budget_recharge * passed_s)
        ramp_s = self._ramp_to_zero_s()
        if ramp_s > 0.0:
            # The ramp may have been made longer on the way.
            state.factor = min(state.factor, state.ramp_from * max(0.0, 1.0 - state.in_level_s / ramp_s))
        else:
            state.factor = min(self._allowed(), state.factor + config.loosen_per_s * passed_s)

    def _learn(self, verdict: _Verdict, age_s: float) -> None:
        state = self._state
        state.verdict = verdict
        state.age_s = max(age_s, 0.0)
        state.good_in_row = state.good_in_row + 1 if verdict.objection is None else 0
        state.votes = (state.votes << 1 | (verdict.over_slow is not None)) & (1 << state.config.slow_window) - 1

    def _transit(self) -> None:
        state = self._state
        for event, target in TRANSITIONS[state.level]:
            reason = event(state)
            if reason is not None:
                state.level, state.reason = target, reason
                state.in_level_s, state.good_in_row, state.votes = 0.0, 0, 0
                # What the old level would have loosened since the last tick is not given out by the new one.
                state.factor = state.ramp_from = min(state.factor, state.last_factor)
                state.has_driven |= target is Level.NOMINAL
                return

    def _ramp_to_zero_s(self) -> float:
        """How long this level takes to reach zero; 0 where it is there at once, or does not go there."""
        config = self._state.config
        if self._state.level is Level.HANDOFF:
            return config.handoff_ramp_s
        return config.hold_ramp_s if self._state.level is Level.HOLD else 0.0

    def _allowed(self) -> float:
        """The speed factor that the level and the newest frame allow, ramps apart."""
        state = self._state
        if state.level is Level.STOP or state.human_in_control:
            return 0.0
        if state.level is Level.HOLD:
            return 1.0 if state.config.hold_ramp_s > 0.0 else 0.0
        if state.verdict.fault is not None:
            return 0.0
        return state.verdict.speed_factor if state.level is Level.SLOW else 1.0

    def _tighten(self) -> None:
        state = self._state
        state.factor = min(state.factor, self._allowed())
        state.ramp_from = min(state.ramp_from, self._allowed())

    def _reason(self) -> str:
        """Why this level, and what keeps it from being left."""
        state = self._state
        objection = state.verdict.objection
        if state.level in (Level.NOMINAL, Level.SLOW):
            return state.reason
        if state.human_in_control and state.level is Level.HANDOFF:
            return "a human has control"
        if state.level is not Level.HOLD:
            return state.reason if objection is None else f"{state.reason}; not clear: {objection}"
        if objection is None and state.good_in_row > 0:
            return f"{state.good_in_row} of {state.config.good_frames_to_start} good assessments in a row"
        return objection or state.reason
