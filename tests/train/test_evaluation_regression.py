"""Errors, log-likelihood of a mixture, and CRPS, against numbers worked by hand, integrals, scipy and torchmetrics."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from torchmetrics.functional.regression import continuous_ranked_probability_score

from edge_bdl.errors import InputError
from edge_bdl_train.evaluation.regression import crps_gaussian, crps_samples, log_likelihood, mae, rmse

MEANS, VARIANCES = np.array([[0.0, 1.0], [2.0, -1.0], [0.5, 4.0]]), np.array([[1.0, 0.25], [4.0, 0.01], [0.5, 2.0]])
TARGETS = np.array([0.7, -0.9])


def test_errors_of_the_average_worked_by_hand() -> None:
    # Averages 1 and 3 of targets 0 and 7.
    members = [[0.0, 2.0], [2.0, 4.0]]
    assert rmse(members, [0.0, 7.0]) == pytest.approx(math.sqrt((1 + 16) / 2))
    assert mae(members, [0.0, 7.0]) == pytest.approx(2.5)
    assert rmse([1.0, 3.0], [0.0, 7.0]) == pytest.approx(math.sqrt(8.5))


def test_one_members_log_likelihood_is_the_gaussians() -> None:
    expected = stats.norm.logpdf(TARGETS, MEANS[0], np.sqrt(VARIANCES[0])).mean()
    assert log_likelihood(MEANS[0], VARIANCES[0], TARGETS) == pytest.approx(expected)
    assert log_likelihood([0.0], [1.0], [0.0]) == pytest.approx(-0.5 * math.log(2 * math.pi))


def test_many_members_log_likelihood_is_the_mixtures_not_their_mean() -> None:
    densities = stats.norm.pdf(TARGETS, MEANS, np.sqrt(VARIANCES))
    expected = np.log(densities.mean(0)).mean()
    assert log_likelihood(MEANS, VARIANCES, TARGETS) == pytest.approx(expected)
    assert expected > np.log(densities).mean()


def test_a_target_far_away_from_all_members_does_not_underflow() -> None:
    # exp(-5e5) is 0 in any float.
    assert log_likelihood([0.0], [1.0], [1e3]) == pytest.approx(-0.5e6 - 0.5 * math.log(2 * math.pi))


def test_crps_of_a_gaussian_worked_by_hand() -> None:
    # At its mean: (sqrt(2) - 1) / sqrt(pi) standard deviations (Gneiting and Raftery 2007, equation 5).
    assert crps_gaussian([5.0], [9.0], [5.0]) == pytest.approx(3 * (math.sqrt(2) - 1) / math.sqrt(math.pi))
    z, deviation = 1.3, 2.0
    closed = deviation * (z * (2 * stats.norm.cdf(z) - 1) + 2 * stats.norm.pdf(z) - 1 / math.sqrt(math.pi))
    assert crps_gaussian([1.0], [4.0], [1.0 + deviation * z]) == pytest.approx(closed)


@pytest.mark.parametrize("members", [1, 3])
def test_crps_is_the_integral_that_it_stands_for(members: int) -> None:
    def squared_gap(x: float, means: np.ndarray, deviations: np.ndarray, target: float) -> float:
        return float((stats.norm.cdf(x, means, deviations).mean() - (x >= target)) ** 2)

    expected = np.mean(
        [
            integrate.quad(squared_gap, -25, y, args=(MEANS[:members, i], VARIANCES[:members, i] ** 0.5, y), limit=200)[
                0
            ]
            + integrate.quad(
                squared_gap, y, 25, args=(MEANS[:members, i], VARIANCES[:members, i] ** 0.5, y), limit=200
            )[0]
            for i, y in enumerate(TARGETS)
        ]
    )
    assert crps_gaussian(MEANS[:members], VARIANCES[:members], TARGETS) == pytest.approx(expected, abs=1e-6)


def test_crps_without_variance_is_the_absolute_error_and_of_members_that_of_their_points() -> None:
    assert crps_gaussian([1.0, 2.0], [0.0, 0.0], [4.0, 2.0]) == pytest.approx(1.5)
    points = np.random.default_rng(0).normal(size=(6, 4))
    targets = np.arange(4.0)
    assert crps_gaussian(points, np.zeros((6, 4)), targets) == pytest.approx(
        crps_samples(points, targets, unbiased=False)
    )


def test_crps_of_samples_worked_by_hand() -> None:
    # Samples 0, 1 and 5, target 2: mean distance to it 2; pairs 1, 5 and 4 apart.
    samples = [[1.0], [5.0], [0.0]]
    assert crps_samples(samples, [2.0], unbiased=False) == pytest.approx(2 - 0.5 * 2 * (1 + 5 + 4) / 9)
    assert crps_samples(samples, [2.0]) == pytest.approx(2 - 0.5 * 2 * (1 + 5 + 4) / 6)


def test_crps_of_samples_as_they_are_is_torchmetrics() -> None:
    rng = np.random.default_rng(1)
    samples, targets = rng.normal(size=(13, 50)), rng.normal(size=50)
    theirs = continuous_ranked_probability_score(torch.from_numpy(samples.T.copy()), torch.from_numpy(targets))
    assert crps_samples(samples, targets, unbiased=False) == pytest.approx(float(theirs))


def test_crps_of_few_samples_is_that_of_their_distribution_on_average() -> None:
    rng = np.random.default_rng(2)
    samples, targets = rng.normal(size=(3, 200_000)), rng.normal(size=200_000)
    truth = crps_gaussian(np.zeros(200_000), np.ones(200_000), targets)
    # One example's has a standard deviation below 1: five standard errors are 0.011. The biased one is off by 0.19.
    assert crps_samples(samples, targets) == pytest.approx(truth, abs=0.011)
    assert crps_samples(samples, targets, unbiased=False) - truth == pytest.approx(
        1 / (3 * math.sqrt(math.pi)), abs=0.011
    )


@pytest.mark.parametrize("metric", [log_likelihood, crps_gaussian])
@pytest.mark.parametrize(
    ("mean", "variance", "targets", "message"),
    [
        ([0.0], [math.nan], [0.0], "variances are not finite"),
        ([math.inf], [1.0], [0.0], "means are not finite"),
        ([0.0], [1.0], [math.nan], "targets are not finite"),
        ([], [], [], "not empty"),
        ([0.0], [-1.0], [0.0], "cannot be negative, got -1"),
        ([0.0, 1.0], [1.0], [0.0, 1.0], "every mean needs a variance"),
        ([0.0, 1.0], [1.0, 1.0], [0.0], "2 predictions need as many targets, got 1"),
        ([[[0.0]]], [[[1.0]]], [0.0], r"means must be \[S, N\] or \[N\]"),
        ([0.0], [1.0], [[0.0]], r"targets must be \[N\]"),
    ],
)
def test_what_does_not_fit_is_refused(
    metric: Callable[..., float], mean: Any, variance: Any, targets: Any, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        metric(mean, variance, targets)


def test_a_density_without_noise_and_a_single_sample_are_refused() -> None:
    with pytest.raises(InputError, match="variances above 0"):
        log_likelihood([0.0], [0.0], [0.0])
    with pytest.raises(InputError, match="at least 2"):
        crps_samples([[0.0]], [0.0])
    with pytest.raises(InputError, match="2 predictions need as many targets, got 1"):
        rmse([0.0, 1.0], [0.0])
