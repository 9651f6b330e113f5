"""int8: a cut network with quantise-dequantise pairs around the layers of its trunk, the same for every engine.

Weights are symmetric with one scale per output channel, activations asymmetric with one scale per tensor, from the
smallest and largest value that calibration frames gave them (Jacob et al. 2018, arXiv 1712.05877). The pairs are put
into the torch modules, so that both converters write the same integers, and torch says what the engines must give.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
import torch.ao.quantization.fx._decomposed
from torch import Tensor, fx, nn

from edge_bdl.errors import ExportError
from edge_bdl_export.cut import CAPTURED, Cut

_PAIRS = torch.ops.quantized_decomposed
_ATEN = torch.ops.aten
QUANTISE = _PAIRS.quantize_per_tensor.default
_DEQUANTISE = _PAIRS.dequantize_per_tensor.default
_LAYERS = {_ATEN.conv2d.default, _ATEN.linear.default}
# What engines compute together with the layer before it: only its result is quantised.
_ACTIVATIONS = {_ATEN.relu.default, _ATEN.relu6.default, _ATEN.hardtanh.default}
# What only moves or picks numbers: its result has the scale of what it was given.
_MOVES = {
    _ATEN.max_pool2d.default,
    _ATEN.view.default,
    _ATEN._unsafe_view.default,
    _ATEN.reshape.default,
    _ATEN.flatten.using_ints,
    _ATEN.clone.default,
    _ATEN.permute.default,
    _ATEN.squeeze.dim,
    _ATEN.squeeze.dims,
    _ATEN.unsqueeze.default,
}
_FLATTENS = {_ATEN.view.default, _ATEN._unsafe_view.default, _ATEN.reshape.default, _ATEN.flatten.using_ints}
# A convolution that reads an image's channels stays fp32: int8 kernels are slower there (PilotNet's first, onnxruntime:
# 175 us against 94), and what every other layer rests on stays exact.
_IMAGE_CHANNELS = 4
LOWEST, HIGHEST = -128, 127
_WEIGHT = 127


@dataclass
class _Seen:
    """Range and shape of one value over the calibration frames; a range always holds 0, so that padding is exact."""

    low: float
    high: float
    shape: tuple[int, ...]

    @property
    def scale_and_zero(self) -> tuple[float, int]:
        """As fp32 has them, which is how graphs store them."""
        scale = float(torch.tensor((self.high - self.low) / (HIGHEST - LOWEST)))
        return (scale, round(LOWEST - self.low / scale)) if scale > 0.0 else (1.0, 0)


def quantise(parts: Cut, frames: Iterable[tuple[Tensor, ...]]) -> Cut:
    """A cut network with the layers of its trunk in int8, in the deterministic network alike.

    Args:
        parts: The cut network; not changed.
        frames: Calibration frames.

    Raises:
        ExportError: There is no layer in the trunk that can be quantised.
    """
    seen: dict[str, _Seen] = {}
    for frame in frames:
        _watch(parts.trunk, frame, seen)
    layers = _layers(parts.trunk, seen)
    if not layers:
        raise ExportError(
            "there is nothing to compute in int8: only convolutions (2-d) and linear layers that all members share "
            "are, and images are read in fp32; export with weights='fp16', or hold more layers at eval with "
            "deterministic=[...]"
        )
    lowered = {name: _with_pairs(getattr(parts, name), layers, seen) for name in ("trunk", "deterministic")}
    return replace(parts, **lowered)


def quantise_members(parts: Cut, members: Sequence[Tensor], frames: Iterable[tuple[Tensor, ...]]) -> Cut:
    """A cut network whose members, built into the head, have their layers in int8; all but the last ones.

    Args:
        parts: The cut network; not changed.
        members: All of them, [S, *shape] for each stochastic node: activations have one scale for all members.
        frames: Calibration frames.

    Raises:
        ExportError: There is no layer among the members' that can be quantised.
    """
    seen: dict[str, _Seen] = {}
    whole = parts.unrolled(members)
    with torch.no_grad():
        for frame in frames:
            _watch(whole, parts.trunk(*frame)[: len(parts.boundary)], seen)
    layers = _layers(whole, seen) - _last_layers(whole)
    if not layers:
        raise ExportError(
            "there is nothing to compute in int8: only convolutions (2-d) and linear layers with another one behind "
            "them are, and images are read in fp32; export with bank='fp16'"
        )
    return replace(parts, unrolled=lambda some: _with_pairs(parts.unrolled(some), layers, seen))


def _watch(module: nn.Module, inputs: Sequence[Tensor], seen: dict[str, _Seen]) -> None:
    """Every floating-point value of a part, by its captured node's name."""
    assert isinstance(module, fx.GraphModule)

    class Watcher(fx.Interpreter):
        def run_node(self, n: fx.Node) -> object:
            value = super().run_node(n)
            if isinstance(value, Tensor) and value.dtype == torch.float32 and n.op != "get_attr":
                low, high = (float(bound) for bound in value.aminmax())
                before = seen.setdefault(_captured(n), _Seen(0.0, 0.0, tuple(value.shape)))
                before.low, before.high = min(before.low, low), max(before.high, high)
            return value

    with torch.no_grad():
        Watcher(module).run(*inputs)


def _captured(node: fx.Node) -> str:
    return str(node.meta.get(CAPTURED, node.name))


def _layers(module: nn.Module, seen: Mapping[str, _Seen]) -> set[str]:
    """The layers that are quantised, by captured name: their weights are constants and they read no image."""
    assert isinstance(module, fx.GraphModule)
    found = set()
    for node in module.graph.nodes:
        if node.target not in _LAYERS or node.args[1].op != "get_attr" or _captured(node.args[0]) not in seen:
            continue
        shape = seen[_captured(node.args[0])].shape
        image = node.target is _ATEN.conv2d.default and shape[1] <= _IMAGE_CHANNELS
        # A product of more axes is written as other operators than a layer.
        if not image and (node.target is not _ATEN.linear.default or len(shape) == 2):
            found.add(_captured(node))
    return found


def _last_layers(module: nn.Module) -> set[str]:
    """Layers that no other follows: in integers, their results would be too coarse for an output."""
    assert isinstance(module, fx.GraphModule)
    followed: set[fx.Node] = set()
    for node in reversed(module.graph.nodes):
        if node in followed or node.target in _LAYERS:
            followed.update(node.all_input_nodes)
    return {_captured(node) for node in module.graph.nodes if node.target in _LAYERS and node not in followed}


def _with_pairs(module: nn.Module, layers: Collection[str], seen: Mapping[str, _Seen]) -> fx.GraphModule:
    """A copy with quantised weights, inputs and results of the layers."""
    assert isinstance(module, fx.GraphModule)
    module = copy.deepcopy(module)
    found = [node for node in module.graph.nodes if _captured(node) in layers and node.target in _LAYERS]
    values = {node for layer in found for node in (_unmoved(layer.args[0]), _result(layer))}
    scales: dict[fx.Node, tuple[float, int]] = {}
    for node in list(module.graph.nodes):
        source = node.args[0] if node.target in _MOVES and _captured(node) in seen else None
        before = source.args[0].args[0] if isinstance(source, fx.Node) and source.target is _DEQUANTISE else None
        if before in scales:
            scales[node] = scales[before]
        elif node in values:
            scales[node] = seen[_captured(node)].scale_and_zero
        if node in scales:
            _pair(node, *scales[node])
    for layer in found:
        _quantise_weight(module, layer)
    _give_flattened(module, seen)
    module.graph.lint()
    module.recompile()
    return module


def _unmoved(node: fx.Node) -> fx.Node:
    """The value that a layer's input was moved or picked from."""
    while node.target in _MOVES:
        node = node.all_input_nodes[0]
    return node


def _result(layer: fx.Node) -> fx.Node:
    """The layer, or the activation that follows it and nothing else does."""
    users = list(layer.users)
    return users[0] if len(users) == 1 and users[0].target in _ACTIVATIONS else layer


def _pair(node: fx.Node, scale: float, zero: int) -> None:
    """Everybody who read the value reads it quantised and dequantised."""
    arguments = (scale, zero, LOWEST, HIGHEST, torch.int8)
    with node.graph.inserting_after(node):
        quantised = node.graph.call_function(QUANTISE, (node, *arguments))
    with node.graph.inserting_after(quantised):
        dequantised = node.graph.call_function(_DEQUANTISE, (quantised, *arguments))
    node.replace_all_uses_with(dequantised, delete_user_cb=lambda user: user is not quantised)


def _give_flattened(module: fx.GraphModule, seen: Mapping[str, _Seen]) -> None:
    """Outputs that the network itself reads flattened are taken from there, and given their shape again.

    Of a quantised value that leaves with its channels and is flattened besides, litert-torch 0.10 confuses the axes.
    """
    end = module.graph.output_node()
    for output in list(end.all_input_nodes):
        flat = next((user for user in output.users if user.target in _FLATTENS), None)
        if output.target is not _DEQUANTISE or flat is None:
            continue
        while flat.target is not _DEQUANTISE and any(user.target in (QUANTISE, _DEQUANTISE) for user in flat.users):
            flat = next(iter(flat.users))
        shape = list(seen[_captured(output.args[0].args[0])].shape)
        with module.graph.inserting_before(end):
            end.replace_input_with(output, module.graph.call_function(_ATEN.reshape.default, (flat, shape)))


def _quantise_weight(module: fx.GraphModule, layer: fx.Node) -> None:
    """Have the layer read its weight from a grid, quantised in the graph: the writers make integers of it.

    The weight itself stays: a layer of the head may share it.
    """
    source = layer.args[1]
    assert isinstance(source, fx.Node)
    name = str(source.target)
    if not hasattr(module, f"{name}_scale"):
        weight = getattr(module, name)
        scale = weight.flatten(1).abs().amax(1) / _WEIGHT
        scale = torch.where(scale > 0.0, scale, torch.ones_like(scale))
        column = scale.reshape(-1, *(1 for _ in weight.shape[1:]))
        module.register_buffer(f"{name}_grid", torch.clamp(torch.round(weight / column), -_WEIGHT, _WEIGHT) * column)
        module.register_buffer(f"{name}_scale", scale)
        module.register_buffer(f"{name}_zero", torch.zeros(len(scale), dtype=torch.int64))
    graph = module.graph
    with graph.inserting_before(layer):
        grid, *held = (graph.get_attr(f"{name}_{part}") for part in ("grid", "scale", "zero"))
        arguments = (*held, 0, -_WEIGHT, _WEIGHT, torch.int8)
        quantised = graph.call_function(_PAIRS.quantize_per_channel.default, (grid, *arguments))
        dequantised = graph.call_function(_PAIRS.dequantize_per_channel.default, (quantised, *arguments))
    layer.args = (layer.args[0], dequantised, *layer.args[2:])
    if not source.users:
        graph.erase_node(source)
