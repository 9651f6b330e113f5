"""Applying fitted temperatures and interval scales, against closed forms."""

import math
from statistics import NormalDist

import numpy as np
import pytest

from edge_bdl.calibration import COVERAGE, fitted_at, interval_half_width, temper
from edge_bdl.errors import InputError


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


@pytest.mark.parametrize(
    ("samples", "expected"), [(1, None), (2, 1.1), (3, 1.1), (4, 1.2), (15, 1.2), (16, 1.3), (99, 1.3)]
)
def test_a_frame_uses_the_largest_calibrated_count_that_is_at_most_its_own(
    samples: int, expected: float | None
) -> None:
    assert fitted_at({16: 1.3, 2: 1.1, 4: 1.2}, samples) == expected


def test_nothing_fitted_gives_nothing() -> None:
    assert fitted_at({}, 16) is None


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5])
def test_temper_divides_the_logits(rng: np.random.Generator, temperature: float) -> None:
    logits = rng.normal(size=(5, 7))
    softmax = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    tempered = np.exp(logits / temperature) / np.exp(logits / temperature).sum(-1, keepdims=True)
    np.testing.assert_allclose(temper(softmax, temperature), tempered, rtol=1e-12)


def test_temper_works_along_any_class_axis(rng: np.random.Generator) -> None:
    probabilities = rng.dirichlet(np.ones(4), size=(3, 5))
    moved = temper(np.moveaxis(probabilities, -1, 0), 1.7, class_axis=0)
    np.testing.assert_allclose(np.moveaxis(moved, 0, -1), temper(probabilities, 1.7))


def test_temper_keeps_the_dtype_and_impossible_classes_impossible() -> None:
    tempered = temper(np.array([0.0, 0.25, 0.75], dtype=np.float32), 2.0)
    assert tempered.dtype == np.float32
    root = math.sqrt(3.0)
    np.testing.assert_allclose(tempered, [0.0, 1.0 / (1.0 + root), root / (1.0 + root)], rtol=1e-6)


def test_a_tiny_temperature_picks_the_largest_class_without_dividing_by_zero() -> None:
    probabilities = np.full(1000, 1e-3, dtype=np.float32)
    probabilities[3] *= 1.5
    tempered = temper(probabilities / probabilities.sum(), 0.001)
    assert tempered.argmax() == 3
    assert tempered[3] == pytest.approx(1.0)


def test_unfitted_intervals_of_a_normal_distribution_cover_ninety_percent(rng: np.random.Generator) -> None:
    assert interval_half_width(np.array(4.0), 1.0) == pytest.approx(2.0 * NormalDist().inv_cdf((1.0 + COVERAGE) / 2.0))
    errors = rng.normal(scale=3.0, size=200_000)
    covered = np.mean(np.abs(errors) <= interval_half_width(np.full(errors.shape, 9.0), 1.0))
    assert covered == pytest.approx(0.9, abs=0.003)


def test_intervals_scale_with_the_fitted_factor_and_keep_their_shape() -> None:
    total = np.array([[1.0, 4.0], [0.0, 9.0]])
    np.testing.assert_allclose(interval_half_width(total, 2.0), 2.0 * interval_half_width(total, 1.0))
    assert interval_half_width(total, 2.0).shape == (2, 2)


@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan, math.inf])
def test_a_factor_that_is_none_is_refused(bad: float) -> None:
    with pytest.raises(InputError, match="a temperature is positive and finite"):
        temper(np.array([0.5, 0.5]), bad)
    with pytest.raises(InputError, match="an interval scale is positive and finite"):
        interval_half_width(np.array(1.0), bad)
