"""What a picture looks like: what the network's first convolution sees of it, at a few places.

A layer further up has learned to overlook light, noise and surroundings, and so does a density over it. The first
convolution's filters see them all. Evaluated at some sixty places, in place of thousands, it costs about as much as
any other operator.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from edge_bdl_export.capture import Capture

_CONVOLUTIONS = {
    torch.ops.aten.conv1d.default: nn.functional.conv1d,
    torch.ops.aten.conv2d.default: nn.functional.conv2d,
    torch.ops.aten.conv3d.default: nn.functional.conv3d,
    torch.ops.aten.conv1d.padding: nn.functional.conv1d,
    torch.ops.aten.conv2d.padding: nn.functional.conv2d,
    torch.ops.aten.conv3d.padding: nn.functional.conv3d,
}
# Places at most, per picture.
_PLACES = 64


class Picture(nn.Module):
    """Mean response of each filter of a convolution, over a grid of places: ``[N, ...] -> [1, filters]``.

    Args:
        node: The convolution, in a captured graph.
        state: Values of the graph's parameters.
    """

    def __init__(self, node: fx.Node, state: Mapping[fx.Node, Tensor]) -> None:
        super().__init__()
        given = _arguments(node)
        self._convolve = _CONVOLUTIONS[node.target]  # type: ignore[index]
        self.register_buffer("weight", state[given["weight"]])
        self.register_buffer("bias", None if given["bias"] is None else state[given["bias"]])
        extents = node.meta["val"].shape[2:]
        axes = len(extents)
        every = math.ceil((math.prod(extents) / _PLACES) ** (1.0 / axes))
        # "same": as much as keeps the extent, which no stride has.
        dilation, padding = _each(given["dilation"], axes), given["padding"]
        if padding == "same":
            padding = [width * (extent - 1) // 2 for width, extent in zip(dilation, self.weight.shape[2:], strict=True)]
        elif padding == "valid":
            padding = [0]
        self.settings = {
            "stride": tuple(every * stride for stride in _each(given["stride"], axes)),
            "padding": tuple(_each(padding, axes)),
            "dilation": tuple(dilation),
            "groups": given["groups"],
        }

    def forward(self, x: Tensor) -> Tensor:
        """Of one example; several that share its batch axis are averaged."""
        seen = self._convolve(x, self.weight, self.bias, **self.settings).relu()
        # onnxruntime pools in the layout of its convolutions, but takes no mean in it.
        flat = seen.ndim == 4
        mean = nn.functional.avg_pool2d(seen, seen.shape[2:]).flatten(1) if flat else seen.flatten(2).mean(2)
        return mean if len(mean) == 1 else mean.mean(0, keepdim=True)


def first_convolution(captured: Capture, trunk: Collection[fx.Node]) -> fx.Node | None:
    """The first convolution among the nodes of a trunk, of a batch of pictures by constant filters.

    Args:
        captured: The graph.
        trunk: Nodes that depend on the frame and on nothing stochastic.
    """
    for node in captured.graph.nodes:
        if node in trunk and node.target in _CONVOLUTIONS:
            given = _arguments(node)
            constants = [value for value in (given["weight"], given["bias"]) if value is not None]
            if not all(value in captured.state for value in constants):
                return None
            return node if node.meta["val"].ndim == captured.state[constants[0]].ndim else None
    return None


def _each(values: Sequence[int], axes: int) -> Sequence[int]:
    """One value per axis: one alone is for all of them."""
    return list(values) * axes if len(values) == 1 else values


def _arguments(node: fx.Node) -> dict[str, Any]:
    schema = node.target._schema.arguments  # type: ignore[union-attr]
    values = {argument.name: argument.default_value for argument in schema if argument.has_default_value()}
    return values | {argument.name: value for argument, value in zip(schema, node.args, strict=False)} | node.kwargs
