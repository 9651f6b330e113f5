"""Linear layers and convolutions, with weights that are known or Gaussian.

For independent inputs and weights, the mean goes through the weights' means, and the variance through their squares:
sum of mu^2 v + sigma^2 (m^2 + v) (Wu et al. 2019, "Deterministic variational inference", arXiv 1810.03958, section 3.1,
with independent inputs). Both are the layer itself, with other weights.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from edge_bdl_export.forms.moments.factoring import factor
from edge_bdl_export.forms.moments.normal import FLOOR, UNIT, Normal, Value, Weight, mean_of

_POINTWISE: dict[int, Callable[..., Tensor]] = {
    2: functional.linear,
    3: functional.conv1d,
    4: functional.conv2d,
    5: functional.conv3d,
}


class Affine(nn.Module):
    """A linear layer or a convolution.

    Args:
        operator: The captured operator: ``(x, weight, bias, *settings)``.
        x: An example of the input.
        weight: [outputs, inputs, *kernel], known or Gaussian.
        bias: [outputs], likewise, or None.
        settings: The operator's other arguments.
    """

    mean_weight: Tensor
    mean_bias: Tensor | None
    bias_variance: Tensor

    def __init__(
        self,
        operator: Callable[..., Tensor],
        x: Value,
        weight: Tensor | Weight,
        bias: Tensor | Weight | None = None,
        *settings: Any,
    ) -> None:
        super().__init__()
        self.operator, self.settings = operator, settings
        mean = weight.mean if isinstance(weight, Weight) else weight
        self.register_buffer("mean_weight", mean)
        self.register_buffer("mean_bias", bias.mean if isinstance(bias, Weight) else bias)
        output = operator(mean_of(x), mean, None, *settings)
        axis = _channel_axis(output, mean)
        channels, places = output.shape[axis], output.numel() // output.shape[axis]
        unknown = bias.variance if isinstance(bias, Weight) else torch.zeros(channels, dtype=mean.dtype)
        self.register_buffer("bias_variance", (unknown + FLOOR) / UNIT)
        # Grouped and transposed kernels stay whole: their axes are others.
        plain = mean_of(x).shape[axis] == mean.shape[1] and "transpose" not in str(operator)
        kernels = _kernels(x, weight)
        self.terms = tuple(kernels)
        self.products = nn.ModuleList(
            _Squared(operator, kernel / UNIT, settings, places if plain else None) for kernel in kernels.values()
        )

    def forward(self, x: Value) -> Normal:
        """Mean and variance of the layer's output."""
        mean = self.operator(mean_of(x), self.mean_weight, self.mean_bias, *self.settings)
        inputs = [x.spread if term == "spread" else mean_of(x) * mean_of(x) for term in self.terms]
        spread = self.products[0](inputs[0], self.bias_variance)
        for product, more in zip(self.products[1:], inputs[1:], strict=True):
            spread = spread + product(more, None)
        return Normal(mean, spread, UNIT, True)


def _channel_axis(x: Tensor, weight: Tensor) -> int:
    """A batch axis may be missing; the kernel's axes come last."""
    return x.ndim - max(1, weight.ndim - 1)


def _kernels(x: Value, weight: Tensor | Weight) -> dict[str, Tensor]:
    """What each part of the input is multiplied by."""
    known = weight.mean.square() if isinstance(weight, Weight) else weight.square()
    kernels = {}
    if isinstance(x, Normal):
        kernels["spread"] = (known + weight.variance if isinstance(weight, Weight) else known) * x.scale
    if isinstance(weight, Weight):
        kernels["square"] = weight.variance
    return kernels


class _Squared(nn.Module):
    """A layer with positive weights, as two layers where that is cheaper and close enough.

    Args:
        operator: As in ``Affine``.
        kernel: [outputs, inputs, *kernel].
        settings: As in ``Affine``.
        places: As in ``factor``; None to keep the kernel whole.
    """

    first: Tensor
    across: Tensor | None

    def __init__(
        self, operator: Callable[..., Tensor], kernel: Tensor, settings: tuple[Any, ...], places: int | None
    ) -> None:
        super().__init__()
        self.operator, self.settings = operator, settings
        across, first = (None if places is None else factor(kernel, places)) or (None, kernel)
        self.register_buffer("across", across)
        self.register_buffer("first", first)
        if across is not None and kernel.ndim > 2:
            # Stride, padding and dilation, each with its default; the groups come last.
            axes = kernel.ndim - 2
            defaults = ([1] * axes, [0] * axes, [1] * axes)
            self.settings = (*(*settings, *defaults[len(settings) :])[:3], first.shape[0])

    def forward(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """The layer's output."""
        if self.across is None:
            return self.operator(x, self.first, bias, *self.settings)
        thin = self.operator(x, self.first, None, *self.settings)
        return _POINTWISE[self.across.ndim](thin, self.across, bias)
