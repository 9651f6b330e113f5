"""What every prior is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from edge_bdl.errors import InputError


class Prior(ABC):
    """A distribution over weights that are independent of each other."""

    @abstractmethod
    def log_prob(self, weight: Tensor) -> Tensor:
        """The log-density of a weight tensor in nats, summed over its entries: a scalar."""

    def kl(self, mean: Tensor, sigma: Tensor) -> Tensor | None:
        """KL(N(mean, sigma^2) || this) in nats, summed over the entries; None where it has no closed form."""
        return None

    def within(self, name: str) -> Prior:
        """The prior of one part of what this is a prior of.

        Args:
            name: of a module or a parameter, as ``named_parameters`` has it.
        """
        return self

    def at(self, entries: Tensor) -> Prior:
        """The prior of ``weight[entries]``, where this is the prior of ``weight``; ``entries`` is a bool mask."""
        return self

    def named(self) -> tuple[str, ...]:
        """The modules and parameters of which it speaks by their names."""
        return ()

    def check(self, names: Iterable[str]) -> None:
        """Refuses a prior of a part that is none of these parameters and holds none of them.

        Raises:
            InputError: it speaks of one.
        """
        names = list(names)
        unknown = [own for own in self.named() if not any(name == own or name.startswith(f"{own}.") for name in names)]
        if unknown:
            raise InputError(f"the prior is of {', '.join(unknown)}, but the parameters are {', '.join(names)}")


def log_prior(prior: Prior | None, network: nn.Module) -> Tensor:
    """The log-density of a network's parameters in nats, summed over them all; 0 without a prior.

    Raises:
        InputError: the prior names a part that the network does not have.
    """
    if prior is None:
        return torch.zeros(())
    parameters = dict(network.named_parameters())
    prior.check(parameters)
    return torch.stack([prior.within(name).log_prob(parameter) for name, parameter in parameters.items()]).sum()
