"""Any network, with a function that draws state dicts for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from edge_bdl.errors import ExportError
from edge_bdl_export.adapters.base import Adapter, Member, copied

Sampler = Callable[[torch.Generator], Member]


class SampledBy(Adapter):
    """A network and ``sample(generator) -> state_dict``, whole or only of what is random.

    Args:
        model: The network. It is not changed.
        members: The function.
    """

    def __init__(self, model: nn.Module, members: Sampler) -> None:
        self.network = copied(model)
        self._sampler = members

    @classmethod
    def recognises(cls, members: object) -> bool:
        """Whether it is a function, and not a module: those are callable, too."""
        return callable(members) and not isinstance(members, nn.Module | type)

    def sample(self, generator: torch.Generator, n: int) -> list[Member]:
        """Calls the function ``n`` times.

        Raises:
            ExportError: It returns something other than a state dict.
        """
        return [self._one(generator) for _ in range(n)]

    def _one(self, generator: torch.Generator) -> Member:
        member = self._sampler(generator)
        if not isinstance(member, Mapping) or not all(isinstance(value, Tensor) for value in member.values()):
            raise ExportError(
                f"the function in members returned a {type(member).__name__}; it must return a state dict: tensors by "
                "parameter name"
            )
        # A function may hand out a network's own tensors, and write the next member into them.
        return {name: value.detach().clone() for name, value in member.items()}
