"""Monte-Carlo dropout with fixed rates (Gal and Ghahramani 2016, arXiv 1506.02142).

The network has its ``nn.Dropout`` modules where the user put them, or where ``bayesianize`` did. A member is a set of
masks, one for each call of such a module, and holds for all rows: it is one function.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from edge_bdl.errors import InputError
from edge_bdl_train.fit import Data, PriorTrainee
from edge_bdl_train.likelihoods.base import Likelihood
from edge_bdl_train.methods.described import settings_of
from edge_bdl_train.optimiser import Optimiser
from edge_bdl_train.posterior import Member, Posterior, check_count, check_state
from edge_bdl_train.priors.base import Prior

# By how many leading axes of its input a module draws; the rest of the input shares the draw. None: all of them.
_KINDS: dict[type[_DropoutNd], int | None] = {nn.Dropout: None, nn.Dropout1d: 2, nn.Dropout2d: 2, nn.Dropout3d: 2}


@dataclass(frozen=True, kw_only=True)
class Config:
    """How to train with dropout; the rates are the modules' own.

    Attributes:
        prior: of every parameter. N(0, s^2) is the paper's weight decay 1/(s^2 N); None for none.
        optimiser: how to step.
    """

    prior: Prior | None = None
    optimiser: Optimiser = field(default_factory=Optimiser)


def build(
    network: nn.Module, likelihood: Likelihood, config: Config, *, n_data: int, generator: torch.Generator
) -> DropoutTrainee:
    """A copy of the network, to be trained.

    Raises:
        InputError: the network has no dropout, or some that cannot be drawn as masks.
    """
    dropouts(network)
    return DropoutTrainee(copy.deepcopy(network), likelihood, config, n_data=n_data, generator=generator)


class DropoutTrainee(PriorTrainee):
    """Descends the loss under dropout, each row with its own masks."""

    def posterior(self, batches: Iterable[Data]) -> DropoutPosterior:
        """The network with masks to be drawn."""
        return dropout_posterior(DropoutPosterior, self.network, settings_of(self.config, self.likelihood), batches)


class DropoutPosterior(Posterior):
    """A network under random masks.

    ``network`` is the plain torch network with its dropout modules, as ``edge_bdl_export.export`` takes it.

    Args:
        network: as in ``Posterior``.
        settings: as in ``Posterior``; its ``masks`` are the shapes [1, ...] of the masks by their names: the module's,
            ``#`` and the number of its call.
    """

    kind = "dropout"

    def __init__(self, network: nn.Module, settings: Mapping[str, Any]) -> None:
        super().__init__(network, settings)
        found = dropouts(network)
        for name, shape in settings["masks"].items():
            if name.rpartition("#")[0] not in found or not all(isinstance(n, int) and n >= 1 for n in shape):
                raise InputError(f"mask {name!r} of shape {shape} is of no dropout in {type(network).__name__}")

    def sample(self, generator: torch.Generator, n: int) -> list[Member]:
        """Masks [1, ...] of 0 and 1/(1 - rate), each unit on its own."""
        check_count(n)
        rates = self.rates()
        return [
            {
                name: _mask(shape, rates[name.rpartition("#")[0]], generator)
                for name, shape in self.settings["masks"].items()
            }
            for _ in range(n)
        ]

    def mean(self) -> Member:
        """Masks of ones: the network at eval."""
        return {name: torch.ones(shape) for name, shape in self.settings["masks"].items()}

    def rates(self) -> dict[str, float]:
        """The dropout rate of each module by its name."""
        return {name: module.p for name, module in dropouts(self.network).items()}

    def run(self, x: Tensor, member: Member) -> Tensor:
        """The network's outputs under one set of masks."""
        with _masked(self.network, member):
            return self.network(x)

    def state_dict(self) -> dict[str, Tensor]:
        """The network's weights and its rates."""
        return {
            **self._network_state(),
            **{f"rate.{name}": torch.tensor(rate, dtype=torch.float64) for name, rate in self.rates().items()},
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Loads weights and rates."""
        check_state(self.state_dict(), state, type(self.network).__name__)
        found = dropouts(self.network)
        rates = {name: float(state[f"rate.{name}"]) for name in found}
        wrong = sorted(name for name, rate in rates.items() if not 0.0 <= rate <= 1.0)
        if wrong:
            raise InputError(f"the state has rates outside [0, 1] for {', '.join(wrong)}")
        self._load_network(state)
        for name, module in found.items():
            module.p = rates[name]


def dropout_posterior(
    kind: type[DropoutPosterior], network: nn.Module, settings: Mapping[str, Any], batches: Iterable[Data]
) -> DropoutPosterior:
    """The posterior of a trained network; its masks' shapes are those of the first row's activations."""
    network = copy.deepcopy(network).eval()
    x, _ = next(iter(batches))
    shapes: dict[str, list[int]] = {}

    def note(name: str, module: _DropoutNd, activation: Tensor) -> None:
        shapes[name] = list(mask_shape(module, activation))

    with _each_call(network, note), torch.no_grad():
        network(x[:1])
    return kind(network, {**settings, "masks": shapes})


def dropouts(network: nn.Module) -> dict[str, _DropoutNd]:
    """The network's dropout modules by their names.

    Raises:
        InputError: there are none, or there are some that cannot be drawn as masks.
    """
    found = {
        name: module
        for name, module in network.named_modules()
        if isinstance(module, _DropoutNd) and type(module) in _KINDS
    }
    hidden = sorted(
        f"{name} ({type(module).__name__})"
        for name, module in network.named_modules()
        if (isinstance(module, _DropoutNd) and name not in found)
        or (isinstance(module, (nn.RNNBase, nn.MultiheadAttention)) and module.dropout > 0.0)
    )
    if hidden:
        raise InputError(
            f"dropout cannot be drawn as masks in {', '.join(hidden)}: use nn.Dropout or nn.Dropout1d to 3d beside them"
        )
    if not found:
        raise InputError(
            f"{type(network).__name__} has no dropout modules: give it some, or bayesianize(network, 'dropout')"
        )
    return found


def mask_shape(module: _DropoutNd, activation: Tensor) -> tuple[int, ...]:
    """The shape of a mask [1, ...] that all rows of an activation [N, ...] share."""
    own = _KINDS[type(module)]
    drawn = activation.ndim if own is None else own
    return (1, *activation.shape[1:drawn], *(1 for _ in activation.shape[drawn:]))


def _mask(shape: Sequence[int], rate: float, generator: torch.Generator) -> Tensor:
    keep = torch.rand(shape, generator=generator) >= rate
    return keep / (1.0 - rate) if rate < 1.0 else keep.float()


@contextmanager
def _masked(network: nn.Module, member: Member) -> Iterator[None]:
    """Every dropout module multiplies by its mask."""

    def mask(name: str, module: nn.Module, activation: Tensor) -> Tensor:
        if name not in member:
            raise InputError(f"the member has no mask {name!r}: the network was called in another way than in training")
        return activation * member[name].to(activation)

    with _each_call(network, mask):
        yield


@contextmanager
def _each_call(network: nn.Module, see: Any) -> Iterator[None]:
    """Each call of a dropout module gives what ``see`` makes of its member name and its input, unless that is None."""
    calls: Counter[str] = Counter()

    def hook(name: str) -> Any:
        def called(module: _DropoutNd, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
            number = calls[name]
            calls[name] += 1
            return see(f"{name}#{number}", module, inputs[0])

        return called

    handles = [module.register_forward_hook(hook(name)) for name, module in dropouts(network).items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
