"""AUROC, FPR95 and the curve behind them, against numbers worked by hand, scikit-learn and torchmetrics."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from sklearn import metrics
from torchmetrics.functional.classification import binary_roc

from edge_bdl.errors import InputError
from edge_bdl_train.evaluation.ood import fpr95, roc, separation


def test_numbers_worked_by_hand() -> None:
    # Of 3 x 2 pairs the outsider scores higher in 4 and the same in 1.
    assert separation([1.0, 2.0, 3.0], [2.0, 5.0]).auroc == pytest.approx(4.5 / 6)
    # 95 of 100 known examples score up to 95; so do 2 of 4 outsiders.
    assert fpr95(np.arange(1.0, 101.0), [10.0, 95.0, 95.5, 200.0]) == 0.5
    # 95 % of 10 cannot be kept; all must be, up to the largest.
    assert fpr95(np.arange(10.0), [8.5, 9.0, 9.5, 20.0]) == 0.5


def test_perfect_useless_and_inverted_scores() -> None:
    assert separation([0.0, 1.0], [2.0, 3.0]).auroc == 1.0
    assert separation([0.0, 1.0], [2.0, 3.0]).fpr95 == 0.0
    assert separation([1.0, 1.0], [1.0, 1.0]).auroc == 0.5
    assert separation([1.0, 1.0], [1.0, 1.0]).fpr95 == 1.0
    assert separation([2.0, 3.0], [0.0, 1.0]).auroc == 0.0


def test_it_is_scikit_learns_auroc_and_torchmetrics_fpr_where_95_percent_pass() -> None:
    rng = np.random.default_rng(0)
    known, outside = rng.normal(size=700), np.round(rng.normal(1.0, 2.0, 300), 1)
    ours = separation(known, outside)
    labels = np.repeat([0, 1], [700, 300])
    assert ours.auroc == pytest.approx(metrics.roc_auc_score(labels, np.concatenate([known, outside])), abs=1e-6)
    # The known ones are the positives, and a low score speaks for them.
    passing = torch.sigmoid(-torch.from_numpy(np.concatenate([known, outside])))
    false_positives, true_positives, _ = binary_roc(passing, torch.from_numpy(1 - labels))
    assert ours.fpr95 == pytest.approx(float(false_positives[true_positives >= 0.95 - 1e-6][0]), abs=1e-6)


def test_only_the_order_counts_even_far_beyond_one() -> None:
    # torchmetrics would put a sigmoid over these, after which all of them were 1.
    rng = np.random.default_rng(1)
    known, outside = rng.normal(size=100), rng.normal(1.0, size=100)
    ours, large = separation(known, outside), separation(1e6 + 1e3 * known, 1e6 + 1e3 * outside)
    assert 0.6 < ours.auroc < 0.9
    assert (large.auroc, large.fpr95) == (ours.auroc, ours.fpr95)


def test_the_curve_goes_from_corner_to_corner_and_has_that_area() -> None:
    rng = np.random.default_rng(2)
    known, outside = rng.normal(size=300), rng.normal(1.0, size=200)
    curve = roc(known, outside)
    assert (curve.false_alarms[0], curve.detected[0]) == (0.0, 0.0)
    assert (curve.false_alarms[-1], curve.detected[-1]) == (1.0, 1.0)
    area = float(torch.trapezoid(curve.detected, curve.false_alarms))
    assert area == pytest.approx(separation(known, outside).auroc, abs=1e-6)


@pytest.mark.parametrize(
    ("known", "outside", "message"),
    [
        ([], [1.0], "scores must be"),
        ([1.0], [], "scores of outsiders must be"),
        ([1.0, math.nan], [1.0], "1 of 2 scores are not finite"),
        ([1.0], [math.inf], "scores of outsiders are not finite"),
        ([[1.0]], [1.0], r"\[N\]"),
    ],
)
def test_what_are_no_scores_is_refused(known: Any, outside: Any, message: str) -> None:
    for metric in (separation, roc, fpr95):
        with pytest.raises(InputError, match=message):
            metric(known, outside)
