"""Make an ONNX graph's constants as small as they are: integers where they are quantised, half floats where those do.

Torch's exporter writes the network as it is computed; here a constant that the graph quantises first becomes the
integers, and one that fp16 holds exactly is stored so and cast, which onnxruntime does once, when it loads the graph.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import onnx

# Smaller constants stay in the graph, as they are: an entry for another place costs about as much.
SMALL_BYTES = 512
QUANTISED_OPSET = 19


def quantise_constants(proto: onnx.ModelProto) -> None:
    """Store what is quantised from a constant as int8, and biases of quantised layers as int32.

    onnxruntime before 1.22 computes a layer in integers only where its bias is one, at the scale of its sums.
    """
    from onnx import numpy_helper

    graph = proto.graph
    if any(node.op_type == "QuantizeLinear" for node in graph.node):
        # What changed until then are types that are not used here; onnx's reference evaluator begins with it.
        proto.opset_import[0].version = QUANTISED_OPSET
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    makers = {name: node for node in graph.node for name in node.output}
    for node in [node for node in graph.node if node.op_type == "QuantizeLinear" and node.input[0] in constants]:
        weight, scale, zero = (constants[name] for name in node.input)
        column = scale.reshape(-1, *(1 for _ in weight.shape[1:]))
        integers = np.clip(np.round(weight / column), -127, 127).astype(zero.dtype)
        # The exporter clips where the range is narrower than the type: it is, already.
        clipped = [reader for reader in graph.node if reader.op_type == "Clip" and reader.input[0] == node.output[0]]
        result = clipped[0].output[0] if clipped else node.output[0]
        graph.initializer.append(numpy_helper.from_array(integers, result))
        for done in (node, *clipped):
            graph.node.remove(done)
    for node in [node for node in graph.node if node.op_type in ("Conv", "Gemm") and len(node.input) == 3]:
        sources = [makers.get(name) for name in node.input[:2]]
        if all(source is not None and source.op_type == "DequantizeLinear" for source in sources):
            scales = [constants[source.input[1]] for source in sources if source is not None]
            _quantise_bias(graph, node, constants[node.input[2]], np.multiply(*scales).astype(np.float32))
    _drop_unread(graph)


def _quantise_bias(graph: onnx.GraphProto, node: onnx.NodeProto, bias: np.ndarray, scale: np.ndarray) -> None:
    from onnx import helper, numpy_helper

    name = f"{node.output[0]}_bias"
    bounds = np.iinfo(np.int32)
    integers = np.clip(np.round(bias.astype(np.float64) / scale), bounds.min, bounds.max).astype(np.int32)
    for suffix, values in (("quantised", integers), ("scale", scale), ("zero", np.zeros_like(integers))):
        graph.initializer.append(numpy_helper.from_array(values, f"{name}_{suffix}"))
    inputs = [f"{name}_{suffix}" for suffix in ("quantised", "scale", "zero")]
    dequantise = helper.make_node("DequantizeLinear", inputs, [name], name=name, axis=0)
    graph.node.insert(list(graph.node).index(node), dequantise)
    node.input[2] = name


def halve_constants(proto: onnx.ModelProto) -> None:
    """Store large constants as fp16, and cast them, where that loses nothing."""
    from onnx import TensorProto, helper, numpy_helper

    casts = []
    for tensor in proto.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype != np.float32 or values.nbytes < SMALL_BYTES:
            continue
        with np.errstate(over="ignore"):
            halves = values.astype(np.float16)
        if np.array_equal(halves.astype(np.float32), values):
            name = tensor.name
            tensor.CopyFrom(numpy_helper.from_array(halves, f"{name}_half"))
            casts.append(helper.make_node("Cast", [f"{name}_half"], [name], name=f"{name}_cast", to=TensorProto.FLOAT))
    nodes = [*casts, *proto.graph.node]
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)


def _drop_unread(graph: onnx.GraphProto) -> None:
    read = {name for node in graph.node for name in node.input}
    for tensor in [tensor for tensor in graph.initializer if tensor.name not in read]:
        graph.initializer.remove(tensor)
