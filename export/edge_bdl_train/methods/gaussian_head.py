"""A posterior that is Gaussian in the weights of the last layer and has everything before it fixed.

The layer's weight and bias are one matrix [outputs, features], the bias being the weight of a feature that is always
1. What the network answers is then Gaussian too, in closed form: mean W phi, covariance phi^T S phi.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from edge_bdl.errors import InputError
from edge_bdl_train.fit import Data
from edge_bdl_train.layers.weight import standard_normal
from edge_bdl_train.likelihoods.base import Likelihood
from edge_bdl_train.likelihoods.gaussian import Gaussian
from edge_bdl_train.posterior import Member, Posterior, check_count, check_state


class GaussianHeadPosterior(Posterior):
    """A Gaussian over the last layer's weights.

    Args:
        network: as in ``Posterior``; the last layer's weights are the Gaussian's mean.
        settings: as in ``Posterior``; its ``layer`` names the last layer, its ``noise`` is the targets' standard
            deviation around a member's output, where the likelihood has one for all.
        covariance: float64, of the matrix [outputs, features]: all with all [outputs, features, outputs, features],
            within each output [outputs, features, features], or only the variances [outputs, features].
    """

    def __init__(self, network: nn.Module, settings: Mapping[str, Any], covariance: Tensor) -> None:
        super().__init__(network, settings)
        self._layer = last_layer(network, settings["layer"])
        self.covariance = covariance
        self._root = _root(covariance)

    @classmethod
    def blank(cls, network: nn.Module, settings: Mapping[str, Any]) -> GaussianHeadPosterior:
        """One with unit variances."""
        return cls(network, settings, torch.ones_like(matrix(last_layer(network, settings["layer"]))))

    def sample(self, generator: torch.Generator, n: int) -> list[Member]:
        """Draws of the last layer's weight and bias."""
        check_count(n)
        mean = matrix(self._layer)
        return [self._member(mean + self._deviation(generator)) for _ in range(n)]

    def mean(self) -> Member:
        """The last layer's mean weight and bias."""
        return self._member(matrix(self._layer))

    def moments(self, *x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and covariance of the network's outputs, without drawing.

        Args:
            x: [N, ...], as the network takes them.

        Returns:
            float64 [N, outputs] and [N, outputs, outputs].
        """
        phi = features(self.network, self._layer, *x)
        mean = phi @ matrix(self._layer).T
        if self.covariance.ndim == 4:
            return mean, torch.einsum("nd,adbe,ne->nab", phi, self.covariance, phi)
        if self.covariance.ndim == 3:
            return mean, torch.diag_embed(torch.einsum("nd,ade,ne->na", phi, self.covariance, phi))
        return mean, torch.diag_embed(phi.square() @ self.covariance.T)

    def probit(self, x: Tensor) -> Tensor:
        """Class probabilities, float64 [N, classes], in closed form.

        The softmax of the mean logits, each divided by sqrt(1 + pi/8 variance) (MacKay 1992, "The evidence framework
        applied to classification networks"; for many classes Daxberger et al. 2021, arXiv 2106.14806, appendix B.3).
        """
        mean, covariance = self.moments(x)
        variance = covariance.diagonal(dim1=1, dim2=2)
        return torch.softmax(mean / torch.sqrt(1.0 + math.pi / 8.0 * variance), dim=1)

    def sample_outputs(self, x: Tensor, n: int, generator: torch.Generator) -> Tensor:
        """Outputs [n, N, outputs], float64, drawn from their Gaussian; each row on its own."""
        check_count(n)
        mean, covariance = self.moments(x)
        # A row of zeros has no variance, and so no Cholesky factor.
        values, vectors = torch.linalg.eigh(covariance)
        root = vectors * values.clamp(min=0.0).sqrt()[:, None, :]
        noise = standard_normal(torch.Size((n, *mean.shape)), mean, generator)
        return mean + torch.einsum("nab,snb->sna", root, noise)

    def state_dict(self) -> dict[str, Tensor]:
        """The network's weights, and the covariance."""
        return {**self._network_state(), "covariance": self.covariance}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Loads weights and covariance."""
        rows, columns = matrix(self._layer).shape
        shapes = {2: (rows, columns), 3: (rows, columns, columns), 4: (rows, columns, rows, columns)}
        axes = state["covariance"].ndim if "covariance" in state else 2
        wanted = {
            **self._network_state(),
            "covariance": torch.empty(shapes.get(axes, shapes[4]), dtype=torch.float64),
        }
        check_state(wanted, state, type(self.network).__name__)
        root = _root(state["covariance"])
        self._load_network(state)
        self.covariance, self._root = state["covariance"].clone(), root

    def _deviation(self, generator: torch.Generator) -> Tensor:
        shape = matrix(self._layer).shape
        noise = standard_normal(shape, self.covariance, generator)
        if self.covariance.ndim == 4:
            return (self._root @ noise.flatten()).reshape(shape)
        if self.covariance.ndim == 3:
            return torch.einsum("ade,ae->ad", self._root, noise)
        return self._root * noise

    def _member(self, weights: Tensor) -> Member:
        weights = weights.to(self._layer.weight.dtype)
        prefix = f"{self.settings['layer']}." if self.settings["layer"] else ""
        if self._layer.bias is None:
            return {f"{prefix}weight": weights}
        return {f"{prefix}weight": weights[:, :-1].clone(), f"{prefix}bias": weights[:, -1].clone()}


def noise_of(likelihood: Likelihood) -> dict[str, float]:
    """The ``noise`` among a posterior's settings; none where the outputs tell it, or where there are classes."""
    return {"noise": float(likelihood.noise.detach())} if isinstance(likelihood, Gaussian) else {}


def last_layer(network: nn.Module, name: str) -> nn.Linear:
    """The linear layer of this name.

    Raises:
        InputError: there is none.
    """
    layer = dict(network.named_modules()).get(name)
    if not isinstance(layer, nn.Linear):
        linear = [known for known, module in network.named_modules() if isinstance(module, nn.Linear)]
        raise InputError(
            f"{name!r} is no linear layer of {type(network).__name__}; it has {', '.join(linear) or 'none'}"
        )
    return layer


def find_last_layer(network: nn.Module, batches: Iterable[Data]) -> str:
    """The name of the linear layer whose output is the network's.

    Raises:
        InputError: none is, or its output is not [N, outputs].
    """
    x, _ = next(iter(batches))
    outputs: dict[str, Tensor] = {}

    def note(name: str) -> Any:
        return lambda module, inputs, output: outputs.__setitem__(name, output)

    layers = [(name, module) for name, module in network.named_modules() if isinstance(module, nn.Linear)]
    handles = [module.register_forward_hook(note(name)) for name, module in layers]
    try:
        with torch.no_grad():
            output = network(x[:1])
    finally:
        for handle in handles:
            handle.remove()
    for name, own in outputs.items():
        if own.ndim == 2 and own.shape == output.shape and torch.equal(own, output):
            return name
    raise InputError(
        f"no linear layer of {type(network).__name__} gives its output {list(output.shape)}: "
        "a last-layer posterior needs a network that ends in nn.Linear, with outputs [N, outputs]"
    )


def matrix(layer: nn.Linear) -> Tensor:
    """Weight and bias as float64 [outputs, features]; a bias is the last column."""
    if layer.bias is None:
        return layer.weight.double()
    return torch.cat([layer.weight, layer.bias[:, None]], dim=1).double()


def outputs_and_features(network: nn.Module, layer: nn.Linear, *x: Tensor) -> tuple[Tensor, Tensor]:
    """The network's outputs, and what its last layer reads, [N, features]; for a bias, with a last column of ones.

    Raises:
        InputError: that layer is not used, or more than once.
    """
    seen: list[Tensor] = []
    handle = layer.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    try:
        outputs = network(*x)
    finally:
        handle.remove()
    if len(seen) != 1:
        raise InputError(f"the last layer is used {len(seen)} times in one pass: a last-layer posterior needs it once")
    (phi,) = seen
    return outputs, phi if layer.bias is None else torch.cat([phi, torch.ones_like(phi[:, :1])], dim=1)


@torch.no_grad()
def features(network: nn.Module, layer: nn.Linear, *x: Tensor) -> Tensor:
    """What the last layer reads, float64; everything else as for ``outputs_and_features``."""
    return outputs_and_features(network, layer, *x)[1].double()


def _root(covariance: Tensor) -> Tensor:
    """A square root: of variances the standard deviations, else the Cholesky factor of the flattened matrix."""
    if covariance.ndim == 2:
        if not (covariance >= 0.0).all():
            raise InputError("the last layer's covariance has negative variances")
        return covariance.sqrt()
    if covariance.ndim == 4:
        covariance = covariance.flatten(2, 3).flatten(0, 1)
    try:
        root: Tensor = torch.linalg.cholesky(covariance)
    except torch.linalg.LinAlgError as error:
        raise InputError(f"the last layer's covariance is not positive definite ({error})") from error
    return root
