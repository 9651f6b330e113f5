"""The reliability diagram and both calibration errors, against numbers worked by hand and torchmetrics."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import multiclass_calibration_error

from edge_bdl.errors import InputError
from edge_bdl_train.evaluation.reliability import ece, reliability


def binary(confidence: list[float], right: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Predictions of class 0 with these confidences, and labels by which they are right or wrong."""
    p = np.array(confidence)
    return np.stack([p, 1.0 - p], -1), 1 - np.array(right)


def test_a_diagram_worked_by_hand() -> None:
    # In two bins all lie in (0.5, 1]; in five: 0.55 and 0.6 in (0.4, 0.6], 0.7 and 0.8 in (0.6, 0.8], 1 in (0.8, 1].
    probabilities, labels = binary([0.55, 0.6, 0.7, 0.8, 1.0], [1, 0, 0, 1, 1])
    bins = reliability(probabilities, labels, bins=5)
    assert bins.confidence.tolist() == pytest.approx([0.575, 0.75, 1.0])
    assert bins.accuracy.tolist() == pytest.approx([0.5, 0.5, 1.0])
    assert bins.share.tolist() == pytest.approx([0.4, 0.4, 0.2])
    assert ece(probabilities, labels, bins=5) == pytest.approx(0.4 * 0.075 + 0.4 * 0.25)
    assert ece(probabilities, labels, bins=2) == pytest.approx(0.73 - 0.6)


def test_bins_of_equal_mass_worked_by_hand() -> None:
    probabilities, labels = binary([0.9, 0.6, 0.7, 0.8], [1, 0, 1, 1])
    bins = reliability(probabilities, labels, bins=2, equal_mass=True)
    assert bins.confidence.tolist() == pytest.approx([0.65, 0.85])
    assert bins.accuracy.tolist() == pytest.approx([0.5, 1.0])
    assert bins.share.tolist() == [0.5, 0.5]
    assert ece(probabilities, labels, bins=2, equal_mass=True) == pytest.approx(0.15)


def test_bins_of_equal_mass_hold_as_many_examples_each() -> None:
    rng = np.random.default_rng(0)
    probabilities, labels = rng.dirichlet(np.ones(5), 997), rng.integers(0, 5, 997)
    share = reliability(probabilities, labels, bins=10, equal_mass=True).share * 997
    assert len(share) == 10
    assert set(share.round().int().tolist()) <= {99, 100}


def test_equal_confidences_stay_together_whatever_their_order() -> None:
    # All are equally sure, the first half is right. Cut by order, the bins would be off by 0.25 and by 0.75.
    probabilities, labels = binary([0.75] * 20, [1] * 10 + [0] * 10)
    assert ece(probabilities, labels, bins=2, equal_mass=True) == pytest.approx(0.25)
    order = np.random.default_rng(1).permutation(20)
    assert ece(probabilities[order], labels[order], bins=2, equal_mass=True) == pytest.approx(0.25)


@pytest.mark.parametrize("bins", [1, 10, 15])
def test_bins_of_equal_width_are_torchmetrics(bins: int) -> None:
    rng = np.random.default_rng(2)
    probabilities, labels = rng.dirichlet(np.full(4, 0.4), 2000) * 0.999 + 0.00025, rng.integers(0, 4, 2000)
    theirs = multiclass_calibration_error(
        torch.from_numpy(probabilities), torch.from_numpy(labels), num_classes=4, n_bins=bins
    )
    # Theirs sums in float32.
    assert ece(probabilities, labels, bins=bins) == pytest.approx(float(theirs), abs=1e-6)


def test_a_confidence_of_one_belongs_to_the_last_bin() -> None:
    # 0.95 and wrong, 1 and right: together off by 0.475; torchmetrics counts them apart, and off by 0.475 and 0.
    probabilities, labels = binary([0.95, 1.0], [0, 1])
    assert ece(probabilities, labels, bins=10) == pytest.approx(0.475)
    bins = reliability(probabilities, labels, bins=10)
    assert bins.share.tolist() == [1.0]


@pytest.mark.parametrize("equal_mass", [False, True])
def test_labels_drawn_from_the_probabilities_are_calibrated(equal_mass: bool) -> None:
    rng = np.random.default_rng(3)
    probabilities = rng.dirichlet(np.ones(3), 100_000)
    labels = (probabilities.cumsum(-1) < rng.random((100_000, 1))).sum(-1).clip(0, 2)
    # Each of 15 bins' accuracies is off by about sqrt(0.25 / 6667) = 0.006 by chance; always 0.8 of that on average.
    assert ece(probabilities, labels, equal_mass=equal_mass) < 0.006
    assert ece(probabilities**3 / (probabilities**3).sum(-1, keepdims=True), labels, equal_mass=equal_mass) > 0.1


def test_no_bin_is_refused() -> None:
    with pytest.raises(InputError, match="at least 1 bin, got 0"):
        reliability([[0.5, 0.5]], [0], bins=0)
