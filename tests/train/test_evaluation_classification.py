"""Accuracy, negative log-likelihood and Brier score, against numbers worked by hand, scikit-learn and torchmetrics."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from sklearn import metrics
from torchmetrics.functional.classification import multiclass_accuracy

from edge_bdl.errors import InputError
from edge_bdl_train.evaluation.classification import accuracy, brier, nll
from edge_bdl_train.evaluation.reliability import ece
from edge_bdl_train.evaluation.temperature import fit_temperature

# Three examples of three classes; the likeliest are 0, 1 and 1.
PROBABILITIES = [[0.7, 0.2, 0.1], [0.1, 0.6, 0.3], [0.25, 0.5, 0.25]]
LABELS = [0, 1, 2]


def drawn(seed: int, examples: int = 200, classes: int = 4, members: int = 5) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.dirichlet(np.full(classes, 0.5), (members, examples)), rng.integers(0, classes, examples)


def test_figures_worked_by_hand() -> None:
    assert accuracy(PROBABILITIES, LABELS) == pytest.approx(2 / 3)
    assert nll(PROBABILITIES, LABELS) == pytest.approx(-(math.log(0.7) + math.log(0.6) + math.log(0.25)) / 3)
    by_hand = (0.09 + 0.04 + 0.01) + (0.01 + 0.16 + 0.09) + (0.0625 + 0.25 + 0.5625)
    assert brier(PROBABILITIES, LABELS) == pytest.approx(by_hand / 3)


def test_members_are_averaged_before_they_are_judged() -> None:
    # One member is sure of the wrong class; their average, (0.45, 0.55), is not.
    members = [[[0.9, 0.1]], [[0.0, 1.0]]]
    assert accuracy(members, [1]) == 1.0
    assert nll(members, [1]) == pytest.approx(-math.log(0.55))
    assert brier(members, [1]) == pytest.approx(2 * 0.45**2)


def test_they_are_those_of_scikit_learn_and_torchmetrics() -> None:
    members, labels = drawn(0)
    average = members.mean(0)
    assert nll(members, labels) == pytest.approx(metrics.log_loss(labels, average))
    # scikit-learn's is the probability's of one class: half of the sum over two.
    two, yes = drawn(1, classes=2)
    assert brier(two, yes) == pytest.approx(2 * metrics.brier_score_loss(yes, two.mean(0)[:, 1]))
    theirs = multiclass_accuracy(torch.from_numpy(average), torch.from_numpy(labels), num_classes=4, average="micro")
    assert accuracy(members, labels) == pytest.approx(float(theirs))


def test_what_is_certain_and_right_is_perfect_and_what_is_certain_and_wrong_is_finite() -> None:
    certain = [[1.0, 0.0], [0.0, 1.0]]
    assert (accuracy(certain, [0, 1]), nll(certain, [0, 1]), brier(certain, [0, 1])) == (1.0, 0.0, 0.0)
    assert (accuracy(certain, [1, 0]), brier(certain, [1, 0])) == (0.0, 2.0)
    assert nll(certain, [1, 0]) == pytest.approx(-math.log(np.finfo(np.float32).tiny))


def test_tensors_arrays_and_lists_of_any_precision_are_alike() -> None:
    for given in (PROBABILITIES, np.array(PROBABILITIES, np.float32), torch.tensor(PROBABILITIES, requires_grad=True)):
        assert nll(given, torch.tensor(LABELS, dtype=torch.uint8)) == pytest.approx(
            nll(PROBABILITIES, LABELS), rel=1e-6
        )


@pytest.mark.parametrize("metric", [accuracy, nll, brier, ece, fit_temperature])
@pytest.mark.parametrize(
    ("probabilities", "labels", "message"),
    [
        ([[0.5, math.nan]], [0], "1 of 2 probabilities are not finite"),
        (np.zeros((0, 3)), np.zeros(0, int), r"not empty, got shape \[0, 3\]"),
        ([0.5, 0.5], [0], r"must be \[S, N, K\] or \[N, K\]"),
        ([[1.0]], [0], "at least 2 classes"),
        ([[0.9, 0.3]], [0], "sum to 1"),
        ([[1.5, -0.5]], [0], "not be negative"),
        ([[2.0, -1.0, 0.5]], [0], "not logits"),
        (PROBABILITIES, [0, 1], "3 predictions need as many whole-numbered labels"),
        (PROBABILITIES, [[0], [1], [2]], "3 predictions need as many whole-numbered labels"),
        (PROBABILITIES, [0.0, 1.0, 2.0], "whole-numbered labels, got torch.float32"),
        (PROBABILITIES, [True, False, True], "whole-numbered labels, got torch.bool"),
        (PROBABILITIES, [0, 1, 3], "from 0 to 2, got 0 to 3"),
        (PROBABILITIES, [-1, 1, 2], "from 0 to 2, got -1 to 2"),
        ("words", [0], "probabilities must be numbers"),
    ],
)
def test_what_is_no_probability_or_label_is_refused(
    metric: Callable[[Any, Any], float], probabilities: Any, labels: Any, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        metric(probabilities, labels)
