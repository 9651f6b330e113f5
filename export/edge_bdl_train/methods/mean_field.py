"""Mean-field variational inference, Bayes by Backprop (Blundell et al. 2015, arXiv 1505.05424).

Every weight of the chosen layers is Gaussian, independent of all others. While it is trained the network is the
variational twin that ``bayesianize`` makes; the posterior's is the deterministic one, with the means as its weights.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from edge_bdl.errors import InputError
from edge_bdl_train.bayesianize import Layers, bayesianize
from edge_bdl_train.fit import Data, GradientTrainee
from edge_bdl_train.kl_schedules import Constant, KlSchedule
from edge_bdl_train.layers.base import Estimator, drawing, total_kl, variational_layers
from edge_bdl_train.layers.weight import Proportional, standard_normal
from edge_bdl_train.likelihoods.base import Likelihood
from edge_bdl_train.methods.described import settings_of
from edge_bdl_train.optimiser import Optimiser
from edge_bdl_train.posterior import Member, Posterior, check_count, check_state
from edge_bdl_train.priors.base import Prior
from edge_bdl_train.priors.gaussian import Gaussian


@dataclass(frozen=True, kw_only=True)
class Config:
    """Which weights are random, and how to fit them.

    Attributes:
        layers: as in ``bayesianize``; what is left out, and normalisation layers, get a point estimate without a prior.
        prior: of the random weights.
        sigma: their initial standard deviation, or how it follows from each weight, for a network that is trained.
        estimator: how a minibatch draws, in the layers that have a choice.
        samples: draws for each step.
        kl_factor: how much the KL divergence counts in each step.
        optimiser: how to step.
    """

    layers: Layers = "all"
    prior: Prior = field(default_factory=Gaussian)
    sigma: float | Proportional = 0.05
    estimator: Estimator = "local_reparametrisation"
    samples: int = 1
    kl_factor: KlSchedule = field(default_factory=Constant)
    optimiser: Optimiser = field(default_factory=Optimiser)

    def __post_init__(self) -> None:
        """Checks the ranges."""
        if not (isinstance(self.sigma, Proportional) or self.sigma > 0.0) or self.samples < 1:
            raise InputError(f"sigma must be above 0 and samples at least 1, got {self.sigma} and {self.samples}")


def build(
    network: nn.Module, likelihood: Likelihood, config: Config, *, n_data: int, generator: torch.Generator
) -> MeanFieldTrainee:
    """The network's variational twin, to be trained; its means start at the network's weights.

    Raises:
        InputError: a layer cannot be converted.
    """
    return MeanFieldTrainee(network, likelihood, config, n_data=n_data, generator=generator)


class MeanFieldTrainee(GradientTrainee):
    """Descends minus the evidence lower bound."""

    config: Config

    def __init__(
        self, network: nn.Module, likelihood: Likelihood, config: Config, *, n_data: int, generator: torch.Generator
    ) -> None:
        twin = bayesianize(
            network, "mean_field", config.layers, prior=config.prior, sigma=config.sigma, estimator=config.estimator
        )
        super().__init__(twin, likelihood, config, n_data=n_data, generator=generator)
        self._deterministic = copy.deepcopy(network)
        self._epoch = self._batch = 0
        self._batches = 1

    def penalty(self) -> Tensor:
        """The KL divergence from the prior, summed over all random weights."""
        return total_kl(self.network)

    def step(self, x: Tensor, y: Tensor) -> float:
        """One step down the loss."""
        if self._batch == 0:
            self._batches = math.ceil(self.n_data / len(x))
        loss = super().step(x, y)
        self._batch += 1
        return loss

    def end_epoch(self, epoch: int) -> None:
        """Lowers the learning rate and moves the KL factor on."""
        super().end_epoch(epoch)
        self._epoch, self._batch = epoch + 1, 0

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        """Minus the bound, per example, from the config's number of draws."""
        with drawing(self.network, self._generator):
            nll = torch.stack([self.likelihood.loss(self.network(x), y).mean() for _ in range(self.config.samples)])
            factor = self.config.kl_factor.factor(self._epoch, min(self._batch, self._batches - 1), self._batches)
            return nll.mean() + factor * self.penalty() / self.n_data

    def posterior(self, batches: Iterable[Data]) -> MeanFieldPosterior:
        """Means and standard deviations as they are."""
        means, sigmas = {}, {}
        for layer_name, layer in variational_layers(self.network).items():
            for name, weight in layer.weights().items():
                full = f"{layer_name}.{name}" if layer_name else name
                means[full], sigmas[full] = weight.mean.detach(), weight.sigma.detach()
            padding = getattr(self._deterministic.get_submodule(layer_name), "padding_idx", None)
            if padding is not None:  # an embedding never draws that row
                sigmas[full][padding] = 0.0
        rest = {
            name: tensor for name, tensor in self.network.state_dict().items() if name.rpartition(".")[0] not in means
        }
        network = copy.deepcopy(self._deterministic)
        network.load_state_dict({**rest, **means})
        return MeanFieldPosterior(network, {**settings_of(self.config, self.likelihood), "weights": [*sigmas]}, sigmas)


class MeanFieldPosterior(Posterior):
    """Independent Gaussians over weights.

    Args:
        network: as in ``Posterior``; its weights are the means.
        settings: as in ``Posterior``; its ``weights`` names the random ones.
        sigmas: their standard deviations by their names.
    """

    kind = "mean_field"

    def __init__(self, network: nn.Module, settings: Mapping[str, Any], sigmas: Mapping[str, Tensor]) -> None:
        super().__init__(network, settings)
        self.sigmas = dict(sigmas)

    @classmethod
    def blank(cls, network: nn.Module, settings: Mapping[str, Any]) -> MeanFieldPosterior:
        """One whose weights are known."""
        means = dict(network.named_parameters())
        return cls(network, settings, {name: torch.zeros_like(means[name]) for name in settings["weights"]})

    def sample(self, generator: torch.Generator, n: int) -> list[Member]:
        """Draws of the random weights."""
        check_count(n)
        mean = self.mean()
        return [
            {name: mean[name] + s * standard_normal(s.shape, s, generator) for name, s in self.sigmas.items()}
            for _ in range(n)
        ]

    def mean(self) -> Member:
        """The random weights' means."""
        parameters = self.network.state_dict()
        return {name: parameters[name] for name in self.sigmas}

    def state_dict(self) -> dict[str, Tensor]:
        """The network's weights, and the standard deviations."""
        return {
            **self._network_state(),
            **{f"sigma.{name}": tensor for name, tensor in self.sigmas.items()},
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Loads means and standard deviations."""
        check_state(self.state_dict(), state, type(self.network).__name__)
        negative = sorted(name for name in self.sigmas if not (state[f"sigma.{name}"] >= 0.0).all())
        if negative:
            raise InputError(f"the state has negative standard deviations in {', '.join(negative)}")
        self._load_network(state)
        self.sigmas = {name: state[f"sigma.{name}"].clone() for name in self.sigmas}
