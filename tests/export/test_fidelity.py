"""Fidelity: its statistics, divergences and scores against closed forms, torch's distributions and the runtime."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch.distributions import Categorical, Normal, kl_divergence

from edge_bdl.manifest import Task
from edge_bdl.uncertainty import decompose
from edge_bdl_export.fidelity import (
    Reading,
    curve,
    divergence,
    epistemic,
    prefix_means,
    rank_correlation,
    statistics,
)

READINGS = [Reading("classification", 1), Reading("regression", None), Reading("heteroscedastic", None)]


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("reading", READINGS, ids=lambda reading: reading.task)
def test_epistemic_scores_are_those_that_the_runtime_computes(reading: Reading):
    outputs = drawn(5, 7, 1, 4, 6)
    means = statistics(outputs, reading).mean(1)
    for frame, mean in zip(outputs.numpy(), means, strict=True):
        parts = decompose(reading.task, frame, unbiased=False, class_axis=reading.class_axis)
        assert np.allclose(epistemic(mean, reading.task), parts.epistemic.ravel(), rtol=1e-6, atol=1e-9)


def test_class_probabilities_come_from_the_axis_that_holds_the_classes():
    outputs = drawn(2, 3, 1, 5, 4)
    stats = statistics(outputs, Reading("classification", 1))
    assert stats.shape == (2, 3, 4, 6)
    expected = outputs.double().softmax(3)[1, 2, 0, :, 3]
    assert torch.allclose(stats[1, 2, 3, :5], expected)
    assert float(stats[1, 2, 3, 5]) == pytest.approx(float(Categorical(probs=expected).entropy()))


def test_divergence_of_classes_is_that_of_categorical_distributions():
    outputs = drawn(3, 6, 1, 4)
    means = statistics(outputs, Reading("classification", 1))
    p, q = means[:, :3].mean(1), means[:, 3:].mean(1)
    expected = kl_divergence(Categorical(probs=p[:, 0, :4]), Categorical(probs=q[:, 0, :4]))
    assert torch.allclose(divergence(p, q, "classification")[:, 0], expected, atol=1e-9)


@pytest.mark.parametrize("task", ["regression", "heteroscedastic"])
def test_divergence_of_targets_is_that_of_gaussians_of_the_same_moments(task: Task):
    outputs = drawn(4, 9, 1, 2).double()
    stats = statistics(outputs, Reading(task, None))
    distributions = []
    for rows in (slice(0, 5), slice(5, 9)):
        mean = outputs[:, rows, 0, :1]
        noise = outputs[:, rows, 0, 1:].exp().mean(1) if task == "heteroscedastic" else 0.0
        mean = mean if task == "heteroscedastic" else outputs[:, rows, 0]
        distributions.append(Normal(mean.mean(1), (mean.var(1, correction=0) + noise).sqrt()))
    expected = kl_divergence(*distributions)
    actual = divergence(stats[:, :5].mean(1), stats[:, 5:].mean(1), task)
    assert torch.allclose(actual, expected, rtol=1e-8)


def test_a_large_offset_of_the_targets_does_not_drown_their_variance():
    outputs = 1000.0 + 1e-2 * drawn(1, 500, 1, 1)
    mean = statistics(outputs, Reading("regression", None)).mean(1)
    assert float(epistemic(mean, "regression")) == pytest.approx(float(outputs.double().var(correction=0)), rel=1e-3)


def test_prefix_means_are_means_of_prefixes():
    stats = drawn(2, 5, 3, 4).double()
    means = prefix_means(stats)
    for count in range(1, 6):
        assert torch.allclose(means[:, count - 1], stats[:, :count].mean(1))


def test_rank_correlation_counts_order_only():
    a = np.array([0.1, 0.2, 0.3, 0.4])
    assert rank_correlation(a, np.exp(50.0 * a)) == pytest.approx(1.0)
    assert rank_correlation(a, -a) == pytest.approx(-1.0)
    # One swap of neighbours: 1 - 6 * 2 / (4 * 15).
    assert rank_correlation(a, np.array([1.0, 3.0, 2.0, 4.0])) == pytest.approx(0.8)
    assert rank_correlation(a, np.ones(4)) == 0.0


@pytest.mark.parametrize("reading", READINGS, ids=lambda reading: reading.task)
def test_a_curve_tells_of_every_prefix_from_two_members_on(reading: Reading):
    stats = statistics(drawn(30, 6, 1, 4), reading)
    reference = statistics(drawn(30, 40, 1, 4, seed=1), reading).mean(1)
    found = curve(stats.unbind(1), reference, reading.task)
    assert len(found.kl) == len(found.spearman) == len(found.scores) == 5
    for i, count in enumerate(range(2, 7)):
        mean = stats[:, :count].mean(1)
        score, expected = (epistemic(values, reading.task) for values in (mean, reference))
        assert found.kl[i] == pytest.approx(float(divergence(reference, mean, reading.task).mean()))
        assert found.spearman[i] == pytest.approx(spearmanr(score.flatten(), expected.flatten()).statistic)
        assert torch.allclose(found.scores[i], score.max(1).values)


def test_members_that_are_the_whole_posterior_are_faithful():
    stats = statistics(drawn(20, 8, 1, 2), Reading("regression", None))
    found = curve(stats.unbind(1), stats.mean(1), "regression")
    assert abs(found.kl[-1]) < 1e-9
    assert found.spearman[-1] == pytest.approx(1.0)
    assert found.kl[0] > found.kl[3] > 1e-3
