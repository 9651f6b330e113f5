"""What every fitted Bayesian network is, whatever method fitted it.

A member is one draw of everything stochastic: the parameters that differ from draw to draw, by their names in
``network``, or the masks of its dropout layers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from edge_bdl.errors import InputError
from edge_bdl_train.named_tensors import differences, not_finite

Member = Mapping[str, Tensor]

# Rows that go through the network at once: what a member needs in memory does not grow with the data set.
_ROWS = 1000


class Posterior(ABC):
    """A distribution over what a network computes.

    Args:
        network: the deterministic network, of which an own copy is kept in eval mode, without gradients; its parameter
            names are the members'.
        settings: how the posterior was made, as JSON values; for people, and for ``blank``.
    """

    kind: ClassVar[str]

    def __init__(self, network: nn.Module, settings: Mapping[str, Any]) -> None:
        self.network = network.eval().requires_grad_(False)
        self.settings = dict(settings)

    @classmethod
    def blank(cls, network: nn.Module, settings: Mapping[str, Any]) -> Posterior:
        """One with the right parts and any values, to load a state into."""
        return cls(network, settings)

    @property
    def size(self) -> int | None:
        """How many different members there are to draw; None where that has no end."""
        return None

    @abstractmethod
    def sample(self, generator: torch.Generator, n: int) -> list[Member]:
        """Draws ``n`` members; the same generator state gives the same members.

        Raises:
            InputError: ``n`` is less than 1, or more than there are members.
        """

    @abstractmethod
    def mean(self) -> Member:
        """The member in the middle: the weights' mean, or no dropout at all."""

    @abstractmethod
    def state_dict(self) -> dict[str, Tensor]:
        """All that ``load_state_dict`` needs, as tensors."""

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Takes over what ``state_dict`` gave.

        Raises:
            InputError: it does not fit this posterior; nothing was changed.
        """

    def _network_state(self) -> dict[str, Tensor]:
        """The network's own state, by the names that it has in that of a posterior which holds more."""
        return {f"network.{name}": tensor for name, tensor in self.network.state_dict().items()}

    def _load_network(self, state: Mapping[str, Tensor]) -> None:
        """Takes over what ``_network_state`` gave."""
        self.network.load_state_dict({name: state[f"network.{name}"] for name in self.network.state_dict()})

    def run(self, x: Tensor, member: Member) -> Tensor:
        """One member's raw outputs [N, *output] for inputs [N, ...]; the same member for all rows."""
        return torch.func.functional_call(self.network, dict(member), (x,))

    @torch.no_grad()
    def predict(self, x: Tensor, n: int, generator: torch.Generator) -> Tensor:
        """What ``n`` members answer.

        Args:
            x: [N, ...], as the network takes it.
            n: members; each is one draw for all rows.
            generator: draws them.

        Returns:
            [n, N, *output], the network's raw outputs: logits, or mean and log-variance.
        """
        return torch.stack([self.answer(x, member) for member in self.sample(generator, n)])

    @torch.no_grad()
    def answer(self, x: Tensor, member: Member) -> Tensor:
        """One member's raw outputs [N, *output], in blocks of rows."""
        return torch.cat([self.run(rows, member) for rows in x.split(_ROWS)])


def check_count(n: int, most: int | None = None) -> None:
    """Refuses a number of members that cannot be drawn.

    Raises:
        InputError: ``n`` is less than 1 or more than ``most``.
    """
    if n < 1:
        raise InputError(f"a posterior draws at least 1 member, got n={n}")
    if most is not None and n > most:
        raise InputError(f"this posterior has {most} members, got n={n}: ask for at most {most}, or fit more of them")


def check_state(wanted: Mapping[str, Tensor], state: Mapping[str, Tensor], what: str) -> None:
    """Refuses a state whose names, shapes or dtypes are not the wanted ones, or whose values are not finite.

    Raises:
        InputError: it does not fit; all differences are named.
    """
    wrong = differences(wanted, state, "is not known") + [f"{name} is not finite" for name in not_finite(state)]
    if wrong:
        raise InputError(f"the state does not fit {what}: {'; '.join(wrong)}")
