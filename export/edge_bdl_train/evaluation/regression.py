"""How right predicted means and variances are: of a mixture of one Gaussian per member, or of samples.

torchmetrics has the last one of these too, for samples; it works on all pairs at once, [N, S, S], and only in its
biased form.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from edge_bdl.errors import InputError
from edge_bdl_train.evaluation.checks import finite, member_gaussians, targets_of


def rmse(mean: Any, targets: Any) -> float:
    """Root mean squared error of the members' average, in units of the target.

    Args:
        mean: [S, N] or [N].
        targets: [N].

    Raises:
        InputError: the two do not fit each other.
    """
    return float((_error(mean, targets) ** 2).mean().sqrt())


def mae(mean: Any, targets: Any) -> float:
    """Mean absolute error; everything else as for ``rmse``."""
    return float(_error(mean, targets).abs().mean())


def log_likelihood(mean: Any, variance: Any, targets: Any) -> float:
    """Mean logarithm of the mixture's density at the targets: log (1/S) sum_s N(y; mean_s, variance_s).

    In nats, larger is better (Gal and Ghahramani 2016, arXiv 1506.02142, equation 8, where all variances are 1/tau).

    Args:
        mean: [S, N] or [N].
        variance: the same shape, above 0, squared units of the target.
        targets: [N].

    Raises:
        InputError: they do not fit each other, or a variance is 0, under which no target has a density.
    """
    means, variances = member_gaussians(mean, variance)
    y = targets_of(targets, means.shape[1])
    if not (variances > 0.0).all():
        raise InputError("a likelihood needs variances above 0: add the noise's")
    log_density = -0.5 * ((y - means) ** 2 / variances + variances.log() + math.log(2.0 * math.pi))
    return float((log_density.logsumexp(0) - math.log(len(means))).mean())


def crps_gaussian(mean: Any, variance: Any, targets: Any) -> float:
    """Mean continuous ranked probability score of the mixture, in closed form (Grimit et al. 2006, equation 5).

    In units of the target, smaller is better. One member gives Gneiting and Raftery's (2007, equation 5) Gaussian; one
    without variance the absolute error. Takes S passes over [S, N].

    Args:
        mean: [S, N] or [N].
        variance: the same shape, at least 0.
        targets: [N].

    Raises:
        InputError: they do not fit each other.
    """
    means, variances = member_gaussians(mean, variance)
    y = targets_of(targets, means.shape[1])
    to_target = _expected_distance(y - means, variances).mean(0)
    among = torch.stack(
        [_expected_distance(means - m, variances + v).mean(0) for m, v in zip(means, variances, strict=True)]
    ).mean(0)
    return float((to_target - 0.5 * among).mean())


def crps_samples(samples: Any, targets: Any, *, unbiased: bool = True) -> float:
    """Mean continuous ranked probability score of a distribution that is known by samples only.

    E|X - y| - E|X - X'| / 2 (Gneiting and Raftery 2007, equation 21), in units of the target, smaller is better.

    Args:
        samples: [S, N], at least 2.
        targets: [N].
        unbiased: whether the samples stand for a distribution from which they were drawn; then X and X' are different
            ones (Ferro 2014). Otherwise they are the distribution.

    Raises:
        InputError: they do not fit each other, or there are too few.
    """
    drawn = finite("samples", samples, "[S, N]", (2,))
    y = targets_of(targets, drawn.shape[1])
    count = len(drawn)
    if count < 2:
        raise InputError(f"a distribution known by samples needs at least 2 of them, got {count}")
    # Of sorted samples: the i-th, counted from 0, is the larger one of i pairs and the smaller one of S - 1 - i.
    sign = 2.0 * torch.arange(count, dtype=torch.float64) - (count - 1)
    pairs = count * (count - 1) if unbiased else count * count
    half_spread = sign @ drawn.sort(0).values / pairs
    return float(((drawn - y).abs().mean(0) - half_spread).mean())


def _error(mean: Any, targets: Any) -> Tensor:
    means = torch.atleast_2d(finite("means", mean, "[S, N] or [N]", (1, 2)))
    return targets_of(targets, means.shape[1]) - means.mean(0)


def _expected_distance(mean: Tensor, variance: Tensor) -> Tensor:
    """E|X| of a Gaussian X."""
    deviation = variance.sqrt()
    z = torch.where(deviation > 0.0, mean / deviation.clamp_min(torch.finfo(torch.float64).tiny), 0.0)
    density = torch.exp(-0.5 * z**2) / math.sqrt(2.0 * math.pi)
    inside = mean * torch.erf(z / math.sqrt(2.0)) + 2.0 * deviation * density
    return torch.where(deviation > 0.0, inside, mean.abs())
