"""Stochastic-gradient Markov chains with a cyclical step size.

SGLD (Welling and Teh 2011) and SGHMC (Chen et al. 2014, arXiv 1402.4102, equation 15) on the negative log-posterior of
the whole data set; the cycles are those of Zhang et al. 2020 (arXiv 1902.03932).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from edge_bdl.errors import InputError
from edge_bdl_train.fit import Data, PriorTrainee
from edge_bdl_train.layers.weight import standard_normal
from edge_bdl_train.likelihoods.base import Likelihood
from edge_bdl_train.methods.bank import BankPosterior
from edge_bdl_train.methods.described import settings_of
from edge_bdl_train.optimiser import Optimiser
from edge_bdl_train.posterior import Member
from edge_bdl_train.priors.base import Prior
from edge_bdl_train.randomness import lent


@dataclass(frozen=True, kw_only=True)
class Config:
    """How to walk, and which of the visited weights to keep.

    Attributes:
        prior: of every parameter; None for a flat one.
        learning_rate: of the loss per example, at the start of a cycle: the chain's step size is this / n_data.
        friction: the share of the momentum that a step loses: SGHMC below 1, SGLD at 1.
        cycle: steps in a cycle, over which the step size falls along a cosine to 0; None for a constant step size.
        explore: the first share of a cycle, in which no noise is added and nothing is kept.
        burn_in: steps at the beginning of which nothing is kept.
        every: steps from one kept member to the next.
        most: members that are kept at most: the last ones.
    """

    prior: Prior | None
    learning_rate: float
    friction: float = 0.1
    cycle: int | None = None
    explore: float = 0.8
    burn_in: int = 0
    every: int = 1
    most: int = 100

    def __post_init__(self) -> None:
        """Checks the ranges."""
        if not (self.learning_rate > 0.0 and 0.0 < self.friction <= 1.0 and 0.0 <= self.explore < 1.0):
            raise InputError(
                "learning_rate must be above 0, friction in (0, 1] and explore in [0, 1), "
                f"got {self.learning_rate}, {self.friction} and {self.explore}"
            )
        if self.cycle is not None and self.cycle < 2:
            raise InputError(f"a cycle has at least 2 steps, got {self.cycle}")
        if self.burn_in < 0 or self.every < 1 or self.most < 1:
            raise InputError(
                "burn_in must be at least 0, every and most at least 1, "
                f"got {self.burn_in}, {self.every} and {self.most}"
            )

    @property
    def optimiser(self) -> Optimiser:
        """Is only asked to clear gradients: the step is the chain's own."""
        return Optimiser(kind="sgd")


def build(
    network: nn.Module, likelihood: Likelihood, config: Config, *, n_data: int, generator: torch.Generator
) -> SgmcmcTrainee:
    """A chain that starts at a copy of the network."""
    return SgmcmcTrainee(copy.deepcopy(network), likelihood, config, n_data=n_data, generator=generator)


class SgmcmcTrainee(PriorTrainee):
    """One chain."""

    config: Config

    def __init__(
        self, network: nn.Module, likelihood: Likelihood, config: Config, *, n_data: int, generator: torch.Generator
    ) -> None:
        super().__init__(network, likelihood, config, n_data=n_data, generator=generator)
        self._momenta = [torch.zeros_like(parameter) for parameter in self._parameters]
        self._steps = 0
        self._share = 1.0  # of the step size, in the last step
        self._kept: list[Member] = []

    def step(self, x: Tensor, y: Tensor) -> float:
        """One step of the chain."""
        with lent(self._generator):
            loss = self.loss(x, y)
        self._optimiser.zero_grad()
        loss.backward()
        position = self._steps % self.config.cycle / self.config.cycle if self.config.cycle else None
        self._move(position)
        self._steps += 1
        sampling = position is None or position >= self.config.explore
        if sampling and self._steps > self.config.burn_in and self._steps % self.config.every == 0:
            member = {name: tensor.detach().clone() for name, tensor in self.network.state_dict().items()}
            self._kept = [*self._kept, member][-self.config.most :]
        return float(loss.detach())

    def end_epoch(self, epoch: int) -> None:
        """Nothing: the step size knows its steps."""

    def posterior(self, batches: Iterable[Data]) -> SgmcmcPosterior:
        """What the chain has visited; the network's weights are their mean.

        Raises:
            InputError: nothing was kept.
        """
        if not self._kept:
            raise InputError(
                f"the chain kept nothing in its {self._steps} steps: take more of them, or a shorter burn_in, "
                "a smaller every, or a cycle that ends"
            )
        network = copy.deepcopy(self.network)
        with torch.no_grad():
            for name, tensor in network.state_dict().items():
                if tensor.is_floating_point():
                    tensor.copy_(torch.stack([member[name] for member in self._kept]).mean(0))
        return SgmcmcPosterior(network, settings_of(self.config, self.likelihood), self._kept)

    @torch.no_grad()
    def _move(self, position: float | None) -> None:
        """One step of every parameter; ``position`` in the cycle is in [0, 1), None without cycles."""
        share = 1.0 if position is None else 0.5 * (1.0 + math.cos(math.pi * position))
        rate = self.config.learning_rate * share
        exploring = position is not None and position < self.config.explore
        noise = 0.0 if exploring else math.sqrt(2.0 * self.config.friction * rate / self.n_data)
        # A momentum's variance is the step size: one that was drawn at a larger step would be too hot for this one.
        keep = (1.0 - self.config.friction) * math.sqrt(share / self._share)
        self._share = share
        for parameter, momentum in zip(self._parameters, self._momenta, strict=True):
            assert parameter.grad is not None
            momentum.mul_(keep).sub_(rate * parameter.grad)
            if noise:
                momentum.add_(standard_normal(parameter.shape, parameter, self._generator), alpha=noise)
            parameter.add_(momentum)


class SgmcmcPosterior(BankPosterior):
    """Weights that a chain visited."""

    kind = "sgmcmc"
