"""The three estimators, for layers whose output is linear in weight and input: linear and (transposed) convolution.

All have the same mean and variance of each output; they differ in what is shared between the rows of a minibatch, and
so in the variance of the gradient. In the order of ``Estimator``: one draw for all rows; every output on its own; one
draw, of which every row sees other signs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor

from edge_bdl_train.layers.base import VariationalLayer
from edge_bdl_train.layers.weight import standard_normal


class LinearMapLayer(VariationalLayer, ABC):
    """A variational layer that computes a linear map of its input."""

    estimators = ("reparametrisation", "local_reparametrisation", "flipout")

    @property
    @abstractmethod
    def example_axes(self) -> int:
        """How many axes one example has; the first of them is its channels."""

    def forward(self, x: Tensor, *arguments: Any, **options: Any) -> Tensor:
        """The map with drawn weights; in eval mode, with their means."""
        if not self.training or self.estimator == "reparametrisation":
            return super().forward(x, *arguments, **options)
        mean = self.call(self.means(), x, *arguments, **options)
        if self.estimator == "flipout":
            return mean + self._flipped(x, *arguments, **options)
        return mean + self._noise(x, *arguments, **options)

    def _noise(self, x: Tensor, *arguments: Any, **options: Any) -> Tensor:
        """Local reparametrisation (Kingma et al. 2015, arXiv 1506.02557, equation 6).

        Each output's variance is x^2 sigma^2 summed, and its noise is drawn for itself: in a convolution the outputs at
        different places, which share weights, keep their variances but not their covariance.
        """
        variances = {name: weight.sigma.square() for name, weight in self.weights().items()}
        variance = self.call(variances, x.square(), *arguments, **options)
        # Where the input is 0 so is the variance, and there the root has no derivative: one that is needed by no one.
        positive = variance > 0.0
        root = torch.where(positive, variance, 1.0).sqrt() * positive
        return root * standard_normal(root.shape, root, self.drawn_by())

    def _flipped(self, x: Tensor, *arguments: Any, **options: Any) -> Tensor:
        """Flipout (Wen et al. 2018, arXiv 1803.04386, equation 4): one deviation, times signs r s^T per example."""
        generator = self.drawn_by()
        deviations = {name: weight.deviation(generator) for name, weight in self.weights().items()}
        flipped = self.call(deviations, x * self._signs(x, generator), *arguments, **options)
        return flipped * self._signs(flipped, generator)

    def _signs(self, values: Tensor, generator: torch.Generator) -> Tensor:
        """Random signs for each channel of each example, shared along its other axes."""
        channels = values.ndim - self.example_axes
        shape = [1] * values.ndim
        shape[channels] = values.shape[channels]
        if channels > 0:
            shape[0] = values.shape[0]
        bits = torch.randint(2, shape, generator=generator, device=generator.device)
        return (2 * bits - 1).to(values)
