"""CarRacing-v3 that draws only what its camera can see: the same pixels in little more than half the time.

Imported when the environment is built, for it needs gymnasium[box2d].
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from gymnasium.envs.box2d.car_dynamics import Car
from gymnasium.envs.box2d.car_racing import GRASS_DIM, PLAYFIELD, SCALE, WINDOW_H, WINDOW_W, ZOOM, CarRacing
from numpy.typing import NDArray

# The camera sees this far from the car, sideways and ahead; a polygon reaches a grass patch's diagonal further at most.
_REACH_UNITS = math.hypot(WINDOW_W / 2, WINDOW_H * 3 / 4) / (ZOOM * SCALE) + GRASS_DIM * math.sqrt(2)
_FIELD = [(PLAYFIELD, PLAYFIELD), (PLAYFIELD, -PLAYFIELD), (-PLAYFIELD, -PLAYFIELD), (-PLAYFIELD, PLAYFIELD)]
_PATCHES = GRASS_DIM * np.array([(x, y) for x in range(-20, 20, 2) for y in range(-20, 20, 2)])
_PATCH = GRASS_DIM * np.array([(1, 0), (0, 0), (0, 1), (1, 1)])


class CameraCarRacing(CarRacing):
    """The simulator, with its animation and its lap marks taken out, so that all frames of a track look alike."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        """Puts the car at the start of the seed's track."""
        self._corners = np.zeros((0, 2))
        super().reset(seed=seed, options=options)
        # The stock simulator zooms in during its first second, and wipes the stripes off tiles that were driven over.
        self.t = 1.0
        for tile in self.road:
            tile.color[:] = self.road_color
        return self.step(None)[0], {}

    def place(self, position: NDArray[np.float64], heading_rad: float) -> None:
        """Replaces the car by one at rest at this pose."""
        self.car.destroy()
        self.car = Car(self.world, heading_rad, float(position[0]), float(position[1]))

    def _render_road(self, zoom: float, translation: Any, angle: float) -> None:
        def draw(polygon: Any, color: Any, clip: bool = True) -> None:
            self._draw_colored_polygon(self.surf, polygon, color, zoom, translation, angle, clip=clip)

        if len(self._corners) != len(self.road_poly):
            self._corners = np.array([polygon[0] for polygon, _ in self.road_poly])
        car = np.array([self.car.hull.position[0], self.car.hull.position[1]])
        draw(_FIELD, self.bg_color, clip=False)
        for corner in _PATCHES[np.abs(_PATCHES - car).max(axis=1) < _REACH_UNITS]:
            draw((corner + _PATCH).tolist(), self.grass_color)
        for index in np.flatnonzero(np.abs(self._corners - car).max(axis=1) < _REACH_UNITS):
            polygon, color = self.road_poly[index]
            draw(polygon, [int(channel) for channel in color])
