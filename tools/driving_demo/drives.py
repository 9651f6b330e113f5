"""One drive on a simulated track: clear, then weather the network has never seen, then clear again.

The same loop drives with and without the gate. With it, the policy limits the speed, and on HANDOFF a scripted human,
the expert, may take over. Time is the simulator's: 50 steps are a second.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from edge_bdl import Decision, Evidence, Level, Policy, Runtime
from edge_bdl_train.carracing.environment import STEPS_PER_SECOND, DrivingEnvironment
from edge_bdl_train.carracing.expert import Expert, hold_speed
from edge_bdl_train.carracing.track import HALF_ROAD_UNITS
from edge_bdl_train.carracing.weather import apply_weather

PERIOD_S = 1.0 / STEPS_PER_SECOND
STANDSTILL_SPEED = 0.5

ALONE, WITH_HUMAN, UNANSWERED = "no gate", "gate, human", "gate, nobody"


@dataclass(frozen=True)
class Plan:
    """What to drive.

    Attributes:
        mode: ``ALONE``, ``WITH_HUMAN`` or ``UNANSWERED``.
        weather: ``fog``, ``night``, ``snow``, or ``clear``.
        severity: Of the weather, in [0, 1].
        seed: Of the track and of the weather's noise.
        target_speed: What the controller asks for, units a second.
        before_s: Clear road first.
        weather_s: Then weather, rising and falling included.
        ramp_s: It takes so long to rise, and to fall.
        after_s: Then clear road again.
    """

    mode: str
    weather: str
    severity: float
    seed: int
    target_speed: float
    before_s: float = 5.0
    weather_s: float = 36.0
    ramp_s: float = 3.0
    after_s: float = 7.0

    @property
    def steps(self) -> int:
        """Steps of the whole drive."""
        return round((self.before_s + self.weather_s + self.after_s) * STEPS_PER_SECOND)

    def severity_at(self, step: int) -> float:
        """Of the weather, 0 outside of it."""
        since = step * PERIOD_S - self.before_s
        rising = min(since, self.weather_s - since) / self.ramp_s
        return self.severity * float(np.clip(rising, 0.0, 1.0))

    def in_weather(self, step: int) -> bool:
        """Whether there is any."""
        return self.severity_at(step) > 0.0


@dataclass
class Log:
    """What happened, step by step.

    Attributes:
        plan: What was driven.
        level: Level per step; NOMINAL without the gate.
        speed_factor: What the gate let pass.
        human: Whether the human drove.
        off_centre: Distance of the car from the centre line, units; half the road is 6.67.
        speed: Units a second.
        scores: Per score, per step.
    """

    plan: Plan
    level: list[str] = field(default_factory=list)
    speed_factor: list[float] = field(default_factory=list)
    human: list[bool] = field(default_factory=list)
    off_centre: list[float] = field(default_factory=list)
    speed: list[float] = field(default_factory=list)
    scores: dict[str, list[float]] = field(default_factory=dict)

    def add(
        self, level: Level, factor: float, human: bool, environment: DrivingEnvironment, scores: Mapping[str, float]
    ) -> None:
        """One step more."""
        self.level.append(level.value)
        self.speed_factor.append(factor)
        self.human.append(human)
        self.off_centre.append(environment.distance_to_centre)
        self.speed.append(environment.car.speed)
        for name, value in scores.items():
            self.scores.setdefault(name, []).append(value)

    @property
    def off_track(self) -> NDArray[np.bool_]:
        """Whether the car's centre was off the road, per step."""
        return np.array(self.off_centre) > HALF_ROAD_UNITS

    @property
    def off_track_distance(self) -> float:
        """Units driven off the road by the network, the human's driving left out."""
        by_network = self.off_track & ~np.array(self.human)
        return float((np.array(self.speed) * by_network).sum() * PERIOD_S)

    @property
    def mean_speed(self) -> float:
        """Units a second, whoever drove."""
        return float(np.mean(self.speed))

    def time_in(self, level: str) -> float:
        """Seconds in a level."""
        return self.level.count(level) * PERIOD_S

    @property
    def handoff_steps(self) -> list[int]:
        """Steps at which HANDOFF was entered."""
        return [
            step for step, level in enumerate(self.level)
            if level == Level.HANDOFF.value and (step == 0 or self.level[step - 1] != level)
        ]  # fmt: skip


class Human:
    """Answers a HANDOFF after a reaction time by driving, and hands back when the evidence is good again.

    Args:
        answers: False: never does anything.
        reaction_s: From HANDOFF to the hand on the wheel.
        settled_s: Good evidence for so long before handing back.
    """

    def __init__(self, answers: bool, reaction_s: float = 1.5, settled_s: float = 1.0) -> None:
        self._answers = answers
        self._reaction = round(reaction_s * STEPS_PER_SECOND)
        self._settled = round(settled_s * STEPS_PER_SECOND)
        self._asked = self._good = 0
        self.driving = False

    def step(self, decision: Decision, clear: bool) -> None:
        """See one decision, and whether the newest evidence is good."""
        if self.driving:
            self._good = self._good + 1 if clear else 0
            self.driving = self._good < self._settled
        else:
            self._asked = self._asked + 1 if decision.level is Level.HANDOFF else 0
            self.driving = self._answers and self._asked >= self._reaction
            self._good = 0


def drive(bundle: str, plan: Plan) -> Log:
    """Drive one plan with the network of a bundle."""
    runtime = Runtime.open(bundle)
    runtime.warm_up()
    policy = Policy(runtime.manifest.policy)
    human = Human(answers=plan.mode == WITH_HUMAN)
    environment, expert = DrivingEnvironment(), Expert()
    rng = np.random.default_rng(plan.seed)
    environment.reset(plan.seed)
    log = Log(plan)
    for step in range(plan.steps):
        frame = environment.frame
        if plan.in_weather(step):
            frame = apply_weather(plan.weather, frame, plan.severity_at(step), rng)
        prediction = runtime.predict(frame)
        evidence = prediction.evidence()
        decision = _decide(policy, step, evidence, human, environment.car.speed)
        factor = decision.speed_factor if plan.mode != ALONE else 1.0
        if human.driving and plan.mode != ALONE:
            control = expert.control(environment.car, environment.track, plan.target_speed)
        else:
            control = hold_speed(float(prediction.mean.flat[0]), environment.car, factor * plan.target_speed)
        _record(log, decision, factor, human, environment, evidence)
        environment.step(control)
    environment.close()
    return log


def _decide(policy: Policy, step: int, evidence: Evidence, human: Human, speed: float) -> Decision:
    decision = policy.step(
        step * PERIOD_S, evidence, human_in_control=human.driving, standstill=speed < STANDSTILL_SPEED
    )
    human.step(decision, policy.clear)
    return decision


def _record(
    log: Log,
    decision: Decision,
    factor: float,
    human: Human,
    environment: DrivingEnvironment,
    evidence: Evidence,
) -> None:
    gated = log.plan.mode != ALONE
    level = decision.level if gated else Level.NOMINAL
    log.add(level, factor, human.driving and gated, environment, evidence.scores)
