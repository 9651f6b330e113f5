"""Write TFLite: one file with a signature for each graph, which share their weights."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from edge_bdl.errors import ExportError, require
from edge_bdl.manifest import MEMBERS_OUTPUT
from edge_bdl_export.graphs import Graph
from edge_bdl_export.quantise import QUANTISE
from edge_bdl_export.quiet import quiet

FILE = "graph.tflite"
_EXTRA = ("export-tflite", "to write TFLite graphs")


def write_tflite(graphs: Mapping[str, Graph], folder: Path, half: bool = False) -> None:
    """Write ``graph.tflite`` into ``folder``, one signature per graph.

    Args:
        graphs: By name; those with quantised layers are computed in integers.
        folder: Where to.
        half: Store weights as fp16, where they are no more than that.

    Raises:
        MissingExtraError: litert-torch is not installed.
        ExportError: litert-torch does not know an operator of the model.
    """
    for graph in graphs.values():
        _refuse(graph.module)
    graphs = _sharing(graphs)
    integers = any(_quantised(graph.module) for graph in graphs.values())
    with quiet():
        litert_torch = require("litert_torch", *_EXTRA)
        converter = litert_torch
        for name, graph in graphs.items():
            # The others end in what members make of it.
            ends_in_integers = integers and name in ("det", "trunk")
            module = _FloatOutputs(graph.module) if ends_in_integers else graph.module
            converter = converter.signature(name, module, sample_kwargs=dict(graph.example))
        try:
            with torch.no_grad():
                model = converter.convert(strict_export=False, quant_config=_integer_layers() if integers else None)
        except Exception as error:  # the converter raises whatever its layers do
            lines = str(error).strip().splitlines()
            cause = lines[0] if lines else type(error).__name__
            raise ExportError(
                f"the model cannot be written as TFLite ({cause}); export with formats=('onnx',)"
            ) from error
        model.export(str(folder / FILE))
        if half:
            _halve(folder / FILE)


def _targets(module: nn.Module) -> set[Any]:
    graphs = (part.graph for part in module.modules() if isinstance(part, fx.GraphModule))
    return {node.target for graph in graphs for node in graph.nodes}


def _refuse(module: nn.Module) -> None:
    """Refuse what the converter does not refuse itself: it ends the whole process."""
    for target in _targets(module):
        if isinstance(target, torch._ops.OpOverload) and target.name().startswith("aten::conv_transpose3d"):
            raise ExportError(
                "the model cannot be written as TFLite (its converter has no three-dimensional transposed "
                "convolution); export with formats=('onnx',)"
            )


def _sharing(graphs: Mapping[str, Graph]) -> Mapping[str, Graph]:
    """Where heads hold the members, the fused graph is trunk and heads: the file then has each weight once."""
    heads = [graph.module for name, graph in graphs.items() if name.startswith("head_")]
    if not heads:
        return graphs
    fused = graphs["fused"]
    chunks = _Chunks(graphs["trunk"].module, heads, fused.outputs)
    return {**graphs, "fused": Graph(module=chunks, example=fused.example, outputs=fused.outputs)}


class _Chunks(nn.Module):
    """Trunk and heads, one chunk of members after the other."""

    def __init__(self, trunk: nn.Module, heads: Sequence[nn.Module], outputs: tuple[str, ...]) -> None:
        super().__init__()
        self.trunk = trunk
        self.heads = nn.ModuleList(heads)
        self.outputs = outputs

    def forward(self, **frame: Tensor) -> dict[str, Tensor]:
        """Outputs by name."""
        crossing: dict[str, Tensor] = self.trunk(**frame)
        boundary = {name: value for name, value in crossing.items() if name not in self.outputs}
        members = torch.cat([head(**boundary)[MEMBERS_OUTPUT] for head in self.heads])
        said = {**crossing, MEMBERS_OUTPUT: members}
        return {name: said[name] for name in self.outputs}


def _quantised(module: nn.Module) -> bool:
    return QUANTISE in _targets(module)


def _integer_layers() -> Any:
    """Has the converter compute pairs of quantise and dequantise in integers; it quantises nothing by itself."""
    quantizer = require("litert_torch.quantize.pt2e_quantizer", *_EXTRA)
    config = require("litert_torch.quantize.quant_config", *_EXTRA)
    symmetric = quantizer.get_symmetric_quantization_config(is_per_channel=True, is_dynamic=False)
    return config.QuantConfig(pt2e_quantizer=quantizer.PT2EQuantizer().set_global(symmetric))


class _FloatOutputs(nn.Module):
    """Outputs stay floating point: the converter would leave a last dequantisation out, and the output int8.

    What keeps it in is an addition of the smallest normal number, which changes a zero to that and nothing else.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, **inputs: Tensor) -> dict[str, Tensor]:
        """The module's outputs."""
        smallest = torch.finfo(torch.float32).tiny
        outputs = self.module(**inputs).items()
        return {name: value + smallest if value.is_floating_point() else value for name, value in outputs}


def _halve(path: Path) -> None:
    """Cast weights to fp16 where that loses nothing; operators of other weights are named, and left alone."""
    quantizer = require("ai_edge_quantizer", *_EXTRA)
    typing = require("ai_edge_quantizer.qtyping", *_EXTRA)
    every = typing.TFLOperationName.ALL_SUPPORTED
    halves = typing.OpQuantizationConfig(
        weight_tensor_config=typing.TensorQuantizationConfig(num_bits=16, dtype=typing.TensorDataType.FLOAT),
        compute_precision=typing.ComputePrecision.FLOAT,
        explicit_dequantize=True,
    )
    names = quantizer.quantizer.AlgorithmName
    rewriter = quantizer.quantizer.Quantizer(str(path))
    rewriter.update_quantization_recipe(".*", every, halves, names.FLOAT_CASTING)
    for scope in _of_longer_weights(path):
        rewriter.update_quantization_recipe(re.escape(scope), every, algorithm_key=names.NO_QUANTIZE)
    rewriter.quantize().export_model(str(path), overwrite=True)


def _of_longer_weights(path: Path) -> list[str]:
    """Scopes (the outputs' names) of the operators with constants that fp16 does not hold exactly."""
    schema = require("ai_edge_litert.schema_py_generated", *_EXTRA)
    model = schema.Model.GetRootAs(path.read_bytes(), 0)
    scopes = []
    for subgraph in (model.Subgraphs(i) for i in range(model.SubgraphsLength())):
        for operator in (subgraph.Operators(i) for i in range(subgraph.OperatorsLength())):
            # A third one is a bias, which is not cast.
            tensors = [subgraph.Tensors(i) for i in operator.InputsAsNumpy()[:2] if i >= 0]
            floats = [tensor for tensor in tensors if tensor.Type() == schema.TensorType.FLOAT32]
            buffers = [model.Buffers(tensor.Buffer()) for tensor in floats]
            if not all(_fits_half(buffer.DataAsNumpy()) for buffer in buffers if buffer.DataLength()):
                outputs = (subgraph.Tensors(i).Name().decode() for i in operator.OutputsAsNumpy())
                scopes.append("".join(f"{name};" for name in outputs))
    return scopes


def _fits_half(data: np.ndarray) -> bool:
    values = data.view(np.float32)
    with np.errstate(over="ignore"):
        return bool(np.array_equal(values.astype(np.float16).astype(np.float32), values))
