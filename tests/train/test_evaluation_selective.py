"""Risk by coverage, its area, and accuracy by rejection, against numbers worked by hand."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest

from edge_bdl.errors import InputError
from edge_bdl_train.evaluation.selective import accuracy_rejection, aurc, risk_coverage

WRONG = [1.0, 0.0, 0.0, 1.0]
UNCERTAINTY = [0.9, 0.1, 0.3, 0.2]  # in order: right, wrong, right, wrong


def test_a_curve_worked_by_hand() -> None:
    curve = risk_coverage(WRONG, UNCERTAINTY)
    assert curve.coverage.tolist() == [0.25, 0.5, 0.75, 1.0]
    assert curve.risk.tolist() == pytest.approx([0.0, 1 / 2, 1 / 3, 2 / 4])
    assert aurc(WRONG, UNCERTAINTY) == pytest.approx((0 + 1 / 2 + 1 / 3 + 1 / 2) / 4)


def test_the_loss_itself_is_the_best_order_and_its_opposite_the_worst() -> None:
    assert aurc(WRONG, WRONG) == pytest.approx((0 + 0 + 1 / 3 + 2 / 4) / 4)
    areas = [aurc(WRONG, order) for order in itertools.permutations(range(4))]
    assert min(areas) == pytest.approx(aurc(WRONG, WRONG))
    assert max(areas) == pytest.approx((1 + 1 + 2 / 3 + 2 / 4) / 4)


def test_equal_uncertainties_count_as_the_average_over_their_orders() -> None:
    loss = np.array([3.0, 0.0, 1.0, 7.0])
    tied = [1.0, 2.0, 2.0, 2.0]
    orders = [loss[[0, *order]] for order in itertools.permutations((1, 2, 3))]
    expected = np.mean([np.cumsum(order) / [1, 2, 3, 4] for order in orders], axis=0)
    assert risk_coverage(loss, tied).risk.tolist() == pytest.approx(expected.tolist())


def test_a_score_that_says_nothing_has_the_mean_loss_as_its_area() -> None:
    assert aurc([3.0, 0.0, 1.0, 7.0], [5.0] * 4) == pytest.approx(2.75)


def test_only_the_order_of_the_uncertainties_counts() -> None:
    rng = np.random.default_rng(0)
    loss, score = rng.random(300), rng.normal(size=300)
    assert aurc(loss, score) == pytest.approx(aurc(loss, np.exp(3.0 * score)))


def test_accuracy_by_rejection_worked_by_hand() -> None:
    curve = accuracy_rejection(1.0 - np.array(WRONG), UNCERTAINTY)
    assert curve.rejected.tolist() == [0.0, 0.25, 0.5, 0.75]
    assert curve.accuracy.tolist() == pytest.approx([2 / 4, 2 / 3, 1 / 2, 1.0])


@pytest.mark.parametrize(
    ("loss", "uncertainty", "message"),
    [
        ([], [], "not empty"),
        ([1.0], [1.0, 2.0], "belong together, got 1 and 2"),
        ([1.0, math.inf], [1.0, 2.0], "1 of 2 losses are not finite"),
        ([1.0, 0.0], [1.0, math.nan], "1 of 2 uncertainties are not finite"),
        ([[1.0]], [1.0], r"losses must be \[N\]"),
    ],
)
def test_what_does_not_fit_is_refused(loss: Any, uncertainty: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        aurc(loss, uncertainty)
