"""What all variational layers are: a deterministic layer whose parameters are Gaussian weights.

A variational layer draws while it is in train mode, and uses the weights' means in eval mode, as dropout does.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor, nn

from edge_bdl.errors import InputError
from edge_bdl_train.layers.weight import GaussianWeight, Proportional
from edge_bdl_train.priors.base import Prior

Estimator = Literal["reparametrisation", "local_reparametrisation", "flipout"]


class VariationalLayer(nn.Module):
    """A layer with Gaussian weights in place of parameters, under the parameters' names.

    The parameter ``weight`` of the deterministic layer is ``weight.mean`` and ``weight.rho`` here. The layer's other
    attributes (``stride``, ``num_heads``, ...) are those of the deterministic one.

    Args:
        twin: the deterministic layer, without values: a copy on torch's meta device.
        weights: by the name of the twin's parameter.
        estimator: how forward draws.
        generator: draws in forward; None to set it later, by ``drawing``.
    """

    twins: ClassVar[tuple[type[nn.Module], ...]]
    """The deterministic layers that this can be a twin of."""
    estimators: ClassVar[tuple[Estimator, ...]] = ("reparametrisation",)
    """What it can draw by."""

    def __init__(
        self,
        twin: nn.Module,
        weights: Mapping[str, GaussianWeight],
        *,
        estimator: Estimator = "reparametrisation",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if estimator not in self.estimators:
            known = " or ".join(self.estimators if estimator in get_args(Estimator) else get_args(Estimator))
            raise InputError(f"{type(self).__name__} draws by {known}, got estimator={estimator!r}")
        # Not a submodule: the twin's parameters have no values, and must not be found beside the Gaussian weights.
        object.__setattr__(self, "_twin", twin)
        self._names = tuple(weights)
        for name, weight in weights.items():
            _put(self, name, weight)
        self.estimator = estimator
        self.generator = generator
        self.train(twin.training)

    @classmethod
    def from_deterministic(
        cls,
        layer: nn.Module,
        prior: Prior,
        sigma: float | Proportional,
        *,
        estimator: Estimator = "reparametrisation",
        generator: torch.Generator | None = None,
    ) -> VariationalLayer:
        """The twin of a layer; the layer stays as it is.

        Args:
            layer: its parameters are the initial means.
            prior: of the layer's parameters.
            sigma: initial standard deviation of every weight, or how it follows from the weight.
            estimator: how forward draws.
            generator: draws in forward; None to set it later, by ``drawing``.

        Raises:
            InputError: the layer is of another type or has an option that cannot be kept, or it cannot draw that way.
        """
        if type(layer) not in cls.twins:
            known = ", ".join(twin.__name__ for twin in cls.twins)
            raise InputError(f"{cls.__name__} is the twin of {known}, got {type(layer).__name__}")
        cls.check(layer)
        parameters = dict(layer.named_parameters())
        prior.check(parameters)
        weights = {name: GaussianWeight(mean, prior.within(name), sigma) for name, mean in parameters.items()}
        return cls(copy.deepcopy(layer).to("meta"), weights, estimator=estimator, generator=generator)

    @classmethod
    def check(cls, layer: nn.Module) -> None:
        """Refuses a layer with an option that cannot be kept.

        Raises:
            InputError: it has one.
        """

    def weights(self) -> dict[str, GaussianWeight]:
        """The Gaussian weights by the names of the deterministic layer's parameters."""
        return {name: self.get_submodule(name) for name in self._names}  # type: ignore[misc]

    def means(self) -> dict[str, Tensor]:
        """The weights' means, as the deterministic layer's ``load_state_dict`` takes them."""
        return {name: weight.mean for name, weight in self.weights().items()}

    def draw(self, generator: torch.Generator) -> dict[str, Tensor]:
        """One draw of all weights, as the deterministic layer's ``load_state_dict`` takes it."""
        return {name: weight.sample(generator) for name, weight in self.weights().items()}

    def kl(self) -> Tensor:
        """KL(weights || prior) in nats, summed over all weights."""
        return torch.stack([weight.kl(self.generator) for weight in self.weights().values()]).sum()

    def call(self, weights: Mapping[str, Tensor], *arguments: Any, **options: Any) -> Any:
        """What the deterministic layer with these weights answers."""
        return torch.func.functional_call(self._twin, dict(weights), arguments, options)

    def forward(self, *arguments: Any, **options: Any) -> Any:
        """What the deterministic layer answers with one draw of the weights for all rows; in eval mode, their means."""
        weights = self.draw(self.drawn_by()) if self.training else self.means()
        return self.call(weights, *arguments, **options)

    def drawn_by(self) -> torch.Generator:
        """The generator that forward draws with.

        Raises:
            InputError: there is none.
        """
        if self.generator is None:
            raise InputError(
                f"{type(self).__name__} has no generator to draw with: give it one, or use drawing(network, generator)"
            )
        return self.generator

    def train(self, mode: bool = True) -> VariationalLayer:
        """Sets train or eval mode, of the twin as well."""
        self._twin.train(mode)
        return super().train(mode)

    def extra_repr(self) -> str:
        """The twin's, and the estimator."""
        return f"{self._twin.extra_repr()}, estimator={self.estimator}".removeprefix(", ")

    def __getattr__(self, name: str) -> Any:
        # Only what is not found here comes this far: a hyperparameter of the twin, or a parameter that it was made
        # without. Never the twin's methods: reset_parameters, for one, would reset nothing.
        twin = self.__dict__.get("_twin")
        if twin is None or name in self._modules:
            return super().__getattr__(name)
        if name in twin.__dict__:
            return twin.__dict__[name]
        return None if name in twin._parameters else super().__getattr__(name)


def variational_layers(network: nn.Module) -> dict[str, VariationalLayer]:
    """The network's variational layers by their names."""
    return {name: module for name, module in network.named_modules() if isinstance(module, VariationalLayer)}


def total_kl(network: nn.Module) -> Tensor:
    """KL(weights || prior) in nats, summed over all weights of all variational layers.

    Raises:
        InputError: the network has none.
    """
    layers = variational_layers(network)
    if not layers:
        raise InputError(f"{type(network).__name__} has no variational layers: bayesianize it first")
    return torch.stack([layer.kl() for layer in layers.values()]).sum()


@contextmanager
def drawing(network: nn.Module, generator: torch.Generator) -> Iterator[None]:
    """All variational layers of the network draw with this generator; afterwards each has its own again."""
    layers = list(variational_layers(network).values())
    own = [layer.generator for layer in layers]
    for layer in layers:
        layer.generator = generator
    try:
        yield
    finally:
        for layer, before in zip(layers, own, strict=True):
            layer.generator = before


def _put(layer: nn.Module, name: str, weight: GaussianWeight) -> None:
    """Registers a weight under a name that may lead through submodules, as ``out_proj.weight`` does."""
    path, _, leaf = name.rpartition(".")
    for part in path.split(".") if path else ():
        if part not in layer._modules:
            setattr(layer, part, nn.Module())
        layer = layer.get_submodule(part)
    setattr(layer, leaf, weight)
