"""The scripted expert: stays on the road, and comes back to it from anywhere."""

from __future__ import annotations

import numpy as np
import pytest

from edge_bdl_train.carracing.environment import CarState, DrivingEnvironment
from edge_bdl_train.carracing.expert import Expert, hold_speed


@pytest.fixture(scope="module")
def environment() -> DrivingEnvironment:
    return DrivingEnvironment()


def drive(environment: DrivingEnvironment, steps: int, speed: float) -> np.ndarray:
    distances = []
    for _ in range(steps):
        environment.step(Expert().control(environment.car, environment.track, speed))
        distances.append(environment.distance_to_centre)
    return np.array(distances)


@pytest.mark.parametrize(("seed", "speed"), [(0, 30.0), (1, 40.0)])
def test_it_stays_on_the_road_at_its_speed(environment: DrivingEnvironment, seed: int, speed: float) -> None:
    environment.reset(seed)
    assert drive(environment, 500, speed).max() < 5.0
    assert environment.car.speed == pytest.approx(speed, rel=0.1)


@pytest.mark.parametrize(("side", "turned"), [(15.0, 0.0), (-30.0, 1.5), (40.0, np.pi), (0.0, np.pi)])
def test_it_brings_a_lost_car_back(environment: DrivingEnvironment, side: float, turned: float) -> None:
    environment.reset(2)
    car = environment.car
    right = np.array([np.cos(car.heading_rad), np.sin(car.heading_rad)])
    environment.place(car.position + side * right, car.heading_rad + turned)
    distances = drive(environment, 600, 30.0)
    assert distances[-150:].max() < 5.0
    assert environment.car.speed == pytest.approx(30.0, rel=0.1)


@pytest.mark.parametrize("speed", [0.0, 10.0, 25.0])
def test_hold_speed_slows_a_fast_car_to_what_is_asked(environment: DrivingEnvironment, speed: float) -> None:
    environment.reset(0)
    drive(environment, 150, 40.0)
    for _ in range(100):
        steering = Expert().steering(environment.car, environment.track)
        environment.step(hold_speed(steering, environment.car, speed))
    assert environment.car.speed == pytest.approx(speed, abs=1.0)


def test_a_car_at_rest_that_is_told_to_rest_gets_no_gas() -> None:
    control = hold_speed(0.2, CarState(position=np.zeros(2), heading_rad=0.0, speed=0.0), 0.0)
    assert (control.steering, control.gas) == (0.2, 0.0)
