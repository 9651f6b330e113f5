"""Laplace prior, under which most weights are small and the most probable ones are sparse."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from edge_bdl.errors import InputError
from edge_bdl_train.priors.base import Prior


@dataclass(frozen=True)
class Laplace(Prior):
    """Independent densities exp(-|w| / scale) / (2 scale); the standard deviation is sqrt(2) scale.

    Raises:
        InputError: the scale is not above 0.
    """

    scale: float = 1.0

    def __post_init__(self) -> None:
        """Checks the range."""
        if not 0.0 < self.scale < math.inf:
            raise InputError(f"a Laplace prior needs a scale above 0, got {self.scale}")

    def log_prob(self, weight: Tensor) -> Tensor:
        """The log-density."""
        return -(weight.abs() / self.scale + math.log(2.0 * self.scale)).sum()

    def kl(self, mean: Tensor, sigma: Tensor) -> Tensor:
        """log(2 scale) + E|w| / scale less the Gaussian's entropy, summed.

        E|w| is the mean of a folded normal, with r = mean / sigma: sigma sqrt(2 / pi) exp(-r^2 / 2)
        + mean erf(r / sqrt(2)) (Leone, Nelson and Nottingham 1961).
        """
        # The factors of sigma and mean are E|w|'s derivatives by them, so that nothing needs to be differentiated
        # through the ratio, which has no finite derivative where sigma is close to 0.
        ratio = mean.detach() / sigma.detach().clamp(min=torch.finfo(sigma.dtype).tiny)
        by_sigma, by_mean = (
            math.sqrt(2.0 / math.pi) * torch.exp(-0.5 * ratio.square()),
            torch.erf(ratio / math.sqrt(2.0)),
        )
        size = sigma * by_sigma + mean * by_mean
        entropy = torch.log(sigma) + 0.5 * math.log(2.0 * math.pi * math.e)
        return (math.log(2.0 * self.scale) + size / self.scale - entropy).sum()
