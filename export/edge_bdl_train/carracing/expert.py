"""A scripted driver who knows the track: the teacher, and the human who takes over."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from edge_bdl_train.carracing.environment import CarState, Control
from edge_bdl_train.carracing.track import HALF_ROAD_UNITS, Track


@dataclass(frozen=True)
class Expert:
    """Steers to a tile ahead, from any pose; slows down to come back when it is off the road.

    Attributes:
        tiles_ahead: how far ahead it aims; a tile is 3.5 units long.
        gain: steering for one radian between the car's heading and its aim.
        recovery_speed: the most it drives, in units a second, when off the road or facing the wrong way.
    """

    tiles_ahead: int = 4
    gain: float = 2.0
    recovery_speed: float = 15.0

    def steering(self, car: CarState, track: Track) -> float:
        """Steering in [-1, 1] towards the tile ahead."""
        return float(np.clip(-self.gain * self._bearing(car, track), -1.0, 1.0))

    def control(self, car: CarState, track: Track, target_speed: float) -> Control:
        """Steering, and gas or brake to hold ``target_speed`` (units a second), or less while recovering."""
        lost = track.distance(car.position) > HALF_ROAD_UNITS or abs(self._bearing(car, track)) > math.pi / 3
        speed = min(target_speed, self.recovery_speed) if lost else target_speed
        return hold_speed(self.steering(car, track), car, speed)

    def _bearing(self, car: CarState, track: Track) -> float:
        """Angle from the car's heading to its aim, in radians in [-pi, pi], positive left."""
        x, y = track.tile_ahead(car.position, self.tiles_ahead) - car.position
        angle = math.atan2(-x, y) - car.heading_rad
        return math.atan2(math.sin(angle), math.cos(angle))


def hold_speed(steering: float, car: CarState, target_speed: float) -> Control:
    """Control that steers and holds ``target_speed`` (units a second); zero brings the car to rest."""
    error = target_speed - car.speed
    gas = float(np.clip(0.1 * error, 0.0, 0.5)) if target_speed > 0.0 else 0.0
    brake = float(np.clip(-0.05 * error, 0.0, 0.8)) if error < 0.0 else 0.0
    return Control(steering=steering, gas=gas, brake=brake)
