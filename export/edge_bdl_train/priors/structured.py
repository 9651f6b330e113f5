"""Priors that differ between the parts of a network: how knowledge of a domain, or a pretrained network, enters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from edge_bdl.errors import InputError
from edge_bdl_train.priors.base import Prior
from edge_bdl_train.priors.gaussian import Gaussian


@dataclass(frozen=True, eq=False)
class Structured(Prior):
    """One prior per part of a network.

    Args:
        parts: by the name of a module or of a parameter, as ``named_parameters`` has it.
        default: of all parameters that lie in none of the parts.

    Raises:
        InputError: one part lies within another.
    """

    parts: Mapping[str, Prior]
    default: Prior

    def __post_init__(self) -> None:
        """Checks that the parts are disjoint."""
        for name in self.parts:
            outer = [other for other in self.parts if name.startswith(f"{other}.")]
            if outer:
                raise InputError(f"{name} has two priors, its own and that of {outer[0]}: give it one")

    def log_prob(self, weight: Tensor) -> Tensor:
        """There is none of one tensor.

        Raises:
            InputError: always.
        """
        raise InputError("this prior differs between parts of a network: ask for that of a part, by within(name)")

    def kl(self, mean: Tensor, sigma: Tensor) -> Tensor | None:
        """There is none of one tensor.

        Raises:
            InputError: always.
        """
        self.log_prob(mean)
        return None

    def within(self, name: str) -> Prior:
        """The prior of a module or a parameter."""
        for own, prior in self.parts.items():
            if name == own or name.startswith(f"{own}."):
                return prior.within(name.removeprefix(own).removeprefix("."))
        inner = {own.removeprefix(f"{name}."): prior for own, prior in self.parts.items() if own.startswith(f"{name}.")}
        return Structured(inner, self.default) if inner else self.default

    def named(self) -> tuple[str, ...]:
        """The parts."""
        return tuple(self.parts)


def from_tensors(tensors: Mapping[str, tuple[Tensor, Tensor]], default: Prior) -> Structured:
    """A Gaussian prior with a mean and a standard deviation for every single weight.

    Args:
        tensors: by the name of the parameter: mean and standard deviation, each of the parameter's shape or one that
            broadcasts to it.
        default: of all other parameters.
    """
    return Structured({name: Gaussian(scale, mean) for name, (mean, scale) in tensors.items()}, default)


def informed(pretrained: nn.Module, scale: float) -> Structured:
    """Gaussian priors around a pretrained network's weights (MOPED, Krishnan et al. 2020, arXiv 1906.05323).

    The paper also starts from that network, with standard deviations delta |w|: train it by ``mean_field`` with
    ``sigma=Proportional(delta)``.

    Args:
        pretrained: of the same architecture as what is to be trained; its weights are copied.
        scale: standard deviation of the prior; the paper takes 1.
    """
    means = {name: parameter.detach().clone() for name, parameter in pretrained.named_parameters()}
    return Structured({name: Gaussian(scale, mean) for name, mean in means.items()}, default=Gaussian(scale))
