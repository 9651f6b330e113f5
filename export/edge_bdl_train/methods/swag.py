"""SWAG: a Gaussian around the mean of SGD's iterates, diagonal plus low rank (Maddox et al. 2019, arXiv 1902.02476)."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from edge_bdl.errors import InputError
from edge_bdl_train.fit import Data, PriorTrainee
from edge_bdl_train.layers.weight import standard_normal
from edge_bdl_train.likelihoods.base import Likelihood
from edge_bdl_train.methods.described import settings_of
from edge_bdl_train.optimiser import Optimiser
from edge_bdl_train.posterior import Member, Posterior, check_count, check_state
from edge_bdl_train.priors.base import Prior

_SGD = Optimiser(kind="sgd", learning_rate=0.01, momentum=0.9)


@dataclass(frozen=True, kw_only=True)
class Config:
    """How to walk, and what to keep of it.

    Attributes:
        start_epoch: the first epoch, counted from 0, whose last weights are kept; then those of each epoch are.
        learning_rate: constant from ``start_epoch`` on; None keeps the optimiser's.
        rank: how many of the last deviations span the low-rank part.
        batch_norm_rows: training inputs that a member's own batch statistics are computed from; where the network has
            BatchNorm, they are kept with the posterior and written into its file.
        prior: of every parameter; None for maximum likelihood.
        optimiser: how to step.
    """

    start_epoch: int
    learning_rate: float | None = None
    rank: int = 20
    batch_norm_rows: int = 1000
    prior: Prior | None = None
    optimiser: Optimiser = _SGD

    def __post_init__(self) -> None:
        """Checks the ranges."""
        if self.start_epoch < 0 or self.rank < 2 or self.batch_norm_rows < 2:
            raise InputError(
                "start_epoch must be at least 0, rank and batch_norm_rows at least 2, "
                f"got {self.start_epoch}, {self.rank} and {self.batch_norm_rows}"
            )
        if self.learning_rate is not None and not self.learning_rate > 0.0:
            raise InputError(f"learning_rate must be above 0, got {self.learning_rate}")


def build(
    network: nn.Module, likelihood: Likelihood, config: Config, *, n_data: int, generator: torch.Generator
) -> SwagTrainee:
    """A copy of the network, to be trained."""
    return SwagTrainee(copy.deepcopy(network), likelihood, config, n_data=n_data, generator=generator)


class SwagTrainee(PriorTrainee):
    """Trains a point estimate, and keeps the first two moments of its weights and the last deviations from the mean."""

    config: Config

    def __init__(
        self, network: nn.Module, likelihood: Likelihood, config: Config, *, n_data: int, generator: torch.Generator
    ) -> None:
        super().__init__(network, likelihood, config, n_data=n_data, generator=generator)
        self._count = 0
        self._mean = torch.zeros_like(nn.utils.parameters_to_vector(network.parameters()).detach(), dtype=torch.float64)
        self._square = torch.zeros_like(self._mean)
        self._deviations: list[Tensor] = []

    def end_epoch(self, epoch: int) -> None:
        """Keeps this epoch's weights, from ``start_epoch`` on."""
        super().end_epoch(epoch)
        if epoch + 1 >= self.config.start_epoch and self.config.learning_rate is not None:
            for group in self._optimiser.param_groups:
                group["lr"] = self.config.learning_rate
        if epoch >= self.config.start_epoch:
            self.collect(nn.utils.parameters_to_vector(self.network.parameters()).detach().double())

    def collect(self, weights: Tensor) -> None:
        """Updates the moments by one vector of weights (Maddox et al. 2019, algorithm 1)."""
        self._mean = (self._count * self._mean + weights) / (self._count + 1)
        self._square = (self._count * self._square + weights**2) / (self._count + 1)
        self._count += 1
        self._deviations = [*self._deviations, weights - self._mean][-self.config.rank :]

    def posterior(self, batches: Iterable[Data]) -> SwagPosterior:
        """The Gaussian that the walk has drawn.

        Raises:
            InputError: fewer than two epochs' weights were kept.
        """
        if self._count < 2:
            raise InputError(
                f"SWAG needs the weights of at least 2 epochs, got {self._count}: "
                f"train for more than start_epoch + 1 = {self.config.start_epoch + 1} epochs"
            )
        network = copy.deepcopy(self.network).eval()
        dtype = next(network.parameters()).dtype
        nn.utils.vector_to_parameters(self._mean.to(dtype), network.parameters())
        variance = (self._square - self._mean**2).clamp(min=0.0).to(dtype)
        rows = _first_rows(batches, self.config.batch_norm_rows) if batch_norms(network) else None
        if rows is not None:
            network.load_state_dict({**network.state_dict(), **batch_statistics(network, {}, rows)})
        kept = None if rows is None else {"shape": list(rows.shape), "dtype": str(rows.dtype).removeprefix("torch.")}
        settings = {**settings_of(self.config, self.likelihood), "rows": kept}
        return SwagPosterior(network, settings, variance, torch.stack(self._deviations).to(dtype), rows)


class SwagPosterior(Posterior):
    """A Gaussian over all weights: half its covariance is diagonal, half of low rank.

    Args:
        network: as in ``Posterior``; its parameters are the mean.
        settings: as in ``Posterior``; ``rows`` is the shape and dtype of those below.
        variance: [P], of each parameter, in the order of ``network.parameters()``.
        deviations: [K, P], from the mean.
        rows: inputs for the members' batch statistics; None for a network without BatchNorm.
    """

    kind = "swag"

    def __init__(
        self, network: nn.Module, settings: Mapping[str, Any], variance: Tensor, deviations: Tensor, rows: Tensor | None
    ) -> None:
        super().__init__(network, settings)
        self.variance = variance
        self.deviations = deviations
        self._rows = rows

    @classmethod
    def blank(cls, network: nn.Module, settings: Mapping[str, Any]) -> SwagPosterior:
        """One without variance."""
        kept = settings["rows"]
        rows = None if kept is None else torch.zeros(kept["shape"], dtype=getattr(torch, kept["dtype"]))
        zeros = torch.zeros_like(nn.utils.parameters_to_vector(network.parameters())).detach()
        return cls(network, settings, zeros, zeros.expand(2, -1), rows)

    def sample(self, generator: torch.Generator, n: int) -> list[Member]:
        """Draws of all parameters, each with batch statistics of its own.

        mean + sqrt(1/2) sd z1 + D z2 / sqrt(2 (K - 1)) (Maddox et al. 2019, equation 1), with one z2 for all tensors.
        """
        check_count(n)
        return [self._draw(generator) for _ in range(n)]

    def mean(self) -> Member:
        """The mean weights and their batch statistics."""
        return dict(self.network.state_dict())

    def state_dict(self) -> dict[str, Tensor]:
        """The mean, the variances, the deviations, and the rows for BatchNorm."""
        return {
            **self._network_state(),
            "variance": self.variance,
            "deviations": self.deviations,
            **({} if self._rows is None else {"rows": self._rows}),
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Loads all of it."""
        rank = len(state["deviations"]) if "deviations" in state and state["deviations"].ndim else 2
        wanted = {**self.state_dict(), "deviations": self.variance.expand(max(2, rank), -1)}
        check_state(wanted, state, type(self.network).__name__)
        if not (state["variance"] >= 0.0).all():
            raise InputError("the state has negative variances")
        self._load_network(state)
        self.variance, self.deviations = state["variance"].clone(), state["deviations"].clone()
        self._rows = state["rows"].clone() if "rows" in state else None

    def _draw(self, generator: torch.Generator) -> Member:
        mean = nn.utils.parameters_to_vector(self.network.parameters())
        own = standard_normal(mean.shape, mean, generator)
        shared = standard_normal(self.deviations.shape[:1], self.deviations, generator)
        low_rank = shared @ self.deviations / math.sqrt(2.0 * (len(self.deviations) - 1))
        weights = mean + math.sqrt(0.5) * self.variance.sqrt() * own + low_rank
        sizes = [parameter.numel() for parameter in self.network.parameters()]
        member = {
            name: part.reshape(parameter.shape)
            for (name, parameter), part in zip(self.network.named_parameters(), weights.split(sizes), strict=True)
        }
        return member if self._rows is None else {**member, **batch_statistics(self.network, member, self._rows)}


def batch_norms(network: nn.Module) -> dict[str, _BatchNorm]:
    """The modules that keep batch statistics, by their names."""
    return {
        name: module
        for name, module in network.named_modules()
        if isinstance(module, _BatchNorm) and module.track_running_stats
    }


@torch.no_grad()
def batch_statistics(network: nn.Module, member: Member, rows: Tensor) -> dict[str, Tensor]:
    """The running means and variances of a member's own activations on these rows (Maddox et al. 2019, section 3.2)."""
    network = copy.deepcopy(network).eval()
    network.load_state_dict({**network.state_dict(), **member})
    found = batch_norms(network)
    for module in found.values():
        module.reset_running_stats()
        module.momentum = None  # an average over all that passes
        module.train()
    network(rows)
    return {
        f"{name}.{kind}": getattr(module, kind).clone()
        for name, module in found.items()
        for kind in ("running_mean", "running_var")
    }


def _first_rows(batches: Iterable[Data], count: int) -> Tensor:
    rows: list[Tensor] = []
    for x, _ in batches:
        rows.append(x[: count - sum(map(len, rows))])
        if sum(map(len, rows)) == count:
            break
    return torch.cat(rows)
