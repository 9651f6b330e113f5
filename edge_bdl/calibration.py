"""Applies what was fitted on labelled frames: a temperature to class probabilities, a scale to intervals.

What was fitted is stored by number of samples, because fewer samples make other scores. (Thresholds are stored
likewise, and applied by the policy.)
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_bdl.errors import InputError

COVERAGE = 0.9  # of the intervals that a manifest's interval_scale is fitted for
_NORMAL_QUANTILE = 1.6448536269514722  # of (1 + COVERAGE) / 2


def fitted_at(by_samples: Mapping[int, float], samples: int) -> float | None:
    """What was fitted for the largest number of samples that is at most ``samples``; None where there is none."""
    known = [count for count in by_samples if count <= samples]
    return by_samples[max(known)] if known else None


def temper(probabilities: NDArray[Any], temperature: float, class_axis: int = -1) -> NDArray[Any]:
    """Soften (T > 1) or sharpen (T < 1) averaged class probabilities: p^(1/T), normalised again.

    The same as dividing the logits log p by T (Guo et al. 2017, "On Calibration of Modern Neural Networks", eq. 9).

    Args:
        probabilities: Any shape, floating; sums to 1 along ``class_axis``.
        temperature: Positive and finite.
        class_axis: Which axis holds the classes.

    Returns:
        Probabilities of the same shape and dtype.

    Raises:
        InputError: The temperature is not positive and finite.
    """
    _require_positive("a temperature", temperature)
    # Relative to the largest class, so that a small temperature cannot make all of them underflow to 0 / 0.
    relative = probabilities / probabilities.max(axis=class_axis, keepdims=True)
    powers = relative ** (1.0 / temperature)
    tempered: NDArray[Any] = powers / powers.sum(axis=class_axis, keepdims=True)
    return tempered


def interval_half_width(total: NDArray[Any], scale: float) -> NDArray[Any]:
    """Half-width of the 90 % interval around a predictive mean: ``scale * z * sqrt(total)``.

    Args:
        total: Predictive variance, squared target units, any shape.
        scale: The fitted ``interval_scale``; 1 trusts the variance as it is.

    Returns:
        Target units, the shape of ``total``.

    Raises:
        InputError: The scale is not positive and finite.
    """
    _require_positive("an interval scale", scale)
    half_width: NDArray[Any] = scale * _NORMAL_QUANTILE * np.sqrt(total)
    return half_width


def _require_positive(what: str, value: float) -> None:
    if not (math.isfinite(value) and value > 0.0):
        raise InputError(f"{what} is positive and finite, got {value}; fit it again on labelled frames")
