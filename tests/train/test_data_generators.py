"""Generated data have the distribution that they claim: rings, the synthetic series, the toy curve; conjugacy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from edge_bdl.errors import InputError
from edge_bdl_train.data import toy1d
from edge_bdl_train.data.breast_cancer import BENIGN, MALIGNANT, load_breast_cancer
from edge_bdl_train.data.coin import BetaBernoulli, GaussianMean
from edge_bdl_train.data.rings import RingFeatures, draw_features, draw_radius, radius_cdf, to_plane
from edge_bdl_train.data.series import PERIOD, synthetic_series, windows


def ring(count: int, angle: float) -> RingFeatures:
    return RingFeatures(*(np.full(count, value) for value in (1.2, angle, 0.1, -0.15)))


@pytest.mark.parametrize("angle", [0.0, 1.0, -2.0, math.pi])
def test_a_rings_noise_has_the_mean_and_width_that_its_features_state(angle: float) -> None:
    count = 200_000
    radius = draw_radius(ring(count, angle), np.random.default_rng(0))
    assert radius.mean() == pytest.approx(1.2 - 0.15, abs=5 * 0.1 / math.sqrt(count))
    assert radius.std() == pytest.approx(0.1, rel=5 / math.sqrt(2 * count))


@pytest.mark.parametrize("angle", [0.0, 1.0, -2.0, math.pi])
def test_a_rings_cdf_is_that_of_its_draws(angle: float) -> None:
    features = ring(20_000, angle)
    radius = draw_radius(features, np.random.default_rng(1))
    one = RingFeatures(*(column[:1] for column in features))
    assert stats.kstest(radius, lambda at: radius_cdf(one, at)[0]).pvalue > 0.01


def test_the_shape_turns_from_a_gaussian_into_two_peaks() -> None:
    rng = np.random.default_rng(2)
    kurtosis = [stats.kurtosis(draw_radius(ring(100_000, angle), rng)) for angle in (math.pi, 0.0)]
    # Two peaks at +-a have an excess kurtosis of -2 a^4; the standard error of a Gaussian's is sqrt(24 / n) = 0.015.
    assert kurtosis[0] == pytest.approx(0.0, abs=0.08)
    assert kurtosis[1] == pytest.approx(-2.0 * 0.95**4, abs=0.08)


def test_ring_features_reach_a_network_between_minus_one_and_one_and_points_lie_at_their_radius() -> None:
    features = draw_features(1_000, np.random.default_rng(3))
    inputs = features.inputs()
    assert inputs.dtype == np.float32
    assert inputs.shape == (1_000, 5)
    assert np.abs(inputs).max() <= 1.0
    assert np.abs(inputs).max(axis=0).min() > 0.98
    radius = draw_radius(features, np.random.default_rng(4))
    points = to_plane(features, radius)
    assert np.hypot(*points.T) == pytest.approx(np.abs(radius))


def test_a_synthetic_series_differs_from_what_was_expected_by_its_noise() -> None:
    series = synthetic_series(240_000, np.random.default_rng(5))
    unit = (series.values - series.expected) / series.noise
    assert stats.kstest(unit, "norm").pvalue > 0.01
    assert abs(np.corrcoef(unit[1:], unit[:-1])[0, 1]) < 5 / math.sqrt(len(unit))
    assert series.noise[PERIOD // 2] == pytest.approx(6.0 * series.noise[0])


@given(st.integers(2, 30), st.data())
def test_windows_hold_the_past_and_never_what_they_must_foretell(count: int, data: st.DataObject) -> None:
    length = data.draw(st.integers(1, count - 1))
    steps = np.arange(float(count))
    past, targets = windows(np.stack([steps, -steps], axis=1), steps, length)
    assert past.shape == (count - length, length, 2)
    assert np.array_equal(past[:, -1, 0], targets - 1)
    assert np.array_equal(past[:, 0, 0], targets - length)
    assert np.array_equal(past[..., 1], -past[..., 0])


def test_a_series_too_short_for_a_window_is_refused() -> None:
    for count, length in ((3, 3), (3, 0)):
        with pytest.raises(InputError, match="no window"):
            windows(np.zeros((count, 1)), np.zeros(count), length)


def test_toy_data_leave_the_gap_empty() -> None:
    rng = np.random.default_rng(6)
    for x, y in (toy1d.regression(1_001, rng), toy1d.classification(1_001, rng)):
        assert len(x) == len(y) == 1_001
        assert np.abs(x).min() >= 0.35
        assert np.abs(x).max() <= 1.0
    x, y = toy1d.regression(50_000, rng)
    assert (y - toy1d.curve(x)).std() == pytest.approx(toy1d.NOISE, rel=5 / math.sqrt(100_000))
    x, classes = toy1d.classification(50_000, rng)
    assert np.mean(classes == (x > 0)) == pytest.approx(0.9, abs=5 * 0.3 / math.sqrt(50_000))


@given(st.lists(st.booleans(), max_size=30), st.floats(0.1, 10), st.floats(0.1, 10))
def test_a_coins_posterior_is_that_of_bayes_rule_on_a_grid(tosses: list[bool], heads: float, tails: float) -> None:
    posterior = BetaBernoulli(heads=heads, tails=tails).given(np.array(tosses, bool))
    exact = stats.beta(heads + sum(tosses), tails + len(tosses) - sum(tosses))
    assert posterior.mean == pytest.approx(exact.mean())
    assert posterior.variance == pytest.approx(exact.var())


def test_a_rulers_posterior_is_that_of_bayes_rule_on_a_grid() -> None:
    prior, measured = GaussianMean(mean=1.0, variance=4.0, noise_variance=0.5), np.array([2.0, 2.5, 1.5])
    grid = np.linspace(-10.0, 10.0, 200_001)
    log_density = stats.norm(1.0, 2.0).logpdf(grid) + stats.norm(measured[:, None], math.sqrt(0.5)).logpdf(grid).sum(0)
    mass = np.exp(log_density - log_density.max())
    mass /= mass.sum()
    mean = float(mass @ grid)
    posterior = prior.given(measured)
    assert posterior.mean == pytest.approx(mean, rel=1e-6)
    assert posterior.variance == pytest.approx(float(mass @ (grid - mean) ** 2), rel=1e-6)
    assert prior.given(measured[:0]) == prior
    assert prior.given(measured[:1]).given(measured[1:]).mean == pytest.approx(posterior.mean)


def test_priors_that_are_no_distributions_are_refused() -> None:
    with pytest.raises(InputError, match="above 0"):
        BetaBernoulli(heads=0.0)
    with pytest.raises(InputError, match="above 0"):
        GaussianMean(variance=-1.0)


def test_breast_cancer_is_what_the_literature_counts() -> None:
    pytest.importorskip("sklearn")
    features, labels = load_breast_cancer()
    assert features.shape == (569, 30)
    assert (np.sum(labels == MALIGNANT), np.sum(labels == BENIGN)) == (212, 357)
