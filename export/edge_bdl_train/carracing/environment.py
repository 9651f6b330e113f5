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
from functools import cache
from typing import Any

import numpy as np
from edge_bdl.errors import EdgeBdlError
from numpy.typing import NDArray

from edge_bdl_train.carracing.track import HALF_ROAD_UNITS, Track

STEPS_PER_SECOND = 50
FRAME_SHAPE = (96, 96, 3)


class SimulatorMissingError(EdgeBdlError):
    """The driving simulator is not installed."""

    def __init__(self, reason: str) -> None:
        """Words the remedy; ``reason`` is what the import said."""
        super().__init__(f"the driving simulator is missing ({reason}): pip install 'edge-bdl[carracing]'")


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
            SimulatorMissingError: gymnasium or Box2D is not installed.
        """
        self._simulator = _simulator_class()()
        self._frame = np.zeros(FRAME_SHAPE, np.uint8)
        self._track: Track | None = None

    def reset(self, seed: int) -> NDArray[np.uint8]:
        """Puts the car at rest at the start of the track of this seed; returns the first frame, uint8 [96, 96, 3]."""
        simulator = self._simulator
        simulator.reset(seed=seed)
        self._track = Track(np.array([(x, y) for _, _, x, y in simulator.track]))
        # The simulator zooms in during its first second and wipes the stripes off tiles that were driven over.
        # A camera does neither: start after the zoom, and with every tile plain, so that all laps look alike.
        simulator.t = 1.0
        for tile in simulator.road:
            tile.color[:] = simulator.road_color
        return self._take(simulator.step(None)[0])

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
            raise EdgeBdlError("the environment has no track yet: call reset(seed) first")
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
        from gymnasium.envs.box2d.car_dynamics import Car

        self._simulator.car.destroy()
        self._simulator.car = Car(self._simulator.world, heading_rad, float(position[0]), float(position[1]))

    def close(self) -> None:
        """Frees the simulator."""
        self._simulator.close()

    def _take(self, frame: Any) -> NDArray[np.uint8]:
        self._frame = np.ascontiguousarray(frame, dtype=np.uint8)
        return self._frame


@cache
def _simulator_class() -> Any:
    """CarRacing that draws only what its camera can see: the same pixels in half the time."""
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    try:
        with warnings.catch_warnings():
            # Box2D's wrapper warns while it loads, and crashes the process where warnings are errors.
            warnings.simplefilter("ignore")
            importlib.import_module("Box2D")
            base = importlib.import_module("gymnasium.envs.box2d.car_racing")
    except ImportError as error:
        raise SimulatorMissingError(str(error)) from error
    except Exception as error:  # gymnasium raises its own DependencyNotInstalled
        if type(error).__name__ != "DependencyNotInstalled":
            raise
        raise SimulatorMissingError(str(error)) from error

    # The camera looks (500, 600) pixels sideways and ahead; a polygon reaches at most a grass patch's diagonal further.
    reach = math.hypot(500, 600) / (base.ZOOM * base.SCALE) + base.GRASS_DIM * math.sqrt(2)
    patches = np.array([(x, y) for x in range(-20, 20, 2) for y in range(-20, 20, 2)]) * base.GRASS_DIM
    square = np.array([(1, 0), (0, 0), (0, 1), (1, 1)]) * base.GRASS_DIM
    bounds = base.PLAYFIELD
    field = [(bounds, bounds), (bounds, -bounds), (-bounds, -bounds), (-bounds, bounds)]

    class NearbyCarRacing(base.CarRacing):  # type: ignore[misc, name-defined]
        def reset(self, **options: Any) -> Any:
            self._corners = np.zeros((0, 2))
            return super().reset(**options)

        def _render_road(self, zoom: float, translation: Any, angle: float) -> None:
            def draw(polygon: Any, color: Any, clip: bool = True) -> None:
                self._draw_colored_polygon(self.surf, polygon, color, zoom, translation, angle, clip=clip)

            if len(self._corners) != len(self.road_poly):
                self._corners = np.array([polygon[0] for polygon, _ in self.road_poly])
            here = np.array([self.car.hull.position[0], self.car.hull.position[1]])
            draw(field, self.bg_color, clip=False)
            for corner in patches[np.abs(patches - here).max(axis=1) < reach]:
                draw((corner + square).tolist(), self.grass_color)
            for index in np.flatnonzero(np.abs(self._corners - here).max(axis=1) < reach):
                polygon, color = self.road_poly[index]
                draw(polygon, [int(c) for c in color])

    return NearbyCarRacing
