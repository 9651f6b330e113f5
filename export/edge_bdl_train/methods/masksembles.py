"""Masksembles: a few fixed masks that overlap as much as one wants (Durasov et al. 2021, arXiv 2012.08334).

A mask on what a layer reads is the same as a layer whose weights are zero there. So a member is the plain network with
some of its weights at zero.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from edge_bdl.errors import InputError
from edge_bdl_train.fit import Data, PriorTrainee
from edge_bdl_train.likelihoods.base import Likelihood
from edge_bdl_train.methods.described import settings_of
from edge_bdl_train.optimiser import Optimiser
from edge_bdl_train.posterior import Member, Posterior, check_count, check_state
from edge_bdl_train.priors.base import Prior

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_ATTEMPTS = 1000


@dataclass(frozen=True, kw_only=True)
class Config:
    """Which masks, and how to train under them.

    Attributes:
        layers: names of the linear and convolutional layers whose inputs are masked; channels, for the latter.
        members: how many masks.
        scale: 1 makes all masks equal; the larger, the less two of them overlap. 2 is the paper's.
        prior: of every parameter; None for maximum likelihood.
        optimiser: how to step.
    """

    layers: Sequence[str]
    members: int = 4
    scale: float = 2.0
    prior: Prior | None = None
    optimiser: Optimiser = field(default_factory=Optimiser)

    def __post_init__(self) -> None:
        """Checks the ranges."""
        if isinstance(self.layers, str) or not self.layers:
            raise InputError(f"layers are the names of one or more layers, got {self.layers!r}")
        if self.members < 2 or not self.scale >= 1.0:
            raise InputError(f"members must be at least 2 and scale at least 1, got {self.members} and {self.scale}")


def build(
    network: nn.Module, likelihood: Likelihood, config: Config, *, n_data: int, generator: torch.Generator
) -> MasksemblesTrainee:
    """A copy of the network and its masks.

    Raises:
        InputError: a layer is not there, cannot be masked, or is too narrow for so many masks.
    """
    masks = {
        name: draw_masks(_inputs(network, name), config.members, config.scale, generator) for name in config.layers
    }
    return MasksemblesTrainee(copy.deepcopy(network), likelihood, config, masks, n_data=n_data, generator=generator)


def draw_masks(features: int, members: int, scale: float, generator: torch.Generator) -> Tensor:
    """Masks of 0 and 1, [members, features], all with as many ones; every feature is in one of them.

    Each mask has its ones at random places of a longer vector; the places that no mask uses are left out (Durasov et
    al. 2021, section 3.2). How long that vector is follows from how many places are left.

    Raises:
        InputError: there are no such masks.
    """
    used = 1.0 - (1.0 - 1.0 / scale) ** members  # the share of the places that some mask uses
    ones = max(1, round(features / (scale * used)))
    places = max(ones, round(ones * scale))
    for _ in range(_ATTEMPTS):
        masks = torch.zeros(members, places)
        for mask in masks:
            mask[torch.randperm(places, generator=generator)[:ones]] = 1.0
        masks = masks[:, masks.any(0)]
        if masks.shape[1] == features and (scale == 1.0 or not masks.all()):
            return masks
        places = max(ones, places + (1 if masks.shape[1] < features else -1))
    raise InputError(
        f"found no {members} masks of scale {scale} over {features} features: take fewer members, or a wider layer"
    )


class MasksemblesTrainee(PriorTrainee):
    """Descends the loss with the rows of a minibatch shared out among the members."""

    config: Config

    def __init__(
        self,
        network: nn.Module,
        likelihood: Likelihood,
        config: Config,
        masks: Mapping[str, Tensor],
        *,
        n_data: int,
        generator: torch.Generator,
    ) -> None:
        super().__init__(network, likelihood, config, n_data=n_data, generator=generator)
        self._masks = masks

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        """The loss per example; row i is shown to member i modulo their number."""
        total = torch.zeros(())
        for i in range(min(self.config.members, len(x))):
            rows = slice(i, None, self.config.members)
            outputs = torch.func.functional_call(self.network, masked(self.network, self._masks, i), (x[rows],))
            total = total + self.likelihood.loss(outputs, y[rows]).sum()
        return total / len(x) + self.penalty() / self.n_data

    def posterior(self, batches: Iterable[Data]) -> MasksemblesPosterior:
        """The network under each of its masks."""
        return MasksemblesPosterior(copy.deepcopy(self.network), settings_of(self.config, self.likelihood), self._masks)


class MasksemblesPosterior(Posterior):
    """A network under a few masks, drawn without replacement.

    Args:
        network: as in ``Posterior``.
        settings: as in ``Posterior``.
        masks: [members, features] of 0 and 1, by the name of the layer that reads the features.
    """

    kind = "masksembles"

    def __init__(self, network: nn.Module, settings: Mapping[str, Any], masks: Mapping[str, Tensor]) -> None:
        super().__init__(network, settings)
        self.masks = dict(masks)

    @classmethod
    def blank(cls, network: nn.Module, settings: Mapping[str, Any]) -> MasksemblesPosterior:
        """Masks that keep everything."""
        masks = {name: torch.ones(settings["members"], _inputs(network, name)) for name in settings["layers"]}
        return cls(network, settings, masks)

    @property
    def size(self) -> int:
        """How many masks there are."""
        return len(next(iter(self.masks.values())))

    def sample(self, generator: torch.Generator, n: int) -> list[Member]:
        """Different members in random order: the masked layers' weights."""
        check_count(n, self.size)
        order = torch.randperm(self.size, generator=generator)[:n]
        return [masked(self.network, self.masks, int(i)) for i in order]

    def mean(self) -> Member:
        """The masked layers' mean weights over the members."""
        members = [masked(self.network, self.masks, i) for i in range(self.size)]
        return {name: torch.stack([member[name] for member in members]).mean(0) for name in members[0]}

    def state_dict(self) -> dict[str, Tensor]:
        """The network's weights, and the masks."""
        return {
            **self._network_state(),
            **{f"mask.{name}": mask for name, mask in self.masks.items()},
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Loads weights and masks."""
        check_state(self.state_dict(), state, type(self.network).__name__)
        self._load_network(state)
        self.masks = {name: state[f"mask.{name}"].clone() for name in self.masks}


def masked(network: nn.Module, masks: Mapping[str, Tensor], number: int) -> dict[str, Tensor]:
    """The weights of the masked layers under mask ``number``, by their names."""
    weights = {}
    for name, mask in masks.items():
        layer = network.get_submodule(name)
        weight: Tensor = layer.weight  # type: ignore[assignment]
        weights[f"{name}.weight"] = weight * _per_weight(layer, mask[number].to(weight))
    return weights


def _per_weight(layer: nn.Module, mask: Tensor) -> Tensor:
    """A mask over a layer's inputs, in a shape that multiplies its weight."""
    weight: Tensor = layer.weight  # type: ignore[assignment]
    if isinstance(layer, nn.Linear):
        return mask
    # Weight [out, in / groups, ...]: an output reads the inputs of its own group.
    groups = int(layer.groups)  # type: ignore[arg-type]
    own = mask.reshape(groups, -1).repeat_interleave(len(weight) // groups, dim=0)
    return own.reshape(*own.shape, *(1 for _ in weight.shape[2:]))


def _inputs(network: nn.Module, name: str) -> int:
    layer = dict(network.named_modules()).get(name)
    if isinstance(layer, nn.Linear):
        return layer.in_features
    if isinstance(layer, _CONVOLUTIONS):
        return layer.in_channels
    raise InputError(f"layer {name!r} is no linear or convolutional layer of {type(network).__name__}")
