"""Fits on labelled frames: the speed that a score allows, the temperature of probabilities, the width of intervals."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from edge_bdl.calibration import COVERAGE, interval_half_width
from edge_bdl.errors import InputError
from edge_bdl.policy_spec import PolicySpec, Score
from edge_bdl_export.thresholds import FloatArray, ScoresBySamples

SLOWEST_FACTOR = 0.2
MIN_FRAMES_PER_BIN = 20


# --- speed curves -------------------------------------------------------------------------------------------------


def with_speed_curves(policy: PolicySpec, scores: ScoresBySamples, errors: Mapping[int, NDArray[Any]]) -> PolicySpec:
    """The policy with a speed curve for every score and number of samples.

    Args:
        policy: With thresholds; every one of its scores and sample counts must be in the other arguments.
        scores: ``scores[name][S]`` [n labelled frames].
        errors: ``errors[S]`` [n] of the predictive mean, any sign.

    Raises:
        InputError: Something is missing, not finite, or too little.
    """

    def curved(score: Score) -> Score:
        try:
            curves = {s: fit_speed_curve(scores[score.name][s], errors[s]) for s in score.thresholds}
        except KeyError as error:
            raise InputError(f"labelled frames lack {error} for the score {score.name}; score them too") from None
        limits = {s: msgspec.structs.replace(at, speed_curve=curves[s]) for s, at in score.thresholds.items()}
        return msgspec.structs.replace(score, thresholds=limits)

    return msgspec.structs.replace(policy, scores=tuple(map(curved, policy.scores)))


def fit_speed_curve(score: NDArray[Any], error: NDArray[Any]) -> tuple[tuple[float, float], ...]:
    """Speed factor by score: nominal error over expected error, in [0.2, 1].

    Expected is the isotonic regression of the absolute error on the score (pool adjacent violators, Ayer et al. 1955)
    over bins that hold half of the frames, half of the rest and so on, so that a heavy tail gets points of its own.
    Nominal is the error of the first bin.

    Args:
        score: [n]
        error: [n] of the predictive mean, any sign and unit.

    Returns:
        A few ``(score, factor)`` points, score rising and factor falling.

    Raises:
        InputError: Not finite, of other lengths, or too few frames.
    """
    score, error = _paired("score", score, "error", error, at_least=2 * MIN_FRAMES_PER_BIN)
    order = np.argsort(score, kind="stable")
    bins = _halving_bins(len(score))
    middles = np.array([np.median(score[order[part]]) for part in bins])
    means = np.array([np.abs(error[order[part]]).mean() for part in bins])
    expected = isotonic(means, np.array([part.stop - part.start for part in bins], dtype=np.float64))
    # A model without any error in the first bin gives no scale to slow down by: it stays at the slowest where it errs.
    ratio = np.divide(expected[0], expected, out=np.ones_like(expected), where=expected > 0.0)
    factors = np.clip(ratio, SLOWEST_FACTOR, 1.0)
    points = dict(zip(middles.tolist(), factors.tolist(), strict=True))  # of bins of the same score the slowest stays
    return tuple(points.items())


def _halving_bins(frames: int) -> list[slice]:
    bins, start = [], 0
    while frames - start >= 2 * MIN_FRAMES_PER_BIN:
        stop = start + (frames - start) // 2
        bins.append(slice(start, stop))
        start = stop
    return [*bins, slice(start, frames)]


def isotonic(values: FloatArray, weights: FloatArray) -> FloatArray:
    """The non-decreasing sequence closest to ``values`` in weighted squares, by pooling adjacent violators.

    Args:
        values: [n]
        weights: [n] positive.
    """
    blocks: list[tuple[float, float, int]] = []  # mean, weight, length
    for value, weight in zip(values.tolist(), weights.tolist(), strict=True):
        block = (value, weight, 1)
        while blocks and blocks[-1][0] > block[0]:
            mean, mass, length = blocks.pop()
            total = mass + block[1]
            block = ((mean * mass + block[0] * block[1]) / total, total, length + block[2])
        blocks.append(block)
    return np.repeat([mean for mean, _, _ in blocks], [length for _, _, length in blocks])


# --- temperature and intervals ------------------------------------------------------------------------------------


def fit_temperature(probabilities: NDArray[Any], labels: NDArray[Any], class_axis: int = -1) -> float:
    """The temperature in [0.05, 20] of the averaged class probabilities that labelled frames are likeliest under.

    The negative log likelihood is convex in 1/T (Guo et al. 2017), so it has one minimum over log T, which a golden
    section search finds.

    Args:
        probabilities: [n, ...] with the classes at ``class_axis``, 1 along it.
        labels: [n, ...] without that axis: integer classes.
        class_axis: Counted with the frame axis.

    Raises:
        InputError: Shapes do not match, probabilities are not probabilities, or labels are not classes.
    """
    probabilities = np.moveaxis(np.asarray(probabilities, dtype=np.float64), class_axis, -1)
    labels = np.asarray(labels)
    if labels.shape != probabilities.shape[:-1] or labels.size == 0 or labels.dtype.kind not in "iu":
        raise InputError(
            f"probabilities of shape {probabilities.shape} (classes last) need integer labels of shape "
            f"{probabilities.shape[:-1]}, got {labels.dtype} {labels.shape}"
        )
    classes = probabilities.shape[-1]
    if labels.min() < 0 or labels.max() >= classes:
        raise InputError(f"labels are in [0, {classes - 1}], got {labels.min()} to {labels.max()}")
    if not ((probabilities >= 0.0).all() and np.allclose(probabilities.sum(axis=-1), 1.0, atol=1e-3)):
        raise InputError("probabilities must be finite, not negative, and sum to 1 over the classes")
    # A class that underflowed to 0 counts as the smallest float32.
    logits = np.log(np.maximum(probabilities, np.finfo(np.float32).tiny))

    def loss(log_temperature: float) -> float:
        scaled = logits * math.exp(-log_temperature)
        scaled -= scaled.max(axis=-1, keepdims=True)
        log_sum = np.log(np.exp(scaled).sum(axis=-1))
        return float((log_sum - np.take_along_axis(scaled, labels[..., None], axis=-1)[..., 0]).mean())

    return math.exp(_golden_section(loss, math.log(0.05), math.log(20.0)))


def _golden_section(function: Callable[[float], float], low: float, high: float, tolerance: float = 1e-6) -> float:
    """Where a function with one minimum in [low, high] has it (Kiefer 1953)."""
    ratio = (math.sqrt(5.0) - 1.0) / 2.0
    left, right = high - ratio * (high - low), low + ratio * (high - low)
    at_left, at_right = function(left), function(right)
    while high - low > tolerance:
        if at_left <= at_right:
            high, right, at_right = right, left, at_left
            left = high - ratio * (high - low)
            at_left = function(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + ratio * (high - low)
            at_right = function(right)
    return (low + high) / 2.0


def fit_interval_scale(error: NDArray[Any], total: NDArray[Any]) -> float:
    """The factor on the predictive standard deviation with which 90 % intervals cover 90 % of new frames.

    Split conformal prediction with the normalised error as its score (Lei et al. 2018, section 5.2): the
    ceil(0.9 (n + 1))-th smallest of n.

    Args:
        error: Target minus predictive mean, any shape; every element counts alike.
        total: Predictive variance, the same shape.

    Raises:
        InputError: Not finite, of other shapes, negative variances, or too few elements.
    """
    error, total = _paired("error", np.ravel(error), "total", np.ravel(total), at_least=10)
    if total.min() < 0.0:
        raise InputError(f"a variance cannot be negative, got {total.min():g}")
    error, unit = np.abs(error), interval_half_width(total, 1.0)
    # No spread at all: covered by any scale where there is no error, by none where there is one.
    ratios = np.divide(error, unit, out=np.where(error > 0.0, np.inf, 0.0), where=unit > 0.0)
    scale = float(np.sort(ratios)[math.ceil(COVERAGE * (len(ratios) + 1)) - 1])
    if not (math.isfinite(scale) and scale > 0.0):
        raise InputError(
            f"an interval scale of {scale} covers {COVERAGE:.0%}: the variances mean nothing on these frames"
        )
    return scale


def _paired(
    first_name: str, first: NDArray[Any], second_name: str, second: NDArray[Any], *, at_least: int
) -> tuple[FloatArray, FloatArray]:
    one, other = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if one.ndim != 1 or one.shape != other.shape or len(one) < at_least:
        raise InputError(
            f"{first_name} and {second_name} must be of one length, at least {at_least}, got {one.shape}, {other.shape}"
        )
    if not (np.isfinite(one).all() and np.isfinite(other).all()):
        raise InputError(f"{first_name} and {second_name} must be finite on every frame")
    return one, other
