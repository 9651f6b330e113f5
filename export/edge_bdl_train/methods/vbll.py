"""A variational last layer, trained without drawing from it (Harrison et al. 2024, arXiv 2404.11599).

The bound on the marginal likelihood is in closed form: exact for a Gaussian likelihood (equation 5), and by Jensen's
inequality on the log-sum-exp for classes (equation 8). Everything before the last layer is a point estimate.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from edge_bdl.errors import InputError
from edge_bdl_train.fit import Data, GradientTrainee
from edge_bdl_train.likelihoods.base import Likelihood
from edge_bdl_train.likelihoods.categorical import Categorical
from edge_bdl_train.likelihoods.gaussian import Gaussian
from edge_bdl_train.methods.described import settings_of
from edge_bdl_train.methods.gaussian_head import (
    GaussianHeadPosterior,
    find_last_layer,
    last_layer,
    noise_of,
    outputs_and_features,
)
from edge_bdl_train.optimiser import Optimiser
from edge_bdl_train.priors.base import Prior


@dataclass(frozen=True, kw_only=True)
class Config:
    """How to fit the last layer, and what is before it.

    Attributes:
        prior_scale: s of the last layer's prior N(0, s^2).
        covariance: between the weights of each output, or only each weight's variance.
        initial_scale: standard deviation of the last layer's weights at the start.
        prior: of every parameter before the last layer; None for maximum likelihood.
        optimiser: how to step.
    """

    prior_scale: float = 1.0
    covariance: Literal["dense", "diagonal"] = "dense"
    initial_scale: float = 0.1
    prior: Prior | None = None
    optimiser: Optimiser = field(default_factory=Optimiser)

    def __post_init__(self) -> None:
        """Checks the ranges."""
        if not (self.prior_scale > 0.0 and self.initial_scale > 0.0):
            raise InputError(
                f"prior_scale and initial_scale must be above 0, got {self.prior_scale} and {self.initial_scale}"
            )
        if self.covariance not in ("dense", "diagonal"):
            raise InputError(f"covariance is 'dense' or 'diagonal', got {self.covariance!r}")


def build(
    network: nn.Module, likelihood: Likelihood, config: Config, *, n_data: int, generator: torch.Generator
) -> VbllTrainee:
    """A copy of the network, to be trained.

    Raises:
        InputError: the likelihood has no closed form here, or the network has no linear layer.
    """
    if not isinstance(likelihood, (Categorical, Gaussian)):
        raise InputError(
            f"VBLL has a closed form for a categorical likelihood and a Gaussian with one noise, got {likelihood!r}"
        )
    names = [name for name, module in network.named_modules() if isinstance(module, nn.Linear)]
    if not names:
        raise InputError(f"{type(network).__name__} has no linear layer, expected it to end in one")
    return VbllTrainee(
        _Headed(copy.deepcopy(network), names[-1], config), likelihood, config, n_data=n_data, generator=generator
    )


class _Headed(nn.Module):
    """The network and the square root of its last layer's covariance, per output.

    A root is lower triangular, with its diagonal as a logarithm.
    """

    def __init__(self, network: nn.Module, name: str, config: Config) -> None:
        super().__init__()
        self.network = network
        self.name = name
        layer = last_layer(network, name)
        outputs, features = layer.out_features, layer.in_features + (layer.bias is not None)
        like = layer.weight
        self.log_diagonal = nn.Parameter(
            torch.full_like(like[:, :1], math.log(config.initial_scale)).repeat(1, features)
        )
        self.below = nn.Parameter(like.new_zeros(outputs, features, features)) if config.covariance == "dense" else None

    def roots(self) -> Tensor:
        """[outputs, features, features]."""
        diagonal = torch.diag_embed(self.log_diagonal.exp())
        return diagonal if self.below is None else diagonal + self.below.tril(-1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The outputs' means and variances, each [N, outputs]."""
        mean, phi = outputs_and_features(self.network, last_layer(self.network, self.name), x)
        return mean, torch.einsum("nd,ade->nae", phi, self.roots()).square().sum(-1)


class VbllTrainee(GradientTrainee):
    """Descends minus the bound, by the weights before the last layer and the Gaussian over its own."""

    network: _Headed
    config: Config

    def __init__(
        self, network: _Headed, likelihood: Likelihood, config: Config, *, n_data: int, generator: torch.Generator
    ) -> None:
        super().__init__(network, likelihood, config, n_data=n_data, generator=generator)
        self._checked = False

    def step(self, x: Tensor, y: Tensor) -> float:
        """One step down the loss; the first one finds out whether the last layer is the last."""
        if not self._checked:
            _check_last(self.network, x)
            self._checked = True
        return super().step(x, y)

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        """Minus the bound, per example."""
        mean, variance = self.network(x)
        return -self._expected_log_prob(mean, variance, y).mean() + self.penalty() / self.n_data

    def penalty(self) -> Tensor:
        """The last layer's KL divergence from its prior, and the prior of what is before it."""
        layer = last_layer(self.network.network, self.network.name)
        s = self.config.prior_scale
        squares = sum((parameter.square().sum() for parameter in layer.parameters()), torch.zeros(()))
        squares = squares + self.network.roots().square().sum()
        weights = self.network.log_diagonal.numel()
        kl = 0.5 * (squares / s**2 - weights) + weights * math.log(s) - self.network.log_diagonal.sum()
        return kl - self._log_prior_before()

    def posterior(self, batches: Iterable[Data]) -> VbllPosterior:
        """The Gaussian that was learned."""
        network = copy.deepcopy(self.network.network).eval()
        name = find_last_layer(network, batches)
        roots = self.network.roots().detach().double()
        if self.config.covariance == "dense":
            covariance = roots @ roots.transpose(1, 2)
        else:
            covariance = roots.diagonal(dim1=1, dim2=2).square()
        settings = {**settings_of(self.config, self.likelihood), **noise_of(self.likelihood), "layer": name}
        return VbllPosterior(network, settings, covariance)

    def _log_prior_before(self) -> Tensor:
        """The log-density of the weights before the last layer under their prior."""
        prior, name = self.config.prior, self.network.name
        if prior is None:
            return torch.zeros(())
        parameters = dict(self.network.network.named_parameters())
        prior.check(parameters)
        own = {f"{name}.weight", f"{name}.bias"} if name else {"weight", "bias"}
        before = [prior.within(key).log_prob(value) for key, value in parameters.items() if key not in own]
        return torch.stack(before).sum() if before else torch.zeros(())

    def _expected_log_prob(self, mean: Tensor, variance: Tensor, y: Tensor) -> Tensor:
        """[N]: the log-likelihood's expectation over the last layer's weights, or a bound below it."""
        if isinstance(self.likelihood, Categorical):
            own = mean.gather(1, y[:, None])[:, 0]
            return own - torch.logsumexp(mean + 0.5 * variance, dim=1)
        assert isinstance(self.likelihood, Gaussian)
        return self.likelihood.log_prob(mean, y) - 0.5 * variance.sum(1) / self.likelihood.noise**2


class VbllPosterior(GaussianHeadPosterior):
    """A learned Gaussian over the last layer's weights, independent from output to output."""

    kind = "vbll"


def _check_last(headed: _Headed, x: Tensor) -> None:
    network = copy.deepcopy(headed.network).eval()
    found = find_last_layer(network, [(x, x)])
    if found != headed.name:
        raise InputError(
            f"the network's last layer is {found!r}, but {headed.name!r} is defined after it: define it last"
        )
