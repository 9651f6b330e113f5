"""One input, one output: few points with a gap, so that there is somewhere to be unsure."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

NOISE = 0.1
"""Standard deviation of the targets around the curve."""

SIDES = ((-1.0, -0.35), (0.35, 1.0))
"""Where there are data; between these is the gap, and beyond them nothing."""


def curve(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """The truth."""
    return np.sin(3.0 * x) + 0.3 * x


def regression(count: int, rng: np.random.Generator) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Inputs [N], half on each side of the gap, and noisy targets [N]."""
    x = np.concatenate([rng.uniform(*side, half) for side, half in zip(SIDES, _halves(count), strict=True)])
    return x, curve(x) + rng.normal(0.0, NOISE, count)


def classification(count: int, rng: np.random.Generator) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Inputs [N], half on each side of the gap, and classes [N]: 0 on the left and 1 on the right, one in ten wrong."""
    first, second = _halves(count)
    x = np.concatenate([rng.uniform(*side, half) for side, half in zip(SIDES, (first, second), strict=True)])
    classes = np.repeat([0, 1], [first, second])
    return x, np.where(rng.random(count) < 0.1, 1 - classes, classes)


def _halves(count: int) -> tuple[int, int]:
    return count // 2, count - count // 2
