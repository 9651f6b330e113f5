"""MultiSWAG: an ensemble of SWAGs (Wilson and Izmailov 2020, arXiv 2002.08791)."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from edge_bdl.errors import InputError
from edge_bdl_train.fit import Data, TraineesApart
from edge_bdl_train.initialise import reinitialised
from edge_bdl_train.likelihoods.base import Likelihood
from edge_bdl_train.methods import swag
from edge_bdl_train.methods.described import settings_of
from edge_bdl_train.posterior import Member, Posterior, check_count


@dataclass(frozen=True, kw_only=True)
class Config:
    """How many SWAGs, and how to fit each.

    Attributes:
        swag: of each.
        members: how many, each with its own initial weights and order of the data.
    """

    swag: swag.Config
    members: int = 3

    def __post_init__(self) -> None:
        """Checks the range."""
        if self.members < 2:
            raise InputError(f"MultiSWAG has at least 2 members, got {self.members}")


def build(
    network: nn.Module, likelihood: Likelihood, config: Config, *, n_data: int, generator: torch.Generator
) -> MultiSwagTrainee:
    """The SWAGs, each initialised on its own; the given network's weights are not used.

    Raises:
        InputError: a module's parameters cannot be drawn anew.
    """
    parts = [
        swag.build(
            reinitialised(network, generator),
            copy.deepcopy(likelihood),
            config.swag,
            n_data=n_data,
            generator=generator,
        )
        for _ in range(config.members)
    ]
    return MultiSwagTrainee(parts, likelihood, config)


class MultiSwagTrainee(TraineesApart):
    """SWAGs."""

    parts: Sequence[swag.SwagTrainee]

    def posterior(self, batches: Iterable[Data]) -> MultiSwagPosterior:
        """The mixture of their Gaussians."""
        components = [part.posterior(batches) for part in self.parts]
        self.average_noise()
        return MultiSwagPosterior(
            components, {**settings_of(self.config, self.likelihood), "swag": components[0].settings}
        )


class MultiSwagPosterior(Posterior):
    """Equally probable SWAGs; its ``network``, and so ``mean()``, is the first one's."""

    kind = "multi_swag"

    def __init__(self, components: Sequence[swag.SwagPosterior], settings: Mapping[str, Any]) -> None:
        super().__init__(components[0].network, settings)
        self.components = components

    @classmethod
    def blank(cls, network: nn.Module, settings: Mapping[str, Any]) -> MultiSwagPosterior:
        """As many as the settings say, without variance."""
        return cls(
            [swag.SwagPosterior.blank(copy.deepcopy(network), settings["swag"]) for _ in range(settings["members"])],
            settings,
        )

    def sample(self, generator: torch.Generator, n: int) -> list[Member]:
        """Draws from the components in turn, in a random order of them."""
        check_count(n)
        order = torch.randperm(len(self.components), generator=generator).tolist()
        return [self.components[order[i % len(order)]].sample(generator, 1)[0] for i in range(n)]

    def mean(self) -> Member:
        """The first component's mean."""
        return self.components[0].mean()

    def state_dict(self) -> dict[str, Tensor]:
        """Every component's, behind its number."""
        return {
            f"{i}.{name}": tensor
            for i, component in enumerate(self.components)
            for name, tensor in component.state_dict().items()
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Loads every component."""
        states: list[dict[str, Tensor]] = [{} for _ in self.components]
        for name, tensor in state.items():
            number, _, rest = name.partition(".")
            if not number.isdecimal() or int(number) >= len(states):
                raise InputError(f"the state does not fit {len(states)} SWAGs: {name} is not known")
            states[int(number)][rest] = tensor
        loaded = [copy.deepcopy(component) for component in self.components]
        for component, own in zip(loaded, states, strict=True):
            component.load_state_dict(own)
        self.components = loaded
        self.network = loaded[0].network
