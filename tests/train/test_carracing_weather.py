"""Weather: what it may and may not do to a frame."""

from __future__ import annotations

import numpy as np
import pytest

from edge_bdl.errors import InputError
from edge_bdl_train.carracing.weather import WEATHERS, apply_weather

NAMES = sorted(WEATHERS)


@pytest.fixture
def frame() -> np.ndarray:
    """A grey road in green grass."""
    frame = np.full((96, 96, 3), (102, 215, 102), np.uint8)
    frame[:, 35:61] = 102
    return frame


def road_contrast(frame: np.ndarray, rows: slice) -> float:
    """Mean difference between the road and the grass beside it."""
    picture = frame[rows].astype(float)
    return float(np.abs(picture[:, 38:58].mean(axis=(0, 1)) - picture[:, 10:30].mean(axis=(0, 1))).max())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("severity", [0.0, 0.5, 1.0])
def test_a_frame_stays_a_frame_and_the_given_one_is_left_alone(name: str, severity: float, frame: np.ndarray) -> None:
    before = frame.copy()
    painted = apply_weather(name, frame, severity, np.random.default_rng(0))
    assert painted.shape == frame.shape
    assert painted.dtype == np.uint8
    assert not np.shares_memory(painted, frame)
    assert np.array_equal(frame, before)


@pytest.mark.parametrize("name", NAMES)
def test_severity_zero_changes_nothing_and_more_changes_more(name: str, frame: np.ndarray) -> None:
    changes = [
        np.abs(apply_weather(name, frame, severity, np.random.default_rng(0)).astype(float) - frame).mean()
        for severity in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
    ]
    assert changes[0] == 0.0
    assert np.all(np.diff(changes) > 1.0)


@pytest.mark.parametrize("name", NAMES)
def test_the_generator_alone_decides(name: str, frame: np.ndarray) -> None:
    first, again, other = (apply_weather(name, frame, 0.6, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_fog_hides_the_road_ahead_before_the_road_beside_the_car(frame: np.ndarray) -> None:
    painted = apply_weather("fog", frame, 0.5, np.random.default_rng(0))
    assert road_contrast(painted, slice(0, 20)) < 0.5 * road_contrast(painted, slice(62, 78))
    assert painted[:20].mean() > frame[:20].mean()


def test_night_darkens_all_but_the_headlights_cone(frame: np.ndarray) -> None:
    painted = apply_weather("night", frame, 0.9, np.random.default_rng(0)).astype(float)
    assert painted.mean() < 0.35 * frame.mean()
    assert painted[50:66, 42:54].mean() > 2.0 * painted[50:66, :12].mean()


def test_snow_whitens_the_ground(frame: np.ndarray) -> None:
    painted = apply_weather("snow", frame, 0.8, np.random.default_rng(0)).astype(float)
    assert painted.mean() > frame.mean() + 40
    assert road_contrast(painted, slice(0, 96)) < 0.7 * road_contrast(frame, slice(0, 96))


def test_unknown_weather_and_impossible_severity_are_refused(frame: np.ndarray) -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(InputError, match="fog, night, snow"):
        apply_weather("hail", frame, 0.5, rng)
    for severity in (-0.1, 1.1, float("nan")):
        with pytest.raises(InputError, match=r"\[0, 1\]"):
            apply_weather("fog", frame, severity, rng)
