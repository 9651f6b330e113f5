"""Mixture density: several Gaussians per input, for targets that can be in more than one place."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from edge_bdl.errors import InputError
from edge_bdl_train.likelihoods.base import RegressionLikelihood
from edge_bdl_train.likelihoods.gaussian import gaussian_log_density


@dataclass(frozen=True)
class MixtureDensity(RegressionLikelihood):
    """A mixture of Gaussians of its own for each target (Bishop 1994, "Mixture density networks").

    The network's last axis holds the means [components, targets], then the log-variances, then the logits of the
    components' shares.

    Raises:
        InputError: there is no component.
    """

    components: int

    def __post_init__(self) -> None:
        """Checks the number."""
        if self.components < 1:
            raise InputError(f"a mixture has at least 1 component, got {self.components}")

    @property
    def outputs(self) -> int:
        """Mean, log-variance and logit of each component."""
        return 3 * self.components

    def log_prob(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The log-density, summed over the targets."""
        means, log_variances, log_shares = self._components(outputs)
        densities = gaussian_log_density(means, log_variances, self.columns(targets, outputs))
        return torch.logsumexp(log_shares + densities, dim=0).sum(-1)

    def predictive_mean(self, outputs: Tensor) -> Tensor:
        """The components' means, by their shares."""
        means, _, log_shares = self._components(outputs)
        return (log_shares.exp() * means).sum(0)

    def predictive_variance(self, outputs: Tensor) -> Tensor:
        """The components' variances and that of their means, by their shares."""
        means, log_variances, log_shares = self._components(outputs)
        apart = (means - self.predictive_mean(outputs)).square()
        return (log_shares.exp() * (log_variances.exp() + apart)).sum(0)

    def _components(self, outputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Means, log-variances and log-shares, each [components, ..., N, D]."""
        means, log_variances, logits = self.parameters_of(outputs).split(self.components)
        return means, log_variances, torch.log_softmax(logits, dim=0)
