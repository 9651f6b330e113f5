"""Write ONNX: four plain graphs that share one weights file.

Torch's exporter writes each graph; this file makes them compact and equal where they mean the same: debugging metadata
goes, ``Gemm`` takes its weight in one orientation only, and every large tensor is stored once, by content, in
``weights.bin``.
"""

from __future__ import annotations

import hashlib
import logging
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from edge_bdl.errors import ExportError, require
from edge_bdl_export.compact_onnx import SMALL_BYTES, halve_constants, quantise_constants
from edge_bdl_export.graphs import Graph

if TYPE_CHECKING:
    import onnx

# onnxruntime 1.23, the last for Python 3.10 and so for JetPack 6, must load the graphs.
OPSET = 18
IR_VERSION = 10
WEIGHTS = "weights.bin"
_ALIGNMENT = 64
# First axes up to this long may be those of members.
_MOST_ROWS = 256


def write_onnx(graphs: Mapping[str, Graph], folder: Path, half: bool = False) -> None:
    """Write ``NAME.onnx`` for every graph and their shared ``weights.bin`` into ``folder``.

    Args:
        graphs: By name; those with quantised constants get them as integers.
        folder: Where to.
        half: Store large weights as fp16, where they are no more than that.

    Raises:
        MissingExtraError: onnx or onnxscript is not installed.
        ExportError: Torch's ONNX exporter does not know an operator of the model.
    """
    onnx = require("onnx", "export", "to write ONNX graphs")
    require("onnxscript", "export", "to write ONNX graphs")
    weights = _Weights()
    # What holds all members comes first: the others hold a part of them.
    for name, graph in sorted(graphs.items(), key=lambda item: item[0] != "fused"):
        proto = to_onnx(name, graph)
        if half:
            halve_constants(proto)
        weights.take(proto)
        (folder / f"{name}.onnx").write_bytes(proto.SerializeToString(deterministic=True))
    (folder / WEIGHTS).write_bytes(weights.data)
    for name in graphs:
        onnx.checker.check_model(str(folder / f"{name}.onnx"), full_check=True)


def to_onnx(name: str, graph: Graph) -> onnx.ModelProto:
    """One graph, its weights still inside.

    Raises:
        ExportError: Torch's ONNX exporter does not know an operator of the model.
    """
    proto = _translate(name, graph)
    _strip(proto)
    _orient(proto)
    quantise_constants(proto)
    return proto


def _translate(name: str, graph: Graph) -> onnx.ModelProto:
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                graph.module,
                (),
                kwargs=dict(graph.example),
                dynamo=True,
                opset_version=OPSET,
                input_names=list(graph.example),
                output_names=list(graph.outputs),
                verbose=False,
            )
    except torch.onnx.errors.OnnxExporterError as error:
        raise ExportError(f"the {name} graph cannot be written as ONNX: {_cause(error)}") from error
    assert program is not None
    return program.model_proto


def _cause(error: BaseException) -> str:
    """The innermost message, its first line: the exporter wraps it in pages of advice."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _strip(proto: onnx.ModelProto) -> None:
    """Remove stack traces, shapes of intermediate values and texts: they are most of a small graph."""
    proto.ir_version = IR_VERSION
    proto.producer_name, proto.producer_version, proto.doc_string = "edge-bdl", "", ""
    del proto.metadata_props[:]
    graph = proto.graph
    graph.doc_string = ""
    del graph.value_info[:]
    del graph.metadata_props[:]
    for part in (*graph.node, *graph.initializer, *graph.input, *graph.output):
        del part.metadata_props[:]
        part.doc_string = ""


def _orient(proto: onnx.ModelProto) -> None:
    """Give every Gemm its constant weight as [in, out], as the batched MatMul of the head has it."""
    from onnx import numpy_helper

    readers: dict[str, list[onnx.AttributeProto | None]] = {}
    for node in proto.graph.node:
        for place, name in enumerate(node.input):
            readers.setdefault(name, []).append(_turning(node) if place == 1 else None)
    for weight in proto.graph.initializer:
        turnings = readers.get(weight.name, [])
        if turnings and all(turning is not None for turning in turnings):
            turned = np.ascontiguousarray(numpy_helper.to_array(weight).T)
            weight.CopyFrom(numpy_helper.from_array(turned, weight.name))
            for turning in turnings:
                turning.i = 0


def _turning(node: onnx.NodeProto) -> onnx.AttributeProto | None:
    """The attribute that makes a Gemm transpose its weight, where it does."""
    found = [attribute for attribute in node.attribute if attribute.name == "transB" and attribute.i]
    return found[0] if node.op_type == "Gemm" and found else None


class _Weights:
    """Large tensors of all graphs, each content once, as one file of external data.

    A chunk of a bank's members is found inside the bank, by its first member.
    """

    def __init__(self) -> None:
        self.data = bytearray()
        self._offsets: dict[str, int] = {}
        self._rows: dict[str, int] = {}

    def take(self, proto: onnx.ModelProto) -> None:
        """Move the large initializers of a graph here."""
        from onnx import TensorProto, numpy_helper

        for tensor in proto.graph.initializer:
            content = numpy_helper.to_array(tensor).tobytes()
            if len(content) < SMALL_BYTES:
                continue
            offset = self._store(content, tensor.dims[0] if tensor.dims else 1)
            name, data_type, dims = tensor.name, tensor.data_type, list(tensor.dims)
            tensor.Clear()
            tensor.name, tensor.data_type = name, data_type
            tensor.dims.extend(dims)
            tensor.data_location = TensorProto.EXTERNAL
            for key, value in (("location", WEIGHTS), ("offset", str(offset)), ("length", str(len(content)))):
                entry = tensor.external_data.add()
                entry.key, entry.value = key, value

    def _store(self, content: bytes, rows: int) -> int:
        digest = hashlib.sha256(content).hexdigest()
        if digest not in self._offsets:
            self._offsets[digest] = self._inside(content, rows)
        return self._offsets[digest]

    def _inside(self, content: bytes, rows: int) -> int:
        """Where content is as a part of something longer; it is added where it is not."""
        length = len(content) // rows
        first = self._rows.get(hashlib.sha256(content[:length]).hexdigest())
        if first is not None and self.data[first : first + len(content)] == content:
            return first
        self.data.extend(bytes(-len(self.data) % _ALIGNMENT))
        offset = len(self.data)
        self.data.extend(content)
        if rows <= _MOST_ROWS:
            for start in range(0, len(content), length):
                row = hashlib.sha256(content[start : start + length]).hexdigest()
                self._rows.setdefault(row, offset + start)
        return offset
