"""The simulated car: seeded, endless, and showing the very pixels of the stock simulator."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from edge_bdl.errors import InputError, MissingExtraError
from edge_bdl_train.carracing.environment import FRAME_SHAPE, Control, DrivingEnvironment
from edge_bdl_train.carracing.expert import Expert


@pytest.fixture
def environment() -> DrivingEnvironment:
    return DrivingEnvironment()


def drive(environment: DrivingEnvironment, seed: int, steps: int) -> np.ndarray:
    environment.reset(seed)
    for _ in range(steps):
        environment.step(Expert().control(environment.car, environment.track, 30.0))
    return environment.frame


def test_frames_are_camera_frames(environment: DrivingEnvironment) -> None:
    first = environment.reset(0)
    second = environment.step(Control(steering=0.0, gas=0.5))
    for frame in (first, second):
        assert frame.shape == FRAME_SHAPE
        assert frame.dtype == np.uint8
        assert frame.flags.c_contiguous
    assert np.array_equal(environment.frame, second)


def test_a_seed_repeats_its_drive_whatever_was_driven_before(environment: DrivingEnvironment) -> None:
    first = drive(environment, seed=3, steps=80)
    drive(environment, seed=4, steps=30)
    assert np.array_equal(drive(environment, seed=3, steps=80), first)
    assert not np.array_equal(drive(environment, seed=4, steps=80), first)


def test_a_drive_may_begin_anywhere_on_the_lap(environment: DrivingEnvironment) -> None:
    line = environment.reset(5)
    frame = environment.reset(5, 0.5)
    tiles = len(environment.track.centre)
    assert environment.track.nearest_tile(environment.car.position) == tiles // 2
    assert environment.distance_to_centre < 0.1
    assert environment.car.speed < 0.1
    # It looks along the road: to a tile ahead there is little to steer.
    assert abs(Expert(tiles_ahead=1).steering(environment.car, environment.track)) < 0.5
    assert not np.array_equal(frame, line)
    assert np.array_equal(environment.reset(5, 0.5), frame)
    assert np.array_equal(environment.reset(5), line)


@pytest.mark.parametrize("lap_share", [-0.1, 1.0, float("nan")])
def test_a_place_that_is_not_on_the_lap_is_refused(environment: DrivingEnvironment, lap_share: float) -> None:
    with pytest.raises(InputError, match="lap_share"):
        environment.reset(5, lap_share)


def test_the_camera_sees_the_pixels_of_the_stock_simulator(environment: DrivingEnvironment) -> None:
    from gymnasium.envs.box2d.car_racing import CarRacing

    stock = CarRacing()
    stock.reset(seed=5)
    stock.t = 1.0
    for tile in stock.road:
        tile.color[:] = stock.road_color
    stock.step(None)
    environment.reset(5)
    for step in range(60):
        control = Control(steering=0.3 * np.sin(step / 5), gas=0.5)
        expected, *_ = stock.step(np.array([control.steering, control.gas, control.brake]))
        assert np.array_equal(environment.step(control), expected)


def test_steering_right_turns_right_and_gas_drives_forward(environment: DrivingEnvironment) -> None:
    environment.reset(0)
    start = environment.car
    ahead = np.array([-np.sin(start.heading_rad), np.cos(start.heading_rad)])
    for _ in range(60):
        environment.step(Control(steering=0.5, gas=0.3))
    end = environment.car
    assert end.speed > 3.0
    assert np.dot(end.position - start.position, ahead) > 1.0
    assert end.heading_rad < start.heading_rad


def test_the_car_is_off_track_beyond_half_the_roads_width(environment: DrivingEnvironment) -> None:
    environment.reset(0)
    start, heading = environment.car.position, environment.car.heading_rad
    right = np.array([np.cos(heading), np.sin(heading)])
    for offset, off_track in ((0.0, False), (6.0, False), (7.5, True)):
        environment.place(start + offset * right, heading)
        assert environment.distance_to_centre == pytest.approx(offset, abs=0.3)
        assert environment.off_track is off_track


def test_driving_goes_on_after_the_lap_and_beyond_the_playing_field(environment: DrivingEnvironment) -> None:
    environment.reset(0)
    environment.place(np.array([400.0, 0.0]), 0.0)
    before = environment.car.position
    for _ in range(50):
        environment.step(Control(steering=0.0, gas=0.3))
    assert environment.car.position[1] > before[1]


def test_there_is_no_track_before_the_first_reset(environment: DrivingEnvironment) -> None:
    with pytest.raises(InputError, match="reset"):
        _ = environment.track


@pytest.mark.parametrize("package", ["Box2D", "gymnasium", "pygame"])
def test_without_the_simulator_the_error_says_what_to_install(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=r"pip install 'edge-bdl\[carracing\]'"):
        DrivingEnvironment()
