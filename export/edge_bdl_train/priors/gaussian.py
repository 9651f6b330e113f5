"""Gaussian prior, and the closed form that most of variational inference runs on."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from edge_bdl.errors import InputError
from edge_bdl_train.priors.base import Prior


@dataclass(frozen=True, eq=False)
class Gaussian(Prior):
    """Independent N(mean, scale^2).

    Args:
        scale: standard deviation: of all weights, or a tensor that broadcasts to the weight.
        mean: of all weights, or a tensor that broadcasts to the weight.

    Raises:
        InputError: a scale is not above 0, or something is not finite.
    """

    scale: float | Tensor = 1.0
    mean: float | Tensor = 0.0

    def __post_init__(self) -> None:
        """Checks the ranges."""
        scale, mean = torch.as_tensor(self.scale), torch.as_tensor(self.mean)
        if not (torch.isfinite(scale).all() and (scale > 0.0).all() and torch.isfinite(mean).all()):
            raise InputError(f"a Gaussian prior needs finite means and scales above 0, got {self}")

    def log_prob(self, weight: Tensor) -> Tensor:
        """The Gaussian's log-density."""
        mean, scale = self._like(weight)
        density = -0.5 * ((weight - mean) / scale).square() - torch.log(scale) - 0.5 * math.log(2.0 * math.pi)
        return density.sum()

    def kl(self, mean: Tensor, sigma: Tensor) -> Tensor:
        """Between two Gaussians: log(s/sigma) + (sigma^2 + (mean - m)^2) / (2 s^2) - 1/2, summed."""
        own_mean, scale = self._like(mean)
        square = ((mean - own_mean) / scale).square() + (sigma / scale).square()
        return (torch.log(scale) - torch.log(sigma) + 0.5 * (square - 1.0)).sum()

    def at(self, entries: Tensor) -> Gaussian:
        """The entries' own means and scales, where there is more than one."""
        return Gaussian(_at(self.scale, entries), _at(self.mean, entries))

    def _like(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        like = {"dtype": weight.dtype, "device": weight.device}
        mean, scale = torch.as_tensor(self.mean, **like), torch.as_tensor(self.scale, **like)
        try:
            broadcast = torch.broadcast_shapes(weight.shape, mean.shape, scale.shape)
        except RuntimeError:
            broadcast = torch.Size()
        if broadcast != weight.shape:
            raise InputError(
                f"the prior's mean {list(mean.shape)} and scale {list(scale.shape)} do not broadcast to a weight "
                f"{list(weight.shape)}: give numbers, or tensors of the weight's shape"
            )
        return mean, scale


def _at(value: float | Tensor, entries: Tensor) -> float | Tensor:
    if not isinstance(value, Tensor) or value.ndim == 0:
        return value
    return value.expand(entries.shape)[entries.to(value.device)]
