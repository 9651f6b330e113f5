"""Student-t likelihood: a mean and a variance per input, with tails that forgive outliers."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from edge_bdl.errors import InputError
from edge_bdl_train.likelihoods.base import MeanVarianceLikelihood


@dataclass(frozen=True)
class StudentT(MeanVarianceLikelihood):
    """Student's t around a mean; the network's last axis holds means, then log-variances, as for a Gaussian.

    The variance is the distribution's own, not its scale squared: scale^2 = variance (df - 2) / df.

    Args:
        df: degrees of freedom; the fewer, the heavier the tails.

    Raises:
        InputError: df is not above 2, below which there is no variance.
    """

    df: float = 4.0

    def __post_init__(self) -> None:
        """Checks the range."""
        if not 2.0 < self.df < math.inf:
            raise InputError(f"df must be above 2, below which a Student-t has no variance, got {self.df}")

    def log_prob(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The log-density, summed over the targets."""
        mean, log_variance = self.parameters_of(outputs)
        square = (self.columns(targets, outputs) - mean).square() * torch.exp(-log_variance) / (self.df - 2.0)
        constant = (
            math.lgamma(0.5 * (self.df + 1.0)) - math.lgamma(0.5 * self.df) - 0.5 * math.log(math.pi * (self.df - 2.0))
        )
        return (constant - 0.5 * log_variance - 0.5 * (self.df + 1.0) * torch.log1p(square)).sum(-1)
