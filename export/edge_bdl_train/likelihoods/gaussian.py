"""Gaussian likelihoods: one noise for all examples, or one that the network states for each."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from edge_bdl.errors import InputError
from edge_bdl_train.likelihoods.base import MeanVarianceLikelihood, RegressionLikelihood


class Gaussian(nn.Module, RegressionLikelihood):
    """N(output, noise^2), with one noise for all targets.

    Args:
        noise: standard deviation, in units of the target; where it is learned, its initial value.
        learned: whether training may change the noise; the posterior keeps what became of it in its ``settings``.

    Raises:
        InputError: the noise is not above 0.
    """

    def __init__(self, noise: float = 1.0, *, learned: bool = False) -> None:
        super().__init__()
        if not 0.0 < noise < math.inf:
            raise InputError(f"noise must be above 0 and finite, got {noise}")
        # A float64 scalar: it does not change the dtype of what it meets, and keeps the noise as it was given.
        self.log_noise = nn.Parameter(torch.tensor(math.log(noise), dtype=torch.float64), requires_grad=learned)

    @property
    def outputs(self) -> int:
        """The mean."""
        return 1

    @property
    def noise(self) -> Tensor:
        """Standard deviation, a scalar, in units of the target."""
        return self.log_noise.exp()

    def log_prob(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The log-density, summed over the targets."""
        (mean,) = self.parameters_of(outputs)
        return gaussian_log_density(mean, 2.0 * self.log_noise, self.columns(targets, outputs)).sum(-1)

    def predictive_mean(self, outputs: Tensor) -> Tensor:
        """The outputs."""
        (mean,) = self.parameters_of(outputs)
        return mean

    def predictive_variance(self, outputs: Tensor) -> Tensor:
        """noise^2, everywhere."""
        return torch.ones_like(self.predictive_mean(outputs)) * self.noise.detach().square()


@dataclass(frozen=True)
class HeteroscedasticGaussian(MeanVarianceLikelihood):
    """N(mean, variance), both from the network: its last axis holds means, then log-variances.

    (Nix and Weigend 1994; Kendall and Gal 2017, arXiv 1703.04977, equation 8.)

    Args:
        beta: 0 to train on the negative log-likelihood; above 0 every example's loss is weighted by variance^beta, held
            constant, so that examples with a large variance still teach the mean (beta-NLL, Seitzer et al. 2022, arXiv
            2203.09168, equation 5; they advise 0.5). The log-density itself is the same.

    Raises:
        InputError: beta is outside [0, 1].
    """

    beta: float = 0.0

    def __post_init__(self) -> None:
        """Checks the range."""
        if not 0.0 <= self.beta <= 1.0:
            raise InputError(f"beta must be in [0, 1], got {self.beta}")

    def log_prob(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The log-density, summed over the targets."""
        return self._log_densities(outputs, targets).sum(-1)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The negative log-density, of each target weighted by its variance^beta."""
        _, log_variance = self.parameters_of(outputs)
        weight = torch.exp(self.beta * log_variance.detach())
        return -(weight * self._log_densities(outputs, targets)).sum(-1)

    def _log_densities(self, outputs: Tensor, targets: Tensor) -> Tensor:
        mean, log_variance = self.parameters_of(outputs)
        return gaussian_log_density(mean, log_variance, self.columns(targets, outputs))


def gaussian_log_density(mean: Tensor, log_variance: Tensor, value: Tensor) -> Tensor:
    """The log-density log N(value; mean, exp(log_variance)), entry by entry, in nats."""
    return -0.5 * (math.log(2.0 * math.pi) + log_variance + (value - mean).square() * torch.exp(-log_variance))
