"""Do intervals hold as many targets as they claim, and how wide are they for that?"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from edge_bdl.errors import InputError
from edge_bdl_train.evaluation.checks import finite, paired, targets_of


class Interval(NamedTuple):
    """Float64 [N] each, in units of the target."""

    lower: Tensor
    upper: Tensor


def gaussian_interval(mean: Any, total: Any, level: float) -> Interval:
    """The central interval of one Gaussian per example: at 0.9, what the runtime gives with an interval scale of 1.

    Args:
        mean: [N], the predictive mean.
        total: [N], the predictive variance, at least 0: total uncertainty, in squared units of the target.
        level: what share of the targets it claims to hold, in (0, 1).

    Raises:
        InputError: the two do not fit each other, a variance is negative, or the level is no share.
    """
    _check_level(level)
    means, variances = paired("means", mean, "variances", total)
    if (variances < 0.0).any():
        raise InputError(f"a variance cannot be negative, got {float(variances.min()):g}")
    quantile = torch.special.ndtri(torch.tensor((1.0 + level) / 2.0, dtype=torch.float64))
    half_width = quantile * variances.sqrt()
    return Interval(means - half_width, means + half_width)


def sample_interval(samples: Any, level: float) -> Interval:
    """The central interval of samples [S, N], between quantiles interpolated linearly; as ``gaussian_interval``."""
    _check_level(level)
    drawn = finite("samples", samples, "[S, N]", (2,))
    edges = torch.tensor([(1.0 - level) / 2.0, (1.0 + level) / 2.0], dtype=torch.float64)
    lower, upper = drawn.quantile(edges, 0)
    return Interval(lower, upper)


def coverage(interval: Interval, targets: Any) -> float:
    """Share of the targets [N] that lie in their interval, borders included.

    Raises:
        InputError: there is not one target per interval, or an interval ends before it begins.
    """
    lower, upper = _checked(interval)
    y = targets_of(targets, len(lower))
    return float(((lower <= y) & (y <= upper)).double().mean())


def sharpness(interval: Interval) -> float:
    """Mean width, in units of the target; smaller is better among those that cover alike (Gneiting et al. 2007).

    Raises:
        InputError: an interval ends before it begins.
    """
    lower, upper = _checked(interval)
    return float((upper - lower).mean())


def _check_level(level: float) -> None:
    if not 0.0 < level < 1.0:
        raise InputError(f"an interval's level is a share between 0 and 1, got {level}")


def _checked(interval: Interval) -> Interval:
    lower, upper = paired("lower borders", interval.lower, "upper borders", interval.upper)
    if (upper < lower).any():
        raise InputError(f"{int((upper < lower).sum())} intervals end before they begin")
    return Interval(lower, upper)
