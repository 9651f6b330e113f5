"""Fold batch normalisation at eval into the layer before it: one set of weights for all graphs, and less to compute.

Both converters do this wherever they find the pair. Behind the cut they find it in the deterministic graph only,
because with a member axis it looks otherwise; each graph would then carry its own weights.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import torch
from torch import Tensor, fx

from edge_bdl_export.capture import Capture

_NORM = torch.ops.aten._native_batch_norm_legit_no_training.default
_LAYERS = {
    torch.ops.aten.linear.default,
    torch.ops.aten.conv1d.default,
    torch.ops.aten.conv2d.default,
    torch.ops.aten.conv3d.default,
}


def fold_norms(captured: Capture, stochastic: Collection[fx.Node]) -> Capture:
    """Fold where layer and norm are all constants; the graph is changed in place.

    Args:
        captured: A captured model.
        stochastic: Nodes that are not constants although they are parameters.

    Returns:
        The same graph, with the folded weights among its state.
    """
    state, parameters, output = dict(captured.state), dict(captured.parameters), captured.output
    for norm in list(captured.graph.nodes):
        layer = norm.args[0] if norm.target is _NORM else None
        if not isinstance(layer, fx.Node) or layer.target not in _LAYERS or len(layer.users) > 1:
            continue
        constants = [node for node in (*layer.args[1:3], *norm.args[1:5]) if isinstance(node, fx.Node)]
        if any(node not in state or node in stochastic for node in constants):
            continue
        name = parameters[layer.args[1]]
        folded = []
        for suffix, value in zip(("weight", "bias"), _folded(layer, norm, state), strict=True):
            with captured.graph.inserting_before(next(iter(captured.graph.nodes))):
                folded.append(captured.graph.placeholder(f"folded_{len(state)}"))
            state[folded[-1]], parameters[folded[-1]] = value, f"{name} folded {suffix}"
        layer.args = (layer.args[0], *folded, *layer.args[3:])
        output = layer if output in norm.users else output
        _replace(captured.graph, norm, layer)
    return replace(captured, state=state, parameters=parameters, output=output)


def _folded(layer: fx.Node, norm: fx.Node, state: dict[fx.Node, Tensor]) -> tuple[Tensor, Tensor]:
    """Weight and bias of the layer with the norm's gain and offset in them; in float64, to round once."""
    weight, bias = (_value(layer, i, state) for i in (1, 2))
    gain, offset, mean, variance = (_value(norm, i, state) for i in (1, 2, 3, 4))
    assert weight is not None
    assert mean is not None
    assert variance is not None
    scale = (variance + norm.args[6]).rsqrt() * (1.0 if gain is None else gain)
    shifted = ((0.0 if bias is None else bias) - mean) * scale + (0.0 if offset is None else offset)
    return (weight * scale.reshape(-1, *(1 for _ in weight.shape[1:]))).float(), shifted.float()


def _value(node: fx.Node, index: int, state: dict[fx.Node, Tensor]) -> Tensor | None:
    argument = node.args[index] if index < len(node.args) else None
    return state[argument].double() if isinstance(argument, fx.Node) else None


def _replace(graph: fx.Graph, norm: fx.Node, layer: fx.Node) -> None:
    for item in list(norm.users):
        item.replace_all_uses_with(layer)
        graph.erase_node(item)
    graph.erase_node(norm)
