"""What a policy decides by, as the manifest holds it: scores with their thresholds, times, counts and rates."""

from __future__ import annotations

import math
from typing import Literal

import msgspec

from edge_bdl.errors import InputError
from edge_bdl.part import Part

Reduction = Literal["max", "mean"]
ThresholdSource = Literal["episode_replay", "frame_quantiles"]

# A camera whose two periods are longer than this is too slow to be safe.
LONGEST_TIMEOUT_S = 0.4
# A robot that is blind must not take longer to stop than this.
LONGEST_RAMP_S = 1.0
# The votes of so many frames fit into one number, on any machine and in any file.
WIDEST_WINDOW = 63


class Thresholds(Part, frozen=True, kw_only=True):
    """Two thresholds of one score at one S, and the speed that each score allows.

    Attributes:
        slow: Above it a frame asks for SLOW.
        handoff: Above it a frame asks for HANDOFF at once.
        speed_curve: ``(score, speed factor)`` points, score rising and factor falling, fitted where there were labels;
            empty: the configured speed factor of SLOW.
    """

    slow: float
    handoff: float
    speed_curve: tuple[tuple[float, float], ...] = ()

    def __post_init__(self) -> None:
        if not (math.isfinite(self.slow) and math.isfinite(self.handoff) and self.slow <= self.handoff):
            raise ValueError(f"thresholds must be finite and slow <= handoff, got {self.slow} and {self.handoff}")
        scores = [score for score, _ in self.speed_curve]
        factors = [factor for _, factor in self.speed_curve]
        if scores != sorted(scores) or factors != sorted(factors, reverse=True):
            raise ValueError("a speed curve has rising scores and falling factors")
        if not all(0.0 <= factor <= 1.0 for factor in factors):
            raise ValueError("speed factors are in [0, 1]")


class Score(Part, frozen=True, kw_only=True):
    """One named number per frame, larger = worse.

    Attributes:
        name: ``epistemic``, ``total`` or ``density``.
        reduction: How a vector or dense output becomes the scalar.
        thresholds: By number of samples; a frame of S samples uses the largest entry that is at most S.
    """

    name: Literal["epistemic", "total", "density"]
    reduction: Reduction = "max"
    thresholds: dict[int, Thresholds] = {}

    def at(self, samples: int) -> Thresholds | None:
        """Thresholds for a frame of ``samples`` members, None where fewer were used than ever calibrated."""
        known = [count for count in self.thresholds if count <= samples]
        return self.thresholds[max(known)] if known else None


class PolicyConfig(Part, frozen=True, kw_only=True):
    """Times, counts and rates of the policy. Defaults are those of the documentation's state table.

    Attributes:
        good_frames_to_start: Good assessments in a row that lead from HOLD to NOMINAL.
        hold_to_stop_s: HOLD this long after having driven becomes STOP.
        slow_votes: So many of the last ``slow_window`` frames over a SLOW threshold enter SLOW.
        slow_window: See ``slow_votes``.
        slow_release_s: Time below the SLOW thresholds that ends SLOW.
        slow_factor: Speed factor of SLOW where no curve was calibrated.
        slow_budget_s: Time in SLOW that becomes HANDOFF; leaky.
        budget_recharge: Seconds of budget that come back per second outside SLOW.
        hold_ramp_s: HOLD ramps the limit to zero in this time; 0: at once. It comes on top of ``assessment_timeout_s``.
        handoff_ramp_s: HANDOFF ramps the limit to zero in this time.
        handoff_to_stop_s: HANDOFF unanswered this long becomes STOP.
        loosen_per_s: How fast the speed factor may rise.
        assessment_timeout_s: Evidence older than this is late.
        future_tolerance_s: Evidence from further ahead than this is from the future.
    """

    good_frames_to_start: int = 5
    hold_to_stop_s: float = 10.0
    slow_votes: int = 2
    slow_window: int = 5
    slow_release_s: float = 1.0
    slow_factor: float = 0.5
    slow_budget_s: float = 3.0
    budget_recharge: float = 0.25
    hold_ramp_s: float = 0.0
    handoff_ramp_s: float = 1.0
    handoff_to_stop_s: float = 10.0
    loosen_per_s: float = 0.5
    assessment_timeout_s: float = 0.3
    future_tolerance_s: float = 0.1

    def __post_init__(self) -> None:
        if self.good_frames_to_start < 1 or not 1 <= self.slow_votes <= self.slow_window:
            raise ValueError("good_frames_to_start and slow_votes are at least 1, and slow_votes at most slow_window")
        if self.slow_window > WIDEST_WINDOW:
            raise ValueError(f"slow_window is at most {WIDEST_WINDOW}, got {self.slow_window}")
        if not 0.0 <= self.slow_factor <= 1.0:
            raise ValueError(f"slow_factor is in [0, 1], got {self.slow_factor}")
        durations = (
            self.hold_to_stop_s, self.slow_release_s, self.slow_budget_s, self.budget_recharge, self.handoff_ramp_s,
            self.handoff_to_stop_s, self.loosen_per_s, self.assessment_timeout_s, self.future_tolerance_s,
        )  # fmt: skip
        if not all(math.isfinite(value) and value > 0.0 for value in durations):
            raise ValueError("every time and rate of the policy is positive and finite")
        if not 0.0 <= self.hold_ramp_s <= LONGEST_RAMP_S:
            raise ValueError(f"hold_ramp_s is in [0, {LONGEST_RAMP_S:g}], got {self.hold_ramp_s}")
        if self.assessment_timeout_s > LONGEST_TIMEOUT_S:
            raise ValueError(f"assessment_timeout_s is at most {LONGEST_TIMEOUT_S:g}, got {self.assessment_timeout_s}")


class PolicySpec(Part, frozen=True, kw_only=True):
    """Everything the policy decides by.

    Attributes:
        config: Times, counts and rates.
        scores: The scores it looks at, with their thresholds. Without thresholds nothing may drive.
        source: What the thresholds come from; None without calibration frames.
    """

    config: PolicyConfig = PolicyConfig()
    scores: tuple[Score, ...] = ()
    source: ThresholdSource | None = None

    def at_rate(self, rate_hz: float) -> PolicySpec:
        """The same for a camera of this rate: evidence may be as old as two of its frames.

        Raises:
            InputError: Two frames take longer than a robot may be blind.
        """
        if not rate_hz * LONGEST_TIMEOUT_S >= 2.0:
            raise InputError(
                f"a camera of {rate_hz:g} Hz is too slow to be safe, expected at least {2.0 / LONGEST_TIMEOUT_S:g} Hz"
            )
        timeout_s = max(self.config.assessment_timeout_s, 2.0 / rate_hz)
        config = msgspec.structs.replace(self.config, assessment_timeout_s=timeout_s)
        return msgspec.structs.replace(self, config=config)
