"""Track geometry against a circle, where everything is known."""

from __future__ import annotations

import numpy as np
import pytest

from edge_bdl_train.carracing.track import Track


@pytest.fixture
def circle() -> Track:
    angle = np.linspace(0, 2 * np.pi, 360, endpoint=False)
    return Track(100.0 * np.stack([np.cos(angle), np.sin(angle)], axis=1))


@pytest.mark.parametrize("radius", [80.0, 100.0, 107.0, 300.0])
@pytest.mark.parametrize("degrees", [0.0, 10.25, 359.5])
def test_distance_to_a_circle_is_the_difference_of_the_radii(circle: Track, radius: float, degrees: float) -> None:
    angle = np.radians(degrees)
    position = radius * np.array([np.cos(angle), np.sin(angle)])
    # A circle of 360 chords lies at most 0.004 inside the true one.
    assert circle.distance(position) == pytest.approx(abs(radius - 100.0), abs=0.01)


def test_the_distance_between_two_tiles_is_measured_to_the_line_that_joins_them() -> None:
    square = Track(np.array([[0.0, 0.0], [10.0, 0.0], [10.0, 10.0], [0.0, 10.0]]))
    assert square.distance(np.array([5.0, -2.0])) == pytest.approx(2.0)
    assert square.distance(np.array([-3.0, 5.0])) == pytest.approx(3.0)  # the last tile joins the first


def test_tiles_ahead_wrap_around_the_end_of_the_lap(circle: Track) -> None:
    position = np.array([90.0, -2.0])
    assert circle.nearest_tile(position) == 359
    np.testing.assert_allclose(circle.tile_ahead(position, 4), circle.centre[3])
