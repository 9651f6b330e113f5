"""Checks of the files themselves: no random operation in any shipped graph."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edge_bdl.errors import require
from edge_bdl.findings import ParityCheck
from edge_bdl_export.proof.check import at_most

if TYPE_CHECKING:
    import onnx

_ONNX_RANDOM = {
    "Bernoulli", "Dropout", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike",
}  # fmt: skip
_TFLITE_RANDOM = {"MULTINOMIAL", "RANDOM_STANDARD_NORMAL", "RANDOM_UNIFORM", "STABLEHLO_RNG_BIT_GENERATOR"}


def no_random_operations(folder: Path, engines: Sequence[str]) -> list[ParityCheck]:
    """Masks, noise and weights are data: what an engine draws, deletes or repeats cannot matter."""
    found = {}
    if "onnxruntime" in engines:
        found["onnxruntime"] = sum(_random_in_onnx(path) for path in sorted(folder.glob("*.onnx")))
    if "tflite" in engines:
        found["tflite"] = _random_in_tflite(folder / "graph.tflite")
    return [at_most(engine, "random_operations", count, 0) for engine, count in found.items()]


def _random_in_onnx(path: Path) -> int:
    onnx = require("onnx", "export", "to prove ONNX graphs")
    model = onnx.load(str(path), load_external_data=False)
    return sum(_random_nodes(graph.node) for graph in (model.graph, *model.functions))


def _random_nodes(nodes: Iterable[onnx.NodeProto]) -> int:
    """Branches and loops hold graphs of their own, in attributes."""
    count = 0
    for node in nodes:
        inner = [graph for attribute in node.attribute for graph in (attribute.g, *attribute.graphs)]
        count += (node.op_type in _ONNX_RANDOM) + sum(_random_nodes(graph.node) for graph in inner)
    return count


def _random_in_tflite(path: Path) -> int:
    schema = require("ai_edge_litert.schema_py_generated", "export-tflite", "to prove TFLite graphs")
    model = schema.Model.GetRootAs(path.read_bytes(), 0)
    names = {code: name for name, code in vars(schema.BuiltinOperator).items() if isinstance(code, int)}
    codes = [model.OperatorCodes(i) for i in range(model.OperatorCodesLength())]
    random = {i for i, code in enumerate(codes) if names.get(code.BuiltinCode()) in _TFLITE_RANDOM}
    subgraphs = [model.Subgraphs(i) for i in range(model.SubgraphsLength())]
    return sum(
        subgraph.Operators(i).OpcodeIndex() in random
        for subgraph in subgraphs
        for i in range(subgraph.OperatorsLength())
    )
