"""What an active-learning loop teaches."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from edge_bdl.errors import InputError
from edge_bdl_train.fit import Data, fit
from edge_bdl_train.likelihoods.categorical import Categorical
from edge_bdl_train.methods import open_method
from edge_bdl_train.methods.described import described
from edge_bdl_train.posterior import Posterior, check_state

Predict = Callable[[Posterior, Tensor, int, torch.Generator], Tensor]
"""A posterior's raw outputs [S, N, K] for inputs [N, ...] by so many members."""


class Learner(ABC):
    """Learns from labelled examples, and says what its members believe of others."""

    @property
    @abstractmethod
    def settings(self) -> Any:
        """How it learns, as JSON values: a run that was killed goes on only with the same."""

    @abstractmethod
    def learn(self, data: Data, generator: torch.Generator) -> None:
        """Fits to all that is labelled so far: inputs [N, ...] and classes, int64 [N]."""

    @abstractmethod
    def probabilities(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Class probabilities [S, N, K] of members that the generator draws, for inputs [N, ...]."""

    @abstractmethod
    def state_dict(self) -> dict[str, Tensor]:
        """All that the next ``learn`` needs, as tensors."""

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Takes over what ``state_dict`` gave.

        Raises:
            InputError: it does not fit this learner.
        """


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """How a network learns in one round. It starts from where the last round left it; the optimiser starts anew.

    Attributes:
        method: how, a key of ``METHODS`` whose posterior has the weights to go on from in its network.
        config: that method's ``Config``.
        classes: that there are.
        first_steps: of the optimiser in the first round, at least.
        steps: in every other, at least: passes over the data are whole ones.
        batch_size: rows a step.
        members: that predict.
    """

    method: str
    config: Any
    classes: int
    first_steps: int
    steps: int
    batch_size: int = 32
    members: int = 20

    def __post_init__(self) -> None:
        """Checks the ranges."""
        if min(self.first_steps, self.steps, self.batch_size, self.members) < 1:
            raise InputError(f"first_steps, steps, batch_size and members must be at least 1, got {self}")


class NetworkLearner(Learner):
    """A network and one of this package's methods.

    Args:
        network: where the first round starts; is not changed.
        lesson: how it learns.
        predict: how its posterior predicts, where there is a faster way than the posterior's own.
    """

    def __init__(self, network: nn.Module, lesson: Lesson, predict: Predict = Posterior.predict) -> None:
        self._network = copy.deepcopy(network)
        self._lesson = lesson
        self._predict = predict
        self._posterior: Posterior | None = None
        self._learned = False

    @property
    def settings(self) -> Any:
        """The lesson."""
        return described(self._lesson)

    def learn(self, data: Data, generator: torch.Generator) -> None:
        """One round."""
        lesson, count = self._lesson, len(data[0])
        method, likelihood = open_method(lesson.method), Categorical(lesson.classes)
        trainee = method.build(self._network, likelihood, lesson.config, n_data=count, generator=generator)
        # A step is on at most batch_size rows, but there are never more of them in a pass than that gives.
        passes = -(-count // lesson.batch_size)
        wanted = lesson.steps if self._learned else lesson.first_steps
        self._posterior = fit(
            trainee, data, epochs=-(-wanted // passes), batch_size=lesson.batch_size, generator=generator
        )
        # A posterior's own network takes no gradients.
        self._network.load_state_dict(self._posterior.network.state_dict())
        self._learned = True

    def probabilities(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """By as many members as the lesson says.

        Raises:
            InputError: it has not learned anything.
        """
        if self._posterior is None:
            raise InputError("this learner has not learned anything yet: call learn first")
        return self._predict(self._posterior, x, self._lesson.members, generator).softmax(-1)

    def state_dict(self) -> dict[str, Tensor]:
        """The network's weights."""
        return {name: tensor.clone() for name, tensor in self._network.state_dict().items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Loads the weights that a round left."""
        check_state(self._network.state_dict(), state, type(self._network).__name__)
        self._network.load_state_dict(state)
        self._learned = True
