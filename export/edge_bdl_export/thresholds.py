"""Thresholds: what of each score is still ordinary driving.

They come from replaying the whole policy over nominal closed-loop episodes: frames in sequence are correlated and the
policy debounces, so the quantile of a frame says little about how often a robot is slowed. Without episodes they come
from frame quantiles. Either way they are as tight as nominal driving allows, and the fit says what it rests on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from edge_bdl.errors import InputError
from edge_bdl.manifest import Bank
from edge_bdl.policy import Evidence, Level, Policy
from edge_bdl.policy_spec import (
    LONGEST_TIMEOUT_S,
    PolicyConfig,
    PolicySpec,
    Reduction,
    Score,
    Thresholds,
    ThresholdSource,
)

ScoresBySamples = Mapping[str, Mapping[int, NDArray[Any]]]
FloatArray = NDArray[np.float64]

CONFIDENCE = 0.95  # of every bound that is stated
SLOW_QUANTILE = 0.99
HANDOFF_QUANTILE = 0.999
MIN_FRAMES = 10


@dataclass(frozen=True, kw_only=True)
class ThresholdFit:
    """Fitted thresholds and what they rest on.

    Attributes:
        policy: What the manifest holds.
        held_back_share: By number of samples: share of nominal frames on which the policy held the robot back (any
            level but NOMINAL, the unavoidable start apart). Empty without episodes.
        warnings: What a person should know.
    """

    policy: PolicySpec
    held_back_share: dict[int, float]
    warnings: tuple[str, ...]


def calibrated_counts(bank: Bank) -> tuple[int, ...]:
    """Numbers of samples that thresholds are fitted for: 2, every whole number of chunks, and the whole bank.

    In closed form one pass is as good as any number.
    """
    if bank.selection == "closed_form":
        return (1,)
    chunks = range(bank.chunk, bank.members + 1, bank.chunk)
    return tuple(sorted({2, *(count for count in chunks if count >= 2), bank.members}))


def fit_thresholds(
    scores: ScoresBySamples,
    *,
    frame_period_s: float,
    episodes: NDArray[Any] | None = None,
    config: PolicyConfig | None = None,
    reductions: Mapping[str, Reduction] | None = None,
    held_back_target: float = 0.01,
    handoff_margin: float = 2.0,
) -> ThresholdFit:
    """Fit SLOW and HANDOFF thresholds for every score and number of samples on nominal driving.

    HANDOFF: ``handoff_margin`` times as far above the median as nominal driving ever went (without episodes: as its
    0.999 quantile). SLOW: every score may be exceeded on the same number of frames; that number is the largest for
    which the replayed policy never hands over and holds the robot back on at most ``held_back_target`` of the frames
    (without episodes: the 0.99 quantile).

    Args:
        scores: ``scores[name][S]`` [n frames], in order of time; names and sample counts all over each other.
        frame_period_s: Time between frames, seconds.
        episodes: [n] which episode a frame belongs to; None where frames are not in sequence.
        config: Times and counts of the policy; None: the defaults, with the assessment timeout of this frame period.
        reductions: How a score became a scalar, by name, for the manifest; ``max`` where not named.
        held_back_target: Share of nominal frames in (0, 1) that may be held back.
        handoff_margin: At least 1.

    Raises:
        InputError: Scores are not finite, constant or too few, or an argument does not make sense.
    """
    config = _config_for(frame_period_s, config)
    table = _checked(scores)
    if not 0.0 < held_back_target < 1.0 or not (math.isfinite(handoff_margin) and handoff_margin >= 1.0):
        raise InputError(
            f"held_back_target is in (0, 1) and handoff_margin at least 1, got {held_back_target} and {handoff_margin}"
        )
    held_back: dict[int, float] = {}
    thresholds: dict[str, dict[int, Thresholds]] = {name: {} for name in table}
    nominal = None if episodes is None else _Episodes(table, episodes, frame_period_s, config)
    for samples in next(iter(table.values())):
        columns = {name: by_samples[samples] for name, by_samples in table.items()}
        if nominal is None:
            fitted = {name: _quantile_thresholds(values, handoff_margin) for name, values in columns.items()}
        else:
            fitted, held_back[samples] = _replayed_thresholds(
                nominal, columns, samples, held_back_target, handoff_margin
            )
        for name, limits in fitted.items():
            thresholds[name][samples] = limits
    if nominal is None:
        source: ThresholdSource = "frame_quantiles"
        warnings = _quantile_warnings(_frames(table))
    else:
        source = "episode_replay"
        warnings = nominal.warnings(table, held_back_target, handoff_margin)
    reductions = reductions or {}
    fitted_scores = tuple(
        Score(name=cast(Any, name), reduction=reductions.get(name, "max"), thresholds=limits)
        for name, limits in thresholds.items()
    )
    policy = PolicySpec(config=config, scores=fitted_scores, source=source)
    return ThresholdFit(policy=policy, held_back_share=held_back, warnings=warnings)


def _config_for(frame_period_s: float, config: PolicyConfig | None) -> PolicyConfig:
    """The policy for a camera: by default an assessment is late after 0.3 s or two periods, but never after 0.4 s."""
    if config is None:
        timeout_s = PolicyConfig().assessment_timeout_s
        config = PolicyConfig(assessment_timeout_s=min(max(timeout_s, 2.0 * frame_period_s), LONGEST_TIMEOUT_S))
    if not 0.0 < 2.0 * frame_period_s <= config.assessment_timeout_s:
        raise InputError(
            f"frames come every {frame_period_s:g} s, but assessments are late after {config.assessment_timeout_s:g} "
            f"s, which must be two periods: set assessment_timeout_s (at most {LONGEST_TIMEOUT_S:g}), or use a camera "
            "of at least 5 frames per second"
        )
    return config


def _checked(scores: ScoresBySamples) -> dict[str, dict[int, FloatArray]]:
    """Scores as float64, in order of rising sample count."""
    if not scores:
        raise InputError("no scores to fit thresholds for; give at least one, for example epistemic")
    table = {
        name: {samples: np.asarray(by_samples[samples], dtype=np.float64) for samples in sorted(by_samples)}
        for name, by_samples in scores.items()
    }
    shapes = {(tuple(by_samples), *(values.shape for values in by_samples.values())) for by_samples in table.values()}
    if len(shapes) != 1 or len(set(next(iter(shapes))[1:])) != 1:
        raise InputError("every score needs the same sample counts and one number per frame for each of them")
    for name, by_samples in table.items():
        for samples, values in by_samples.items():
            _check_score(f"{name} (S={samples})", values)
    return table


def _check_score(what: str, values: FloatArray) -> None:
    if values.ndim != 1 or len(values) < MIN_FRAMES:
        raise InputError(f"{what}: thresholds need [n] scores of at least {MIN_FRAMES} frames, got {values.shape}")
    if not np.isfinite(values).all():
        raise InputError(f"{what}: {np.count_nonzero(~np.isfinite(values))} of {len(values)} scores are not finite")
    if values.min() == values.max():
        raise InputError(
            f"{what}: the score is {values[0]:g} on every frame, so it can tell nothing apart; "
            "calibrate on frames that differ"
        )


def _frames(table: dict[str, dict[int, FloatArray]]) -> int:
    return len(next(iter(next(iter(table.values())).values())))


def _beyond(values: FloatArray, highest: float, margin: float) -> float:
    """``margin`` times as far above the median as ``highest``; the same in whatever unit and origin a score has."""
    median = float(np.median(values))
    return median + margin * (highest - median)


# --- thresholds from episodes -------------------------------------------------------------------------------------


class _Episodes:
    """Nominal episodes, and the policy replayed over them."""

    def __init__(
        self, table: dict[str, dict[int, FloatArray]], index: NDArray[Any], frame_period_s: float, config: PolicyConfig
    ) -> None:
        index = np.asarray(index)
        frames = _frames(table)
        if index.shape != (frames,):
            raise InputError(f"episodes must name one episode for each of {frames} frames, got shape {index.shape}")
        self._period_s = frame_period_s
        self.config = config
        self._rows = [np.flatnonzero(index == episode) for episode in np.unique(index)]
        # A policy that starts as soon as it may is held back for this long.
        self._start = config.good_frames_to_start - 1
        shortest = min(len(rows) for rows in self._rows)
        if shortest <= self._start + 1:
            raise InputError(f"an episode of {shortest} frames is over before the robot may start; leave it out")

    def replay(self, evidence: list[Evidence], spec: PolicySpec) -> tuple[float, int]:
        """Share of frames held back, and the number of times that it was handed over or stopped."""
        held_back = handed_over = possible = 0
        for rows in self._rows:
            policy = Policy(spec)
            for tick, row in enumerate(rows):
                level = policy.step(tick * self._period_s, evidence[row]).level
                held_back += level is not Level.NOMINAL
                if level in (Level.HANDOFF, Level.STOP):
                    handed_over += 1
                    # Nobody answers in a replay: the robot stays where it is.
                    held_back += len(rows) - tick - 1
                    break
            held_back -= self._start
            possible += len(rows) - self._start
        return held_back / possible, handed_over

    def warnings(
        self, table: dict[str, dict[int, FloatArray]], held_back_target: float, handoff_margin: float
    ) -> tuple[str, ...]:
        seconds = sum(map(len, self._rows)) * self._period_s
        # No event in a time T: a Poisson rate below -ln(1 - confidence) / T.
        bound_s = seconds / -math.log(1.0 - CONFIDENCE)
        warnings = [
            f"thresholds rest on {len(self._rows)} nominal episodes, {seconds:.0f} s: no HANDOFF in them means fewer "
            f"than one per {bound_s:.0f} s at {CONFIDENCE:.0%} confidence"
        ]
        if held_back_target * seconds < self.config.slow_release_s:
            warnings.append(
                f"a single SLOW of {self.config.slow_release_s:g} s is already more than {held_back_target:.1%} of "
                "these episodes: thresholds are wider than more driving would make them"
            )
        for name, by_samples in table.items():
            samples, values = max(by_samples.items())
            surprising = self._surprising_episodes(values, handoff_margin)
            if surprising:
                warnings.append(
                    f"{surprising} of {len(self._rows)} episodes go over the HANDOFF threshold that the others "
                    f"give for {name} (S={samples}): use more nominal episodes or a larger handoff_margin"
                )
        return tuple(warnings)

    def _surprising_episodes(self, values: FloatArray, handoff_margin: float) -> int:
        """Leave one out: episodes that would be handed over by thresholds fitted on the others."""
        if len(self._rows) < 2:
            return 0
        count = 0
        for rows in self._rows:
            others = np.delete(values, rows)
            count += bool(values[rows].max() > _beyond(others, float(others.max()), handoff_margin))
        return count


def _replayed_thresholds(
    nominal: _Episodes, columns: dict[str, FloatArray], samples: int, held_back_target: float, handoff_margin: float
) -> tuple[dict[str, Thresholds], float]:
    """The tightest SLOW thresholds that nominal driving bears, all scores together, and the share they hold back."""
    falling = {name: np.sort(values)[::-1] for name, values in columns.items()}
    handoff = {name: _beyond(values, float(values.max()), handoff_margin) for name, values in columns.items()}
    evidence = _evidence(columns, samples)

    def limits(exceeding: int) -> dict[str, Thresholds]:
        return {
            name: Thresholds(slow=float(values[exceeding]), handoff=handoff[name]) for name, values in falling.items()
        }

    def replay(exceeding: int) -> tuple[float, int]:
        scores = (Score(name=cast(Any, name), thresholds={samples: at}) for name, at in limits(exceeding).items())
        return nominal.replay(evidence, PolicySpec(config=nominal.config, scores=tuple(scores)))

    def bearable(exceeding: int) -> bool:
        share, handed_over = replay(exceeding)
        return share <= held_back_target and handed_over == 0

    # With nothing exceeding, every threshold is the highest nominal score, which holds nothing back.
    exceeding = _largest(bearable, len(evidence) - 1)
    return limits(exceeding), replay(exceeding)[0]


def _largest(bearable: Callable[[int], bool], highest: int) -> int:
    """Bisection: a bearable number next to an unbearable one, 0 being bearable."""
    low, high = 0, highest + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if bearable(middle) else (low, middle)
    return low


# --- thresholds from frames ---------------------------------------------------------------------------------------


def _quantile_thresholds(values: FloatArray, handoff_margin: float) -> Thresholds:
    # "lower": with too few frames to know a quantile, the highest frame but one stands for it, never an extrapolation.
    slow, high = (float(np.quantile(values, q, method="lower")) for q in (SLOW_QUANTILE, HANDOFF_QUANTILE))
    return Thresholds(slow=slow, handoff=max(slow, _beyond(values, high, handoff_margin)))


def _quantile_warnings(frames: int) -> tuple[str, ...]:
    warnings = [
        "thresholds are frame quantiles, without episodes: "
        "how often nominal driving is slowed or handed over is unknown"
    ]
    for level, quantile in (("SLOW", SLOW_QUANTILE), ("HANDOFF", HANDOFF_QUANTILE)):
        # The highest of n frames lies above a quantile q with probability 1 - q^n (Wilks 1941, tolerance limits).
        needed = math.ceil(math.log(1.0 - CONFIDENCE) / math.log(quantile))
        if frames < needed:
            warnings.append(
                f"{frames} frames cannot know the {quantile:g} quantile behind the {level} thresholds ({needed} can): "
                "they are tighter than they need be; use more calibration frames"
            )
    return tuple(warnings)


# --- what the thresholds do elsewhere -----------------------------------------------------------------------------


def replay(
    policy: PolicySpec, scores: ScoresBySamples, episodes: NDArray[Any], frame_period_s: float
) -> tuple[dict[int, float], dict[int, int]]:
    """What a fitted policy does on other nominal episodes.

    Args:
        policy: With thresholds.
        scores: ``scores[name][S]`` [n frames], of the policy's scores.
        episodes: [n] which episode a frame belongs to.
        frame_period_s: Time between frames, seconds.

    Returns:
        By number of samples: the share of frames held back (the unavoidable start apart), and how many episodes ended
        in HANDOFF or STOP.
    """
    table = {score.name: dict(scores[score.name]) for score in policy.scores}
    nominal = _Episodes(table, episodes, frame_period_s, policy.config)
    shares, handed_over = {}, {}
    for samples in next(iter(table.values())):
        columns = {name: by_samples[samples] for name, by_samples in table.items()}
        shares[samples], handed_over[samples] = nominal.replay(_evidence(columns, samples), policy)
    return shares, handed_over


def _evidence(columns: Mapping[str, NDArray[Any]], samples: int) -> list[Evidence]:
    rows = zip(*(values.tolist() for values in columns.values()), strict=True)
    return [Evidence(dict(zip(columns, row, strict=True)), samples) for row in rows]
