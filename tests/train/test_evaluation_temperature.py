"""The temperature of an averaged distribution: found again, the best on a grid, and the one that an export fits."""

from __future__ import annotations

import numpy as np
import pytest

from edge_bdl.calibration import temper
from edge_bdl_train.evaluation.classification import nll
from edge_bdl_train.evaluation.temperature import HIGHEST, LOWEST, fit_temperature


def sharpened(truth: float) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities [N, K] that, tempered by ``truth``, are what the labels were drawn from."""
    rng = np.random.default_rng(0)
    right = rng.dirichlet(np.full(5, 0.7), 20_000)
    labels = (right.cumsum(-1) < rng.random((20_000, 1))).sum(-1).clip(0, 4)
    return temper(right, 1.0 / truth), labels


@pytest.mark.parametrize("truth", [0.5, 1.0, 2.5])
def test_the_temperature_that_made_the_labels_is_found(truth: float) -> None:
    # The slope's standard error over 20,000 labels is about 1 %; five times that.
    assert fit_temperature(*sharpened(truth)) == pytest.approx(truth, rel=0.05)


def test_it_is_the_best_on_a_grid() -> None:
    rng = np.random.default_rng(1)
    probabilities, labels = rng.dirichlet(np.ones(3), 500), rng.integers(0, 3, 500)
    probabilities[np.arange(500), labels] += 0.4
    probabilities /= probabilities.sum(-1, keepdims=True)
    fitted = nll(temper(probabilities, fit_temperature(probabilities, labels)), labels)
    assert fitted <= min(nll(temper(probabilities, t), labels) for t in np.geomspace(LOWEST, HIGHEST, 400)) + 1e-9


@pytest.mark.parametrize("truth", [0.3, 1.7, 6.0])
def test_it_is_the_one_that_an_export_fits(truth: float) -> None:
    calibrate = pytest.importorskip("edge_bdl_export.calibrate")
    probabilities, labels = sharpened(truth)
    theirs = calibrate.fit_temperature(probabilities, labels)
    assert fit_temperature(probabilities, labels) == pytest.approx(theirs, rel=1e-5)


def test_the_average_is_tempered_and_not_the_members() -> None:
    rng = np.random.default_rng(2)
    members = rng.dirichlet(np.ones(3), (4, 2000))
    right = temper(members.mean(0), 0.5)
    labels = (right.cumsum(-1) < rng.random((2000, 1))).sum(-1).clip(0, 2)
    assert fit_temperature(members, labels) == fit_temperature(members.mean(0), labels)
    # The slope's standard error is about 4 %; a single member knows less, and is far too sure of it.
    assert fit_temperature(members, labels) == pytest.approx(0.5, rel=0.15)
    assert fit_temperature(members[0], labels) > 1.0


def test_it_ends_at_its_limits() -> None:
    surely = np.tile([0.9, 0.1], (50, 1))
    assert fit_temperature(surely, np.zeros(50, int)) == pytest.approx(LOWEST, rel=1e-6)
    assert fit_temperature(surely, np.ones(50, int)) == pytest.approx(HIGHEST, rel=1e-6)


def test_a_class_that_underflowed_softens_but_stays_finite() -> None:
    assert 1.0 < fit_temperature(np.tile([1.0, 0.0], (50, 1)), np.repeat([0, 1], [40, 10])) <= HIGHEST
