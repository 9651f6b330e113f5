"""Intervals: their borders, how many targets they hold, and how wide they are."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from edge_bdl.calibration import interval_half_width
from edge_bdl.errors import InputError
from edge_bdl_train.evaluation.intervals import Interval, coverage, gaussian_interval, sample_interval, sharpness

MEAN, TOTAL = np.array([0.0, 2.0, -1.0]), np.array([1.0, 4.0, 0.25])


@pytest.mark.parametrize("level", [0.05, 0.5, 0.9, 0.999])
def test_borders_are_scipys(level: float) -> None:
    lower, upper = stats.norm.interval(level, MEAN, np.sqrt(TOTAL))
    interval = gaussian_interval(MEAN, TOTAL, level)
    assert interval.lower.tolist() == pytest.approx(lower.tolist())
    assert interval.upper.tolist() == pytest.approx(upper.tolist())


def test_at_90_percent_they_are_the_runtimes() -> None:
    interval = gaussian_interval(MEAN, TOTAL, 0.9)
    assert interval.upper.tolist() == pytest.approx((MEAN + interval_half_width(TOTAL, 1.0)).tolist())


def test_coverage_and_width_worked_by_hand() -> None:
    # The second target lies on its interval's border, the third outside.
    interval = Interval([0.0, 0.0, 1.0], [1.0, 2.0, 1.5])
    assert coverage(interval, [0.5, 2.0, 2.0]) == pytest.approx(2 / 3)
    assert sharpness(interval) == pytest.approx((1 + 2 + 0.5) / 3)


def test_targets_drawn_as_predicted_are_covered_as_claimed() -> None:
    rng = np.random.default_rng(0)
    total = rng.uniform(0.1, 3.0, 40_000)
    targets = rng.normal(0.0, np.sqrt(total))
    for level in (0.3, 0.9):
        # Four standard errors.
        margin = 4 * math.sqrt(level * (1 - level) / 40_000)
        assert coverage(gaussian_interval(np.zeros(40_000), total, level), targets) == pytest.approx(level, abs=margin)


def test_an_interval_of_samples_lies_between_their_quantiles() -> None:
    # Of 0, 1, ..., 100 in any order: 5 % and 95 %.
    samples = np.random.default_rng(1).permutation(101)[:, None] * np.array([1.0, -2.0])
    interval = sample_interval(samples, 0.9)
    assert interval.lower.tolist() == pytest.approx([5.0, -190.0])
    assert interval.upper.tolist() == pytest.approx([95.0, -10.0])


def test_no_variance_holds_what_was_predicted_exactly() -> None:
    assert coverage(gaussian_interval([1.0, 1.0], [0.0, 0.0], 0.9), [1.0, 1.1]) == 0.5


@pytest.mark.parametrize("level", [0.0, 1.0, -0.1, 90.0, math.nan])
def test_a_level_that_is_no_share_is_refused(level: float) -> None:
    with pytest.raises(InputError, match="a share between 0 and 1"):
        gaussian_interval(MEAN, TOTAL, level)
    with pytest.raises(InputError, match="a share between 0 and 1"):
        sample_interval([[0.0], [1.0]], level)


def test_what_does_not_fit_is_refused() -> None:
    for mean, total, message in (
        ([0.0], [-1.0], "cannot be negative"),
        ([0.0, 1.0], [1.0], "belong together"),
        ([math.nan], [1.0], "not finite"),
        ([], [], "not empty"),
    ):
        with pytest.raises(InputError, match=message):
            gaussian_interval(mean, total, 0.9)
    with pytest.raises(InputError, match="1 intervals end before they begin"):
        coverage(Interval([0.0, 2.0], [1.0, 1.0]), [0.0, 1.0])
    with pytest.raises(InputError, match="2 predictions need as many targets"):
        coverage(Interval([0.0, 1.0], [1.0, 1.0]), [0.0])
