"""CarRacing-v3 without a window: seeded tracks, the camera frame, and what the track and the car can tell.

The simulator ends an episode after one lap or when the car leaves the playing field; this environment never does:
it drives for as many steps as it is asked to. 50 steps are one second.
"""

from __future__ import annotations

import importlib
import math
import os
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_bdl.errors import InputError, require
from edge_bdl_train.carracing.track import HALF_ROAD_UNITS, Track

STEPS_PER_SECOND = 50
FRAME_SHAPE = (96, 96, 3)


@dataclass(frozen=True)
class CarState:
    """Pose and motion of the car: position in units, heading in radians (0 is +y, positive left), units a second."""

    position: NDArray[np.float64]
    heading_rad: float
    speed: float


@dataclass(frozen=True)
class Control:
    """What a driver does in one step: steering in [-1 left, 1 right], gas and brake in [0, 1]."""

    steering: float
    gas: float = 0.0
    brake: float = 0.0


class DrivingEnvironment:
    """A car with a camera on a seeded track."""

    def __init__(self) -> None:
        """Loads the simulator.

        Raises:
            MissingExtraError: gymnasium, Box2D or pygame is not installed.
        """
        self._simulator = _simulator()
        self._frame = np.zeros(FRAME_SHAPE, np.uint8)
        self._track: Track | None = None

    def reset(self, seed: int, lap_share: float = 0.0) -> NDArray[np.uint8]:
        """Puts the car at rest on the track of this seed; returns the first frame, uint8 [96, 96, 3].

        Args:
            seed: Of the track.
            lap_share: How far round the lap, in [0, 1); 0 is the starting line, around which all tracks look alike.

        Raises:
            InputError: There is no such place.
        """
        if not 0.0 <= lap_share < 1.0:
            raise InputError(f"lap_share is in [0, 1), got {lap_share}")
        frame, _ = self._simulator.reset(seed=seed)
        tiles = self._simulator.track
        self._track = Track(np.array([(x, y) for _, _, x, y in tiles]))
        if lap_share:
            _, heading_rad, x, y = tiles[int(lap_share * len(tiles))]
            self.place(np.array([x, y]), heading_rad)
            frame = self._simulator.step(None)[0]
        return self._take(frame)

    def step(self, control: Control) -> NDArray[np.uint8]:
        """Drives one fiftieth of a second; returns the frame after it, uint8 [96, 96, 3]."""
        action = np.array([np.clip(control.steering, -1.0, 1.0), control.gas, control.brake])
        return self._take(self._simulator.step(action)[0])

    @property
    def frame(self) -> NDArray[np.uint8]:
        """The latest camera frame, uint8 [96, 96, 3]."""
        return self._frame

    @property
    def track(self) -> Track:
        """The track of the last reset."""
        if self._track is None:
            raise InputError("the environment has no track yet: call reset(seed) first")
        return self._track

    @property
    def car(self) -> CarState:
        """Where the car is and how it moves."""
        hull = self._simulator.car.hull
        return CarState(
            position=np.array([hull.position[0], hull.position[1]]),
            heading_rad=float(hull.angle),
            speed=float(math.hypot(*hull.linearVelocity)),
        )

    @property
    def distance_to_centre(self) -> float:
        """Distance of the car's centre from the road's centre line, in units."""
        return self.track.distance(self.car.position)

    @property
    def off_track(self) -> bool:
        """Whether the car's centre is off the road."""
        return self.distance_to_centre > HALF_ROAD_UNITS

    def place(self, position: NDArray[np.float64], heading_rad: float) -> None:
        """Puts the car, at rest, at a pose (units; radians, 0 is +y, positive left): for trying recoveries."""
        self._simulator.place(position, heading_rad)

    def close(self) -> None:
        """Frees the simulator."""
        self._simulator.close()

    def _take(self, frame: Any) -> NDArray[np.uint8]:
        self._frame = np.ascontiguousarray(frame, dtype=np.uint8)
        return self._frame


def _simulator() -> Any:
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    with warnings.catch_warnings():
        # Box2D's wrapper warns while it loads, and crashes the process where warnings are errors.
        warnings.simplefilter("ignore")
        for package in ("Box2D", "pygame", "gymnasium"):
            require(package, "carracing", "to simulate driving")
        module = importlib.import_module("edge_bdl_train.carracing.simulator")
    return module.CameraCarRacing()
