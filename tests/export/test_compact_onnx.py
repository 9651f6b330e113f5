"""Constants of ONNX graphs as integers and half floats: the same numbers, less room."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from edge_bdl_export.compact_onnx import SMALL_BYTES, halve_constants, quantise_constants

GENERATOR = np.random.Generator(np.random.Philox(0))


def layer(weight: np.ndarray, scale: np.ndarray, clip: bool) -> onnx.ModelProto:
    """A linear layer as torch's exporter writes a quantised one: the weight is quantised in the graph."""
    constants = {
        "w": weight, "ws": scale, "wz": np.zeros(len(scale), np.int8), "b": GENERATOR.normal(size=len(weight)),
        "xs": 0.05, "xz": np.int8(-3), "low": np.int8(-127), "high": np.int8(127),
    }  # fmt: skip
    quantised = "wq" if clip else "wc"
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "xs", "xz"], ["xq"]),
        helper.make_node("DequantizeLinear", ["xq", "xs", "xz"], ["xd"]),
        helper.make_node("QuantizeLinear", ["w", "ws", "wz"], [quantised], axis=0),
        *([helper.make_node("Clip", ["wq", "low", "high"], ["wc"])] if clip else []),
        helper.make_node("DequantizeLinear", ["wc", "ws", "wz"], ["wd"], axis=0),
        helper.make_node("Gemm", ["xd", "wd", "b"], ["y"], transB=1),
    ]
    given = {
        name: value if isinstance(value, np.generic) or np.asarray(value).dtype == np.int8 else np.float32(value)
        for name, value in constants.items()
    }
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in given.items()]
    graph = helper.make_graph(
        nodes, "layer",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, weight.shape[1]])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, len(weight)])],
        tensors,
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=10)


def test_quantised_weights_become_integers_and_biases_too() -> None:
    scale = GENERATOR.uniform(0.01, 0.1, 6).astype(np.float32)
    weight = (GENERATOR.integers(-127, 128, (6, 10)) * scale[:, None]).astype(np.float32)
    x = GENERATOR.normal(size=(1, 10)).astype(np.float32)
    for clip in (True, False):
        proto = layer(weight, scale, clip)
        (before,) = ReferenceEvaluator(proto).run(None, {"x": x})
        quantise_constants(proto)
        onnx.checker.check_model(proto, full_check=True)
        (after,) = ReferenceEvaluator(proto).run(None, {"x": x})
        # Half a step of the bias, whose scale is that of the sums.
        assert np.abs(after - before).max() <= 0.51 * 0.05 * scale.max()
        kinds = {tensor.name: tensor.data_type for tensor in proto.graph.initializer}
        assert kinds["wc"] == TensorProto.INT8
        assert TensorProto.INT32 in kinds.values()
        assert "w" not in kinds
        assert [node.op_type for node in proto.graph.node].count("QuantizeLinear") == 1
        assert not [node for node in proto.graph.node if node.op_type == "Clip"]


def test_a_graph_without_pairs_is_left_as_it_is() -> None:
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])], "plain",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])],
    )  # fmt: skip
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    before = proto.SerializeToString()
    quantise_constants(proto)
    halve_constants(proto)
    assert proto.SerializeToString() == before


def test_only_what_fp16_holds_exactly_is_halved() -> None:
    count = SMALL_BYTES // 4
    exact = GENERATOR.normal(size=count).astype(np.float16).astype(np.float32)
    inexact = (GENERATOR.normal(size=count) + 1e-4).astype(np.float32)
    values = {"exact": exact, "inexact": inexact, "small": exact[:4], "large": np.full(count, 1e6, np.float32)}
    graph = helper.make_graph(
        [helper.make_node("Concat", list(values), ["y"], axis=0)], "constants", [],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [3 * count + 4])],
        [numpy_helper.from_array(value, name) for name, value in values.items()],
    )  # fmt: skip
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    halve_constants(proto)
    onnx.checker.check_model(proto, full_check=True)
    stored = {tensor.name: tensor.data_type for tensor in proto.graph.initializer}
    assert stored == {
        "exact_half": TensorProto.FLOAT16, "inexact": TensorProto.FLOAT, "small": TensorProto.FLOAT,
        "large": TensorProto.FLOAT,
    }  # fmt: skip
    (given,) = ReferenceEvaluator(proto).run(None, {})
    assert np.array_equal(given, np.concatenate(list(values.values())))
