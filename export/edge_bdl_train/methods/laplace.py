"""The last layer's Laplace approximation (Daxberger et al. 2021, arXiv 2106.14806).

A network is trained to its most probable weights. Around those of its last layer the posterior is taken for a Gaussian
whose precision is the generalised Gauss-Newton matrix of the negative log-likelihood plus the prior's precision.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from edge_bdl.errors import InputError
from edge_bdl_train.fit import Data, PriorTrainee
from edge_bdl_train.likelihoods.base import Likelihood
from edge_bdl_train.likelihoods.categorical import Categorical
from edge_bdl_train.likelihoods.gaussian import Gaussian, HeteroscedasticGaussian
from edge_bdl_train.methods.described import settings_of
from edge_bdl_train.methods.gaussian_head import (
    GaussianHeadPosterior,
    features,
    find_last_layer,
    last_layer,
    matrix,
    noise_of,
)
from edge_bdl_train.optimiser import Optimiser
from edge_bdl_train.priors.base import Prior

# MacKay's fixed point has settled when the precision changes by less than this share.
_SETTLED = 1e-9
_MOST_ROUNDS = 10_000
_PRECISIONS = (1e-8, 1e8)


@dataclass(frozen=True, kw_only=True)
class Config:
    """How to fit the weights, and the Gaussian around them.

    Attributes:
        covariance: between all weights of the last layer, or only each one's variance.
        prior_precision: 1/s^2 of the last layer's prior N(0, s^2) in the Gaussian; None for the one with the largest
            marginal likelihood.
        prior: of every parameter while the weights are trained; None for maximum likelihood.
        optimiser: how to step.
    """

    covariance: Literal["full", "diagonal"] = "full"
    prior_precision: float | None = None
    prior: Prior | None = None
    optimiser: Optimiser = field(default_factory=Optimiser)

    def __post_init__(self) -> None:
        """Checks the ranges."""
        if self.covariance not in ("full", "diagonal"):
            raise InputError(f"covariance is 'full' or 'diagonal', got {self.covariance!r}")
        if self.prior_precision is not None and not self.prior_precision > 0.0:
            raise InputError(f"prior_precision must be above 0, got {self.prior_precision}")


def build(
    network: nn.Module, likelihood: Likelihood, config: Config, *, n_data: int, generator: torch.Generator
) -> LaplaceTrainee:
    """A copy of the network, to be trained; with 0 epochs of training, a network that already is, frozen or not.

    Raises:
        InputError: the curvature of this likelihood is not known.
    """
    if not isinstance(likelihood, (Categorical, Gaussian, HeteroscedasticGaussian)):
        raise InputError(f"Laplace knows the curvature of categorical and Gaussian likelihoods, got {likelihood!r}")
    trained = copy.deepcopy(network)
    if not any(parameter.requires_grad for parameter in trained.parameters()):
        trained.requires_grad_(True)  # a posterior's network is frozen
    return LaplaceTrainee(trained, likelihood, config, n_data=n_data, generator=generator)


class LaplaceTrainee(PriorTrainee):
    """Trains a point estimate, and looks at the curvature when that is done."""

    config: Config

    def posterior(self, batches: Iterable[Data]) -> LaplacePosterior:
        """The Gaussian around the weights as they are, from one pass over the data."""
        network = copy.deepcopy(self.network).eval().requires_grad_(False)
        name = find_last_layer(network, batches)
        layer = last_layer(network, name)
        curvature = _curvature(network, layer, self.likelihood, batches, self.config.covariance)
        precision = self.config.prior_precision
        if precision is None:
            precision = best_prior_precision(curvature, matrix(layer))
        settings = {
            **settings_of(self.config, self.likelihood),
            **noise_of(self.likelihood),
            "layer": name,
            "prior_precision": precision,
        }
        return LaplacePosterior(network, settings, _inverse(curvature, precision))


class LaplacePosterior(GaussianHeadPosterior):
    """A Gaussian around the last layer's most probable weights."""

    kind = "laplace"


def output_curvature(likelihood: Likelihood, outputs: Tensor) -> Tensor:
    """Minus the expected second derivative of the log-likelihood by the network's outputs.

    Args:
        likelihood: categorical or Gaussian.
        outputs: float64 [N, outputs].

    Returns:
        float64 [N, outputs, outputs], positive semidefinite. For a categorical likelihood and a Gaussian with one noise
        the second derivative does not depend on the target; for a Gaussian with a log-variance per input this is its
        Fisher information.
    """
    if isinstance(likelihood, Categorical):
        p = torch.softmax(outputs, dim=1)
        return torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
    if isinstance(likelihood, Gaussian):
        return torch.diag_embed(torch.ones_like(outputs) / likelihood.noise.detach() ** 2)
    _, log_variance = outputs.chunk(2, dim=1)
    return torch.diag_embed(torch.cat([torch.exp(-log_variance), torch.full_like(log_variance, 0.5)], dim=1))


def best_prior_precision(curvature: Tensor, weights: Tensor) -> float:
    """The prior precision with the largest marginal likelihood of Laplace's approximation.

    MacKay's fixed point: precision = gamma / |w|^2, with gamma = sum of l / (l + precision) over the curvature's
    eigenvalues l, the number of parameters that the data determine (MacKay 1992, "Bayesian interpolation").
    """
    values = (curvature if curvature.ndim == 2 else torch.linalg.eigvalsh(_flat(curvature))).clamp(min=0.0)
    square = float(weights.square().sum())
    precision = 1.0
    for _ in range(_MOST_ROUNDS):
        determined = float((values / (values + precision)).sum())
        better = min(max(determined / max(square, 1e-300), _PRECISIONS[0]), _PRECISIONS[1])
        settled = abs(better - precision) <= _SETTLED * precision
        precision = better
        if settled:
            break
    return precision


@torch.no_grad()
def _curvature(
    network: nn.Module, layer: nn.Linear, likelihood: Likelihood, batches: Iterable[Data], covariance: str
) -> Tensor:
    """The generalised Gauss-Newton matrix, summed over the data, in the layout of a head's covariance."""
    total: Tensor | None = None
    for x, _ in batches:
        phi = features(network, layer, x)
        outer = output_curvature(likelihood, phi @ matrix(layer).T)
        if covariance == "diagonal":
            part = outer.diagonal(dim1=1, dim2=2).T @ phi.square()
        else:
            part = torch.einsum("nab,nd,ne->adbe", outer, phi, phi)
        total = part if total is None else total + part
    assert total is not None
    return total


def _inverse(curvature: Tensor, prior_precision: float) -> Tensor:
    if curvature.ndim == 2:
        return 1.0 / (curvature + prior_precision)
    precision = _flat(curvature)
    precision.diagonal().add_(prior_precision)
    inverse: Tensor = torch.cholesky_inverse(torch.linalg.cholesky(precision))
    return inverse.reshape(curvature.shape)


def _flat(matrices: Tensor) -> Tensor:
    """[a, d, b, e] -> [a d, b e], a copy."""
    return matrices.flatten(2, 3).flatten(0, 1).clone()
