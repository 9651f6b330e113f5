"""Dropout: what a random mask does to mean and variance."""

from __future__ import annotations

import math

from edge_bdl_export.dropout import SATURATION
from edge_bdl_export.forms.moments.normal import Normal, Value, mean_of


def dropout(x: Value, rate: float, alpha: bool = False) -> Normal:
    """X b / r with b = 1 with probability r = 1 - p, else 0: mean m, variance (v + p m^2) / r.

    Channel dropout has the same mean and variance in every unit; that all units of a channel fall together is not kept,
    for everything here is independent. Alpha dropout sends a dropped unit to -S and corrects by a gain g, so that the
    mean is g r m and the variance g^2 r (v + p (m + S)^2).
    """
    keep, mean = 1.0 - rate, mean_of(x)
    gain = 1.0 / math.sqrt((SATURATION**2 * rate + 1.0) * keep) if alpha else 1.0 / keep
    kept = mean + SATURATION if alpha else mean
    factor = gain * gain * keep
    dropped = mean * (gain * keep) if alpha else mean
    if not isinstance(x, Normal):
        return Normal(dropped, kept * kept, factor * rate)
    return Normal(dropped, x.spread + kept * kept * (rate / x.scale), x.scale * factor, x.floored)
