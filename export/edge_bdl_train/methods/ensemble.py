"""Deep ensembles (Lakshminarayanan et al. 2017, arXiv 1612.01474): networks trained apart.

Each member has its own initial weights and its own order of the data.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import nn

from edge_bdl.errors import InputError
from edge_bdl_train.fit import Data, TraineesApart
from edge_bdl_train.initialise import reinitialised
from edge_bdl_train.likelihoods.base import Likelihood
from edge_bdl_train.methods import point
from edge_bdl_train.methods.bank import BankPosterior
from edge_bdl_train.methods.described import settings_of
from edge_bdl_train.optimiser import Optimiser
from edge_bdl_train.priors.base import Prior


@dataclass(frozen=True, kw_only=True)
class Config:
    """How to train an ensemble.

    Attributes:
        members: how many networks.
        prior: of every parameter of each; None for maximum likelihood.
        optimiser: how each steps.
    """

    members: int = 5
    prior: Prior | None = None
    optimiser: Optimiser = field(default_factory=Optimiser)

    def __post_init__(self) -> None:
        """Checks the range."""
        if self.members < 2:
            raise InputError(f"an ensemble has at least 2 members, got {self.members}")


def build(
    network: nn.Module, likelihood: Likelihood, config: Config, *, n_data: int, generator: torch.Generator
) -> EnsembleTrainee:
    """The members, each initialised on its own; the given network's weights are not used.

    Raises:
        InputError: a module's parameters cannot be drawn anew.
    """
    single = point.Config(prior=config.prior, optimiser=config.optimiser)
    parts = [
        point.build(
            reinitialised(network, generator), copy.deepcopy(likelihood), single, n_data=n_data, generator=generator
        )
        for _ in range(config.members)
    ]
    return EnsembleTrainee(parts, likelihood, config)


class EnsembleTrainee(TraineesApart):
    """Point estimates."""

    def posterior(self, batches: Iterable[Data]) -> EnsemblePosterior:
        """The members as they are."""
        posteriors = [part.posterior(batches) for part in self.parts]
        self.average_noise()
        return EnsemblePosterior(
            posteriors[0].network,
            settings_of(self.config, self.likelihood),
            [posterior.mean() for posterior in posteriors],
        )


class EnsemblePosterior(BankPosterior):
    """Members trained apart.

    Its ``network``, and so ``mean()``, is the first of them: the mean of their weights would be no network at all.
    """

    kind = "ensemble"
