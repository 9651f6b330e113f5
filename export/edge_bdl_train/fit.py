"""The one training loop, and what a method puts into it.

The loss per example is the minibatch's mean negative log-likelihood plus, once divided by the data set's size, what
the prior says: a negative log-density, or a KL divergence summed over all weights. Everything is in nats.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from edge_bdl.errors import InputError
from edge_bdl_train.likelihoods.base import Likelihood
from edge_bdl_train.likelihoods.gaussian import Gaussian
from edge_bdl_train.optimiser import Optimiser
from edge_bdl_train.posterior import Posterior
from edge_bdl_train.priors.base import log_prior
from edge_bdl_train.progress import Advance
from edge_bdl_train.randomness import lent

Data = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Batches:
    """Minibatches of a data set, in its own order, as often as they are asked for.

    Attributes:
        data: inputs [N, ...] and targets [N, ...].
        batch_size: rows in each but the last.
    """

    data: Data
    batch_size: int

    def __post_init__(self) -> None:
        """Checks the sizes."""
        x, y = self.data
        if not len(x) or len(x) != len(y):
            raise InputError(f"training needs as many targets as inputs, at least one; got {len(x)} and {len(y)}")
        if self.batch_size < 1:
            raise InputError(f"batch_size must be at least 1, got {self.batch_size}")

    def __iter__(self) -> Iterator[Data]:
        x, y = self.data
        return zip(x.split(self.batch_size), y.split(self.batch_size), strict=True)

    def __len__(self) -> int:
        return math.ceil(len(self.data[0]) / self.batch_size)

    def shuffled(self, generator: torch.Generator) -> Iterator[Data]:
        """The same rows in an order that the generator draws."""
        x, y = self.data
        for rows in torch.randperm(len(x), generator=generator).split(self.batch_size):
            yield x[rows], y[rows]


class Trainee(ABC):
    """A network on its way to a posterior.

    Attributes:
        n_data: examples in the training set, for all of which the prior counts once. Where they arrive while training
            goes on, set it before a step to how many there are by then.
    """

    n_data: int

    @property
    def parts(self) -> Sequence[Trainee]:
        """What is trained one after the other, each with its own order of the data: an ensemble has many."""
        return (self,)

    @abstractmethod
    def step(self, x: Tensor, y: Tensor) -> float:
        """Takes one step of the optimiser on a minibatch; returns its loss per example, in nats."""

    @abstractmethod
    def end_epoch(self, epoch: int) -> None:
        """Is told that this epoch, counted from 0, is over."""

    @abstractmethod
    def posterior(self, batches: Iterable[Data]) -> Posterior:
        """What has been learned.

        Args:
            batches: one ordered pass over the training data, for methods that need to see it once more.
        """


class GradientTrainee(Trainee):
    """A trainee that descends a loss.

    Args:
        network: is trained in place: give it a copy.
        likelihood: of the targets, given the network's outputs. If it has parameters, they are learned too.
        config: the method's; its ``optimiser`` says how to step.
        generator: draws all that is random in a step.
        n_data: examples in the training set.
    """

    def __init__(
        self,
        network: nn.Module,
        likelihood: Likelihood,
        config: Any,
        *,
        n_data: int,
        generator: torch.Generator,
    ) -> None:
        if n_data < 1:
            raise InputError(f"n_data, the training set's size, must be at least 1, got {n_data}")
        self.network = network.train()
        self.likelihood = likelihood
        self.config = config
        self.n_data = n_data
        self._generator = generator
        learned = [*network.parameters()]
        if isinstance(likelihood, nn.Module):
            learned += likelihood.parameters()
        self._parameters = [parameter for parameter in learned if parameter.requires_grad]
        if not self._parameters:
            raise InputError(
                f"nothing of {type(network).__name__} can be learned: none of its parameters takes gradients; "
                "call requires_grad_(True) on what shall be trained"
            )
        optimiser: Optimiser = config.optimiser
        self._optimiser = optimiser.build(self._parameters)
        self._schedule = torch.optim.lr_scheduler.ExponentialLR(self._optimiser, optimiser.decay)
        self._clip_norm = optimiser.clip_norm

    @abstractmethod
    def penalty(self) -> Tensor:
        """What the prior adds to the loss of the whole data set, in nats."""

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        """The loss per example."""
        return self.likelihood.loss(self.network(x), y).mean() + self.penalty() / self.n_data

    def step(self, x: Tensor, y: Tensor) -> float:
        """One step down the loss.

        Raises:
            InputError: a minibatch of one row, where a batch norm needs several.
        """
        # Dropout knows only torch's global generator.
        with lent(self._generator):
            try:
                loss = self.loss(x, y)
            except ValueError as error:
                if len(x) > 1:
                    raise
                raise InputError(
                    f"a minibatch has one row, of which this network can learn nothing ({error}): choose a batch_size "
                    f"that leaves more than one of {self.n_data} rows for the last"
                ) from error
        self._optimiser.zero_grad()
        loss.backward()
        if self._clip_norm is not None:
            nn.utils.clip_grad_norm_(self._parameters, self._clip_norm)
        self._optimiser.step()
        return float(loss.detach())

    def end_epoch(self, epoch: int) -> None:
        """Lowers the learning rate."""
        self._schedule.step()


class PriorTrainee(GradientTrainee):
    """A trainee of plain weights, which the ``prior`` of its config speaks of."""

    def penalty(self) -> Tensor:
        """The negative log-density of the weights under the prior."""
        return -log_prior(self.config.prior, self.network)


class TraineesApart(Trainee):
    """Trainees that know nothing of each other.

    Args:
        parts: at least one, each with a copy of the likelihood of its own.
        likelihood: that they were copied from.
        config: the method's.
    """

    def __init__(self, parts: Sequence[GradientTrainee], likelihood: Likelihood, config: Any) -> None:
        self._parts = parts
        self.likelihood = likelihood
        self.config = config

    @property
    def n_data(self) -> int:
        """Of each."""
        return self._parts[0].n_data

    @n_data.setter
    def n_data(self, n_data: int) -> None:
        for part in self._parts:
            part.n_data = n_data

    @property
    def parts(self) -> Sequence[GradientTrainee]:
        """All of them."""
        return self._parts

    def step(self, x: Tensor, y: Tensor) -> float:
        """One step of each on the same minibatch, for who has a loop of their own; returns their mean loss."""
        return sum(part.step(x, y) for part in self._parts) / len(self._parts)

    def end_epoch(self, epoch: int) -> None:
        """Tells each."""
        for part in self._parts:
            part.end_epoch(epoch)

    @torch.no_grad()
    def average_noise(self) -> None:
        """Gives the likelihood the noise of all together, where each learned its own: the mean of their variances."""
        if isinstance(self.likelihood, Gaussian) and self.likelihood.log_noise.requires_grad:
            own = [part.likelihood for part in self._parts if isinstance(part.likelihood, Gaussian)]
            variance = torch.stack([likelihood.noise.square() for likelihood in own]).mean()
            self.likelihood.log_noise.copy_(0.5 * variance.log())


def fit(
    trainee: Trainee,
    data: Data,
    *,
    epochs: int,
    batch_size: int,
    generator: torch.Generator,
    advance: Advance = lambda: None,
) -> Posterior:
    """Trains, and returns the posterior.

    Args:
        trainee: what a method's ``build`` gave.
        data: inputs [N, ...] and targets [N, ...].
        epochs: passes over the data; 0 for a network that is already trained.
        batch_size: rows a step.
        generator: draws the order of the rows.
        advance: called after each step; there are ``steps_of(trainee, ...)`` of them.

    Raises:
        InputError: the data do not fit each other, or the loss became non-finite.
    """
    if epochs < 0:
        raise InputError(f"epochs must be at least 0, got {epochs}")
    batches = Batches(data, batch_size)
    for part in trainee.parts:
        for epoch in range(epochs):
            for x, y in batches.shuffled(generator):
                loss = part.step(x, y)
                if not math.isfinite(loss):
                    raise InputError(
                        f"training diverged in epoch {epoch} (the loss is {loss}): lower the learning rate"
                    )
                advance()
            part.end_epoch(epoch)
    return trainee.posterior(batches)


def steps_of(trainee: Trainee, n_data: int, *, epochs: int, batch_size: int) -> int:
    """How many steps ``fit`` takes."""
    return len(trainee.parts) * epochs * math.ceil(n_data / batch_size)
