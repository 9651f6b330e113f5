"""Rings: points around a circle, off it by a noise whose mean, width and shape are stated per point.

A generative data set for conditional distributions: given the features, the distribution of the radius is known. What a
network says of it can be compared with the truth, and not with one more sample.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

POSITIONS = (0.5, 1.5)
MEANS = (-0.2, 0.2)
WIDTHS = (0.05, 0.2)
SHARPEST_SPLIT = 0.95


class RingFeatures(NamedTuple):
    """What is given for each point; all float64 [N].

    Attributes:
        position: radius of the circle.
        angle: in radians, -pi to pi; it also sets the shape of the noise: two peaks at 0, a Gaussian at pi.
        width: standard deviation of the noise.
        mean: of the noise.
    """

    position: NDArray[np.float64]
    angle: NDArray[np.float64]
    width: NDArray[np.float64]
    mean: NDArray[np.float64]

    def inputs(self) -> NDArray[np.float32]:
        """For a network, float32 [N, 5], each about -1 to 1; the angle by its sine and cosine, for it has no ends."""
        columns = (
            _scaled(self.position, POSITIONS),
            np.sin(self.angle),
            np.cos(self.angle),
            _scaled(self.width, WIDTHS),
            _scaled(self.mean, MEANS),
        )
        return np.stack(columns, axis=1).astype(np.float32)


def draw_features(count: int, rng: np.random.Generator) -> RingFeatures:
    """Features that are independent of each other, and uniform."""
    return RingFeatures(
        rng.uniform(*POSITIONS, count),
        rng.uniform(-np.pi, np.pi, count),
        rng.uniform(*WIDTHS, count),
        rng.uniform(*MEANS, count),
    )


def draw_radius(features: RingFeatures, rng: np.random.Generator) -> NDArray[np.float64]:
    """One radius per point, float64 [N]: position + mean + width * (split * sign + rest), of variance width^2."""
    split, rest = _shape(features.angle)
    sign = rng.choice([-1.0, 1.0], len(split))
    unit = split * sign + rest * rng.standard_normal(len(split))
    return features.position + features.mean + features.width * unit


def radius_cdf(features: RingFeatures, radius: NDArray[np.float64]) -> NDArray[np.float64]:
    """Probability of a smaller radius.

    Args:
        features: N points.
        radius: [G], the same for all points, or [N, G].

    Returns:
        float64 [N, G].
    """
    split, rest = (part[:, None] for part in _shape(features.angle))
    unit = (radius - (features.position + features.mean)[:, None]) / features.width[:, None]
    return 0.5 * (_normal_cdf((unit - split) / rest) + _normal_cdf((unit + split) / rest))


def to_plane(features: RingFeatures, radius: NDArray[np.float64]) -> NDArray[np.float64]:
    """The points, float64 [N, 2]."""
    return radius[:, None] * np.stack([np.cos(features.angle), np.sin(features.angle)], axis=1)


def _shape(angle: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    # Two Gaussians at -split and split, of standard deviation rest: their mixture has variance 1 whatever the angle.
    split = SHARPEST_SPLIT * 0.5 * (1.0 + np.cos(angle))
    return split, np.sqrt(1.0 - split**2)


def _scaled(values: NDArray[np.float64], limits: tuple[float, float]) -> NDArray[np.float64]:
    low, high = limits
    return (2.0 * values - low - high) / (high - low)


def _normal_cdf(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return torch.special.ndtr(torch.from_numpy(values)).numpy()
