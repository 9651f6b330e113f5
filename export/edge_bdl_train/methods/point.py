"""A point estimate: the most probable weights under a prior (MAP), or the most likely ones without.

With N(0, s^2) as prior, each step of SGD is that of SGD on the mean loss with weight decay 1/(s^2 N).
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from edge_bdl_train.fit import Data, PriorTrainee
from edge_bdl_train.likelihoods.base import Likelihood
from edge_bdl_train.methods.described import settings_of
from edge_bdl_train.optimiser import Optimiser
from edge_bdl_train.posterior import Member, Posterior, check_count, check_state
from edge_bdl_train.priors.base import Prior


@dataclass(frozen=True, kw_only=True)
class Config:
    """How to fit one set of weights.

    Attributes:
        prior: of every parameter, biases included; None for maximum likelihood.
        optimiser: how to step.
    """

    prior: Prior | None = None
    optimiser: Optimiser = field(default_factory=Optimiser)


def build(
    network: nn.Module, likelihood: Likelihood, config: Config, *, n_data: int, generator: torch.Generator
) -> PointTrainee:
    """A copy of the network, to be trained."""
    return PointTrainee(copy.deepcopy(network), likelihood, config, n_data=n_data, generator=generator)


class PointTrainee(PriorTrainee):
    """Descends the negative log-posterior of one set of weights."""

    def posterior(self, batches: Iterable[Data]) -> PointPosterior:
        """All its mass on the weights as they are."""
        return PointPosterior(copy.deepcopy(self.network), settings_of(self.config, self.likelihood))


class PointPosterior(Posterior):
    """One set of weights; every member is the same."""

    kind = "point"

    @property
    def size(self) -> int:
        """One."""
        return 1

    def sample(self, generator: torch.Generator, n: int) -> list[Member]:
        """The weights, as often as they are asked for."""
        check_count(n)
        return [self.mean()] * n

    def mean(self) -> Member:
        """The weights."""
        return dict(self.network.state_dict())

    def state_dict(self) -> dict[str, Tensor]:
        """The network's own."""
        return dict(self.network.state_dict())

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Loads the network's weights."""
        check_state(self.network.state_dict(), state, type(self.network).__name__)
        self.network.load_state_dict(state)
