"""Geometry of a closed track: where a position lies relative to its centre line."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

HALF_ROAD_UNITS = 40.0 / 6.0
"""Half the width of the road in simulator units (CarRacing's TRACK_WIDTH)."""


@dataclass(frozen=True)
class Track:
    """The centre line of a closed track.

    Attributes:
        centre: float64 [T, 2], the centres of the tiles in driving order, in simulator units; the last joins the first.
    """

    centre: NDArray[np.float64]

    def nearest_tile(self, position: NDArray[np.float64]) -> int:
        """Index of the tile whose centre is nearest to ``position`` (float64 [2])."""
        return int(np.argmin(np.sum((self.centre - position) ** 2, axis=1)))

    def tile_ahead(self, position: NDArray[np.float64], tiles: int) -> NDArray[np.float64]:
        """Centre (float64 [2]) of the tile that lies ``tiles`` tiles ahead of the one nearest to ``position``."""
        return self.centre[(self.nearest_tile(position) + tiles) % len(self.centre)]

    def distance(self, position: NDArray[np.float64]) -> float:
        """Distance from ``position`` (float64 [2]) to the centre line, in units, measured to its segments."""
        start = self.centre
        segment = np.roll(start, -1, axis=0) - start
        offset = position - start
        along = np.sum(offset * segment, axis=1) / np.sum(segment**2, axis=1)
        foot = offset - np.clip(along, 0.0, 1.0)[:, None] * segment
        return float(np.sqrt(np.min(np.sum(foot**2, axis=1))))
