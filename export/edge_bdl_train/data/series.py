"""Time series for forecasting: windows of the past with what came next, and a series whose noise is known."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge_bdl.errors import InputError

PERIOD = 24
"""Steps in which the synthetic series repeats itself."""


class NoisySeries(NamedTuple):
    """A series, and what could at best have been known of each value one step before; all float64 [N].

    Attributes:
        values: the series.
        expected: conditional mean of the value.
        noise: conditional standard deviation.
    """

    values: NDArray[np.float64]
    expected: NDArray[np.float64]
    noise: NDArray[np.float64]


def synthetic_series(count: int, rng: np.random.Generator) -> NoisySeries:
    """A daily course plus an autoregressive part (coefficient 0.8), whose noise at noon is six times that at night."""
    steps = np.arange(count)
    phase = 2.0 * np.pi * steps / PERIOD
    course = np.sin(phase) + 0.5 * np.sin(2.0 * phase)
    noise = 0.05 + 0.25 * (0.5 - 0.5 * np.cos(phase))
    shocks = rng.standard_normal(count)
    expected, level = np.empty(count), 0.0
    values = np.empty(count)
    for step in range(count):
        expected[step] = course[step] + 0.8 * level
        level = 0.8 * level + noise[step] * shocks[step]
        values[step] = course[step] + level
    return NoisySeries(values, expected, noise)


def windows(
    channels: NDArray[np.float64], targets: NDArray[np.float64], length: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Every stretch of the past with the value that followed.

    Args:
        channels: [N, C], what is seen of each step.
        targets: [N], what is to be foretold.
        length: steps of the past that are seen.

    Returns:
        Windows [N - length, length, C] and targets [N - length]; window i holds the steps i to i + length - 1.

    Raises:
        InputError: the series is shorter than one window and its target.
    """
    if not 1 <= length < len(channels) or len(targets) != len(channels):
        raise InputError(
            f"{len(channels)} steps and {len(targets)} targets give no window of {length} and what follows"
        )
    view = np.lib.stride_tricks.sliding_window_view(channels[:-1], length, axis=0)
    return np.ascontiguousarray(np.moveaxis(view, -1, 1)), targets[length:]
