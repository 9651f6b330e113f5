"""Fidelity: its statistics, divergences and scores against closed forms, torch's distributions and the runtime."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributions import Categorical, Normal, kl_divergence

from edge_bdl.manifest import Task
from edge_bdl.uncertainty import decompose
from edge_bdl_export.fidelity import (
    Reading,
    divergence,
    epistemic,
    mean_statistics,
    measure,
    prefix_means,
    rank_correlation,
    statistics,
)
from edge_bdl_export.frames import FIGURES, CalibrationFrames

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


def test_a_bank_that_is_the_whole_posterior_is_faithful(networks: Callable[..., Any]):
    model = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Dropout(0.5), nn.Linear(16, 1)).eval()
    network, _ = networks(model, (torch.zeros(1, 4),))
    values = np.random.Generator(np.random.Philox(0)).normal(size=(20, 1, 4)).astype(np.float32)
    frames = CalibrationFrames(inputs={network.input_names[0]: values}, split=np.full(20, FIGURES))
    keep = np.random.Generator(np.random.Philox(1)).random((8, 1, 16)) < 0.5
    masks = {network.member_names[0]: (keep * 2.0).astype(np.float32)}
    reading = Reading("regression", None)
    rows = measure(network, frames, masks, masks, reading)
    assert [row.samples for row in rows] == list(range(2, 9))
    assert all(row.reference_members == 8 for row in rows)
    assert abs(rows[-1].kl) < 1e-9
    assert rows[-1].epistemic_spearman == pytest.approx(1.0)
    assert rows[0].kl > rows[4].kl > 1e-3
    assert mean_statistics(network, frames, masks, reading).shape == (20, 1, 3)
    assert all(math.isfinite(row.kl) for row in rows)
