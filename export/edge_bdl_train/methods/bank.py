"""A posterior that is a list of weights: what an ensemble trained and what a Markov chain visited."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from edge_bdl.errors import InputError
from edge_bdl_train.posterior import Member, Posterior, check_count, check_state


class BankPosterior(Posterior):
    """Equally probable members, drawn without replacement.

    Args:
        network: as in ``Posterior``.
        settings: as in ``Posterior``.
        members: at least one, each with every parameter and buffer of the network.
    """

    def __init__(self, network: nn.Module, settings: Mapping[str, Any], members: Sequence[Member]) -> None:
        super().__init__(network, settings)
        if not members:
            raise InputError("a bank needs at least 1 member, got 0")
        self._bank = {name: torch.stack([member[name] for member in members]) for name in members[0]}

    @classmethod
    def blank(cls, network: nn.Module, settings: Mapping[str, Any]) -> BankPosterior:
        """A bank of one."""
        return cls(network, settings, [network.state_dict()])

    @property
    def size(self) -> int:
        """How many members there are."""
        return len(next(iter(self._bank.values())))

    def sample(self, generator: torch.Generator, n: int) -> list[Member]:
        """Different members in random order."""
        check_count(n, self.size)
        return [self._member(int(i)) for i in torch.randperm(self.size, generator=generator)[:n]]

    def mean(self) -> Member:
        """The network's own weights."""
        return dict(self.network.state_dict())

    def state_dict(self) -> dict[str, Tensor]:
        """The members' weights [members, ...], and the network's own."""
        return {
            **self._network_state(),
            **{f"members.{name}": tensor for name, tensor in self._bank.items()},
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Loads all members, however many there are."""
        own = self.network.state_dict()
        members = len(next((state[f"members.{name}"] for name in own if f"members.{name}" in state), ()))
        wanted = {
            **self._network_state(),
            **{f"members.{name}": tensor.expand(max(1, members), *tensor.shape) for name, tensor in own.items()},
        }
        check_state(wanted, state, type(self.network).__name__)
        self._load_network(state)
        self._bank = {name: state[f"members.{name}"].clone() for name in own}

    def _member(self, number: int) -> Member:
        return {name: tensor[number] for name, tensor in self._bank.items()}
