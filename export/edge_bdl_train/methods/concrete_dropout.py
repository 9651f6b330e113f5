"""Concrete dropout: dropout whose rates are learned (Gal et al. 2017, arXiv 1705.07832).

While it is trained, a mask is a continuous relaxation of Bernoulli draws; afterwards the network is a plain one whose
``nn.Dropout`` modules have the learned rates.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from edge_bdl.errors import InputError
from edge_bdl_train.fit import Data, GradientTrainee
from edge_bdl_train.likelihoods.base import Likelihood
from edge_bdl_train.methods.described import settings_of
from edge_bdl_train.methods.dropout import DropoutPosterior, dropout_posterior, dropouts, mask_shape
from edge_bdl_train.optimiser import Optimiser
from edge_bdl_train.posterior import Posterior

_READERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass(frozen=True, kw_only=True)
class Config:
    """How to learn weights and rates.

    Attributes:
        prior_scale: s of the prior N(0, s^2) of every parameter; 1/s is the paper's length-scale.
        temperature: of the relaxation; 0.1 is the paper's.
        optimiser: how to step; it learns the rates' logits as well.
    """

    prior_scale: float = 1.0
    temperature: float = 0.1
    optimiser: Optimiser = field(default_factory=Optimiser)

    def __post_init__(self) -> None:
        """Checks the ranges."""
        if not (self.prior_scale > 0.0 and self.temperature > 0.0):
            raise InputError(
                f"prior_scale and temperature must be above 0, got {self.prior_scale} and {self.temperature}"
            )


def build(
    network: nn.Module, likelihood: Likelihood, config: Config, *, n_data: int, generator: torch.Generator
) -> ConcreteDropoutTrainee:
    """A copy of the network with relaxed dropout; the rates start at the modules' own.

    Raises:
        InputError: the network has no dropout, some that cannot be drawn as masks, or a rate of 0 or 1.
    """
    return ConcreteDropoutTrainee(copy.deepcopy(network), likelihood, config, n_data=n_data, generator=generator)


class Concrete(nn.Module):
    """Stands in for a dropout module while its rate is learned."""

    def __init__(self, name: str, stands_for: _DropoutNd, temperature: float) -> None:
        super().__init__()
        if not 0.0 < stands_for.p < 1.0:
            raise InputError(
                f"{name} starts with rate {stands_for.p}, expected one between 0 and 1: set it to 0.1, say"
            )
        self.stands_for = stands_for
        self.temperature = temperature
        self.logit = nn.Parameter(torch.logit(torch.tensor(float(stands_for.p))))

    def forward(self, x: Tensor) -> Tensor:
        """Drops units softly (Gal et al. 2017, equation 5); each row with its own mask. Random in training only."""
        if not self.training:
            return x
        uniform = torch.rand((len(x), *mask_shape(self.stands_for, x)[1:]), dtype=x.dtype, device=x.device)
        # float32 draws can be exactly 0, whose logit would be infinite.
        noise = torch.logit(uniform, eps=torch.finfo(x.dtype).eps)
        dropped = torch.sigmoid((self.logit + noise) / self.temperature)
        return x * (1.0 - dropped) / (1.0 - torch.sigmoid(self.logit))


class ConcreteDropoutTrainee(GradientTrainee):
    """Descends the loss by weights and rates."""

    config: Config

    def __init__(
        self, network: nn.Module, likelihood: Likelihood, config: Config, *, n_data: int, generator: torch.Generator
    ) -> None:
        self._concrete = {
            name: Concrete(name, module, config.temperature) for name, module in dropouts(network).items()
        }
        for name, module in self._concrete.items():
            network.set_submodule(name, module)
        super().__init__(network, likelihood, config, n_data=n_data, generator=generator)
        self._readers: dict[str, str] | None = None

    def step(self, x: Tensor, y: Tensor) -> float:
        """One step down the loss; the first one finds out which layer reads behind each dropout."""
        if self._readers is None:
            self._readers = _readers(self.network, x[:1])
        return super().step(x, y)

    def penalty(self) -> Tensor:
        """The KL divergence from the prior, for the whole network (Gal et al. 2017, equations 3 and 4).

        For a layer that reads K units behind dropout of rate p: (1 - p) |M|^2 / (2 s^2) - K H(p). Torch scales the
        units that it keeps by 1 / (1 - p), so that the layer's weights are W = (1 - p) M.
        """
        assert self._readers is not None
        total = torch.zeros(())
        weights = dict(self.network.named_parameters())
        for name, module in self._concrete.items():
            rate = torch.sigmoid(module.logit)
            weight = weights.pop(f"{self._readers[name]}.weight")
            del weights[f"{name}.logit"]
            units = weight[0].numel() if weight.ndim == 2 else weight.shape[1]
            total = total + weight.square().sum() / (2.0 * self.config.prior_scale**2 * (1.0 - rate))
            total = total - units * _entropy(rate)
        for rest in weights.values():
            total = total + rest.square().sum() / (2.0 * self.config.prior_scale**2)
        return total

    def rates(self) -> dict[str, float]:
        """The present rate of each dropout by its name."""
        return {name: float(torch.sigmoid(module.logit.detach())) for name, module in self._concrete.items()}

    def posterior(self, batches: Iterable[Data]) -> Posterior:
        """The plain network with the learned rates."""
        network = copy.deepcopy(self.network)
        for name, rate in self.rates().items():
            plain = copy.deepcopy(self._concrete[name].stands_for)
            plain.p = rate
            network.set_submodule(name, plain)
        return dropout_posterior(ConcreteDropoutPosterior, network, settings_of(self.config, self.likelihood), batches)


class ConcreteDropoutPosterior(DropoutPosterior):
    """Dropout with the rates that were learned."""

    kind = "concrete_dropout"


def _entropy(rate: Tensor) -> Tensor:
    """Of a Bernoulli, in nats."""
    return -(rate * torch.log(rate) + (1.0 - rate) * torch.log1p(-rate))


def _readers(network: nn.Module, x: Tensor) -> dict[str, str]:
    """The layer that is called next after each dropout, by the dropout's name.

    Raises:
        InputError: a dropout has none behind it, or one that is behind another one too.
    """
    called: list[str] = []

    def note(name: str) -> Callable[[nn.Module, Any], None]:
        return lambda module, inputs: called.append(name)

    watched = {name: module for name, module in network.named_modules() if isinstance(module, (Concrete, *_READERS))}
    handles = [module.register_forward_pre_hook(note(name)) for name, module in watched.items()]
    training = network.training
    try:
        with torch.no_grad():
            network.eval()(x)
    finally:
        network.train(training)
        for handle in handles:
            handle.remove()
    readers: dict[str, str] = {}
    for name, following in zip(called, [*called[1:], None], strict=True):
        if not isinstance(watched[name], Concrete):
            continue
        if following is None or isinstance(watched[following], Concrete):
            raise InputError(f"behind {name} there is no linear or convolutional layer: remove that dropout")
        if readers.get(name, following) != following or following in [readers[o] for o in readers if o != name]:
            raise InputError(
                f"{name} and {following} are not one dropout before one layer: use one nn.Dropout for each"
            )
        readers[name] = following
    missing = sorted(name for name, module in watched.items() if isinstance(module, Concrete) and name not in readers)
    if missing:
        raise InputError(f"the network does not use its dropout {', '.join(missing)}: remove it")
    return readers
