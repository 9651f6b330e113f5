"""Activations of a Gaussian.

With a = m / s, the rectifier's mean is s g(a) and its variance v h(a), where g(a) = a Phi(a) + phi(a) and
h(a) = (1 + a^2) Phi(a) + a phi(a) - g(a)^2 (Frey and Hinton 1999, "Variational learning in nonlinear Gaussian belief
networks"). The error function is 25 operations in TFLite, and every operation a pass through memory. What is written
are two fits of one sigmoid H(a) = sigmoid(d0 + d1 a): h(a) = H, and g(a) = H (a + c (1 - H)). They are off by at most
``VARIANCE_ERROR`` v and ``MEAN_ERROR`` s, mostly by less; after PilotNet's eight rectifiers the mean is off by 1.5 % of
the output's deviation. However certain an input is, no digits are lost, and no variance becomes negative.

The larger of two Gaussians (Clark 1961, "The greatest of a finite set of random variables") has the same two functions:
its variance is v1 h(a) + v2 h(-a), with a = (m1 - m2) / sqrt(v1 + v2).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from edge_bdl_export.forms.moments.normal import UNIT, Normal

# Minimax fits: d0 and d1 for h, then c for g.
_SHIFT, _SLOPE, _BUMP = -0.69482017, math.sqrt(UNIT), 1.8352454
MEAN_ERROR, VARIANCE_ERROR = 0.0336, 0.0089
# Where errors would add up, pair by pair: g(a) = max(a, 0) + exp(e0 + e1 |a| + e2 a^2).
_EXCESS = (-0.9198779, -1.23407401, -0.33488054)
EXCESS_ERROR = 3.8e-4
# Standard deviations from the bend at which both functions have reached their limits. Farther out squares would become
# denormal numbers, and with those processors are ten times slower.
_FAR = 9.0
# Phi(a) = sigmoid(1.702 a), off by at most 0.0095.
_LOGISTIC = 1.702
# Nodes and weights of Gauss-Hermite quadrature for N(0, 1).
_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(5)
_WEIGHTS = _WEIGHTS / _WEIGHTS.sum()


class _Bend:
    """Both functions of ``distance / deviation``, for a deviation in units of ``unit``."""

    def __init__(self, distance: Tensor, deviation: Tensor, unit: float) -> None:
        self.distance, self.deviation, self.unit = distance, deviation, unit
        self.standard = torch.clamp(distance / deviation, -_FAR * unit, _FAR * unit)
        self.share = self._share(1.0)

    def rectified(self) -> Tensor:
        """S g(a): the mean of the larger of ``distance`` and 0, within ``MEAN_ERROR``."""
        return self.share * (self.distance + self.deviation * ((1.0 - self.share) * (_BUMP * self.unit)))

    def excess(self) -> Tensor:
        """S (g(a) - max(a, 0)), within ``EXCESS_ERROR``."""
        first, second, third = _EXCESS
        magnitude = torch.abs(self.standard)
        exponent = magnitude * (magnitude * (third / self.unit**2) + second / self.unit) + (first + math.log(self.unit))
        return self.deviation * torch.exp(exponent)

    def other_share(self) -> Tensor:
        """h(-a)."""
        return self._share(-1.0)

    def _share(self, sign: float) -> Tensor:
        """h(a): the share of the variance that passes."""
        slope = sign * _SLOPE / self.unit
        return torch.sigmoid((self.standard if slope == 1.0 else self.standard * slope) + _SHIFT)


def relu(x: Normal) -> Normal:
    """max(x, 0)."""
    x = x.above_zero()
    bend = _Bend(x.mean, torch.sqrt(x.spread), math.sqrt(x.scale))
    return Normal(bend.rectified(), x.spread * bend.share, x.scale)


def larger(x: Normal, y: Normal) -> Normal:
    """max(x, y) of independent x and y."""
    first, second = x.above_zero().spread, y.in_scale(x.scale)
    bend = _Bend(x.mean - y.mean, torch.sqrt(first + second), math.sqrt(x.scale))
    mean = torch.maximum(x.mean, y.mean) + bend.excess()
    return Normal(mean, first * bend.share + second * bend.other_share(), x.scale)


def leaky_relu(x: Normal, slope: float | Tensor = 0.01) -> Normal:
    """K x + (1 - k) max(x, 0), whose two terms have covariance v Phi(a) (Stein's lemma)."""
    if isinstance(slope, Tensor) and slope.numel() > 1:
        slope = slope.reshape(-1, *(1 for _ in x.mean.shape[2:]))
    x = x.above_zero()
    rectified, rest = relu(x), 1.0 - slope
    passed = torch.sigmoid(x.mean / torch.sqrt(x.spread) * (_LOGISTIC / math.sqrt(x.scale)))
    spread = rectified.spread * (rest * rest) + x.spread * (slope * slope + passed * (2.0 * slope * rest))
    return Normal(x.mean * slope + rectified.mean * rest, spread, x.scale)


def clamp(x: Normal, low: float | None = None, high: float | None = None) -> Normal:
    """The input kept within bounds.

    The mean is that of two rectifiers. The variance is v h(a) h(b) for the distances a and b to the bounds, and at most
    a quarter of the squared width: exact where one bound matters, up to 10 % too large while the standard deviation is
    below half the width, up to 60 % where it is as large as the width.
    """
    if low is None or high is None:
        if high is not None:
            return _negated(clamp(_negated(x), -high))
        return x if low is None else _shifted(relu(_shifted(x, -low)), low)
    x = x.above_zero()
    deviation, unit = torch.sqrt(x.spread), math.sqrt(x.scale)
    below, above = _Bend(x.mean - low, deviation, unit), _Bend(x.mean - high, deviation, unit)
    mean = torch.clamp(x.mean, low, high) + below.excess() - above.excess()
    spread = torch.clamp(x.spread * below.share * above.other_share(), max=(high - low) ** 2 / 4.0 / x.scale)
    return Normal(mean, spread, x.scale)


def _shifted(x: Normal, by: float) -> Normal:
    return Normal(x.mean + by, x.spread, x.scale, x.floored)


def _negated(x: Normal) -> Normal:
    return Normal(-x.mean, x.spread, x.scale, x.floored)


def smooth(function: Callable[..., Tensor]) -> Callable[..., Normal]:
    """A rule for any smooth function, by Gauss-Hermite quadrature at five points.

    Five evaluations. Of sigmoid, tanh, GELU, SiLU and softplus the standard deviation is within 2 % for inputs of
    deviation 0.5, within 15 % for 1; where an input is far more uncertain than that, what the function does between the
    points is not seen. (The probit-type variance in closed form, Daunizeau 2017, arXiv 1703.00091, is 26 % off in the
    middle of a sigmoid however certain the input is, and four times too large on its flanks.)
    """

    def rule(x: Normal, *settings: Any, **named: Any) -> Normal:
        deviation = torch.sqrt(x.above_zero().variance)
        points = [function(x.mean + deviation * float(node), *settings, **named) for node in _NODES]
        mean = sum((point * float(weight) for point, weight in zip(points[1:], _WEIGHTS[1:], strict=True)),
                   start=points[0] * float(_WEIGHTS[0]))  # fmt: skip
        deviations = [point - mean for point in points]
        spread = sum((d * d * float(weight) for d, weight in zip(deviations[1:], _WEIGHTS[1:], strict=True)),
                     start=deviations[0] * deviations[0] * float(_WEIGHTS[0]))  # fmt: skip
        return Normal(mean, spread)

    return rule
