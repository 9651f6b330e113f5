"""Speed curves, temperature and interval scale."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_bdl.calibration import interval_half_width, temper
from edge_bdl.errors import InputError
from edge_bdl.policy_spec import PolicySpec, Score, Thresholds
from edge_bdl_export.calibrate import (
    fit_interval_scale,
    fit_speed_curve,
    fit_temperature,
    isotonic,
    with_speed_curves,
)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def broken(value: float) -> NDArray[np.float64]:
    values = rng().random(50)
    values[7] = value
    return values


# --- speed curves


def test_isotonic_regression_equals_the_min_max_formula() -> None:
    """Barlow et al. 1972: the fit at i is the largest over a <= i of the smallest over b >= i of the mean of a..b."""
    generator = rng(9)
    for _ in range(50):
        size = int(generator.integers(1, 12))
        values, weights = generator.normal(size=size), generator.uniform(0.5, 3.0, size)

        def mean(a: int, b: int, values: Any = values, weights: Any = weights) -> float:
            return float(np.average(values[a : b + 1], weights=weights[a : b + 1]))

        expected = [max(min(mean(a, b) for b in range(i, size)) for a in range(i + 1)) for i in range(size)]
        np.testing.assert_allclose(isotonic(values, weights), expected, atol=1e-12)


def test_a_speed_curve_is_nominal_error_over_expected_error() -> None:
    score = np.linspace(0.0, 1.0, 4096)
    sign = np.where(np.arange(4096) % 2, 1.0, -1.0)
    curve = dict(fit_speed_curve(score, sign * np.where(score < 0.5, 0.1, np.where(score < 0.75, 0.2, 10.0))))
    for middle, factor in curve.items():
        assert factor == pytest.approx(1.0 if middle < 0.5 else 0.5 if middle < 0.75 else 0.2, rel=0.01)
    assert len(curve) < 10


def test_a_score_that_says_nothing_about_the_error_slows_nobody() -> None:
    generator = rng(10)
    curve = fit_speed_curve(generator.random(5000), generator.normal(size=5000))
    assert min(factor for _, factor in curve) > 0.85


def test_a_speed_curve_falls_even_where_errors_do_not_rise() -> None:
    generator = rng(11)
    for _ in range(20):
        curve = fit_speed_curve(generator.gamma(0.3, 1.0, 200), generator.standard_t(2, 200))
        scores, factors = zip(*curve, strict=True)
        assert list(scores) == sorted(set(scores))
        assert list(factors) == sorted(factors, reverse=True)
        assert all(0.2 <= factor <= 1.0 for factor in factors)


def test_of_equal_scores_the_slowest_factor_stays() -> None:
    score = np.repeat([0.0, 1.0], [350, 50])
    assert fit_speed_curve(score, np.where(score > 0.0, 8.0, 1.0))[-1] == (1.0, 0.2)


def test_a_model_without_errors_is_not_slowed() -> None:
    assert {factor for _, factor in fit_speed_curve(np.arange(100.0), np.zeros(100))} == {1.0}


def test_speed_curves_are_put_into_every_threshold() -> None:
    limits = {samples: Thresholds(slow=1.0, handoff=2.0) for samples in (2, 16)}
    policy = PolicySpec(scores=(Score(name="epistemic", thresholds=limits), Score(name="density", thresholds=limits)))
    table = {name: {2: rng(1).random(80), 16: rng(2).random(80)} for name in ("epistemic", "density")}
    errors = {samples: table["density"][samples] * 0.01 for samples in (2, 16)}
    curved = with_speed_curves(policy, table, errors)
    for score in curved.scores:
        for samples, at in score.thresholds.items():
            assert at.speed_curve == fit_speed_curve(table[score.name][samples], errors[samples])
            assert (at.slow, at.handoff) == (1.0, 2.0)
    with pytest.raises(InputError, match="labelled frames lack 16"):
        with_speed_curves(policy, table, {2: errors[2]})


@pytest.mark.parametrize(
    ("score", "error", "message"),
    [
        (np.arange(39.0), np.arange(39.0), "at least 40"),
        (np.arange(50.0), np.arange(49.0), "of one length"),
        (broken(math.nan), np.arange(50.0), "finite on every frame"),
        (np.arange(50.0), broken(math.inf), "finite on every frame"),
    ],
)
def test_labelled_frames_that_cannot_be_fitted_are_refused(
    score: NDArray[Any], error: NDArray[Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        fit_speed_curve(score, error)


# --- temperature


@pytest.mark.parametrize("truth", [0.5, 1.0, 2.5])
def test_the_temperature_that_made_the_labels_is_found(truth: float) -> None:
    generator = rng(12)
    true = generator.dirichlet(np.full(5, 0.7), 20_000)
    labels = (true.cumsum(-1) < generator.random((20_000, 1))).sum(-1).clip(0, 4)
    # Sharpened by `truth`, so that tempering by `truth` gives back the probabilities which the labels were drawn from.
    assert fit_temperature(temper(true, 1.0 / truth), labels) == pytest.approx(truth, rel=0.05)


def test_the_fitted_temperature_is_the_best_on_a_grid() -> None:
    generator = rng(13)
    probabilities, labels = generator.dirichlet(np.ones(3), 500), generator.integers(0, 3, 500)
    probabilities[np.arange(500), labels] += 0.4
    probabilities /= probabilities.sum(-1, keepdims=True)

    def loss(temperature: float) -> float:
        return float(-np.log(temper(probabilities, temperature)[np.arange(500), labels]).mean())

    fitted = fit_temperature(probabilities, labels)
    assert loss(fitted) <= min(map(loss, np.geomspace(0.05, 20.0, 400))) + 1e-9


def test_temperature_of_dense_outputs_is_fitted_over_all_places() -> None:
    generator = rng(14)
    probabilities, labels = generator.dirichlet(np.ones(3), (50, 4, 2)), generator.integers(0, 3, (50, 4, 2))
    dense = fit_temperature(np.moveaxis(probabilities, -1, 1), labels, class_axis=1)
    assert dense == pytest.approx(fit_temperature(probabilities.reshape(-1, 3), labels.reshape(-1)))


def test_labels_that_are_always_right_do_not_sharpen_without_limit() -> None:
    probabilities = np.tile([0.9, 0.1], (50, 1))
    assert fit_temperature(probabilities, np.zeros(50, dtype=int)) == pytest.approx(0.05, rel=1e-3)


def test_an_impossible_label_softens_but_stays_finite() -> None:
    probabilities = np.tile([1.0, 0.0], (50, 1))
    assert 1.0 < fit_temperature(probabilities, np.repeat([0, 1], [40, 10])) <= 20.0


@pytest.mark.parametrize(
    ("probabilities", "labels", "message"),
    [
        (np.full((4, 2), 0.5), np.zeros(3, dtype=int), "need integer labels of shape"),
        (np.full((4, 2), 0.5), np.zeros(4), "need integer labels"),
        (np.full((0, 2), 0.5), np.zeros(0, dtype=int), "need integer labels"),
        (np.full((4, 2), 0.5), np.full(4, 2), r"labels are in \[0, 1\], got 2 to 2"),
        (np.full((4, 2), 0.5), np.full(4, -1), r"labels are in \[0, 1\]"),
        (np.full((4, 2), 0.7), np.zeros(4, dtype=int), "sum to 1"),
        (np.full((4, 2), math.nan), np.zeros(4, dtype=int), "finite"),
        (np.tile([1.5, -0.5], (4, 1)), np.zeros(4, dtype=int), "not negative"),
    ],
)
def test_what_is_no_probability_or_label_is_refused(
    probabilities: NDArray[Any], labels: NDArray[Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        fit_temperature(probabilities, labels)


# --- interval scale


@pytest.mark.parametrize("truth", [0.3, 1.0, 4.0])
def test_the_interval_scale_undoes_a_variance_that_is_off(truth: float) -> None:
    generator = rng(15)
    total = generator.uniform(0.5, 4.0, 20_000)
    error = generator.normal(scale=np.sqrt(total)) * truth
    assert fit_interval_scale(error, total) == pytest.approx(truth, rel=0.03)


def test_scaled_intervals_cover_at_least_ninety_percent_of_new_frames_on_average() -> None:
    """Split conformal: exactly ceil(0.9 (n + 1)) / (n + 1), whatever the distribution; 11 frames: 11 / 12."""
    generator = rng(16)
    covered = []
    for _ in range(4000):
        errors = generator.standard_t(3, 12)
        scale = fit_interval_scale(errors[:11], np.ones(11))
        covered.append(abs(errors[11]) <= interval_half_width(np.ones(1), scale)[0])
    assert np.mean(covered) == pytest.approx(11 / 12, abs=4 * math.sqrt(0.09 / 4000))


def test_a_few_frames_without_any_spread_do_not_spoil_the_scale() -> None:
    total = np.ones(100)
    total[:3] = 0.0
    assert fit_interval_scale(np.linspace(0.1, 1.0, 100), total) < 1.0


@pytest.mark.parametrize(
    ("error", "total", "message"),
    [
        (np.ones(9), np.ones(9), "at least 10"),
        (np.ones(20), np.ones(19), "of one length"),
        (np.ones(20), -np.ones(20), "cannot be negative"),
        (np.full(20, math.nan), np.ones(20), "finite"),
        (np.ones(20), np.zeros(20), "mean nothing"),
        (np.zeros(20), np.ones(20), "mean nothing"),
    ],
)
def test_intervals_that_cannot_be_fitted_are_refused(error: NDArray[Any], total: NDArray[Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        fit_interval_scale(error, total)
