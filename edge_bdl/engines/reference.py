"""onnx's own reference evaluator: slow, plain, and written by those who define the operators.

It is here to settle arguments between engines, not to drive.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from edge_bdl.engines.base import (
    Array,
    Arrays,
    Graph,
    GraphName,
    Held,
    check_names,
    failure,
    graph_file,
    mismatch,
)
from edge_bdl.errors import require
from edge_bdl.manifest import Manifest


class ReferenceEngine:
    """ONNX graphs under `onnx.reference.ReferenceEvaluator`; runs on one thread whatever it is told.

    Args:
        folder: The bundle's folder.
        manifest: The bundle's manifest.
        threads: Ignored.

    Raises:
        MissingExtraError: onnx is not installed.
    """

    name = "reference"

    def __init__(self, folder: Path, manifest: Manifest, *, threads: int = 1) -> None:
        self._evaluator: Any = require("onnx.reference", "reference", "to evaluate ONNX graphs by definition")
        self.version = f"onnx {require('onnx', 'reference', 'to evaluate ONNX graphs by definition').__version__}"
        self._folder = folder
        self._graphs: dict[GraphName, ReferenceGraph] = {}

    def graph(self, name: GraphName) -> Graph:
        """See `Engine.graph`."""
        if name not in self._graphs:
            path = graph_file(self._folder, f"{name}.onnx", self.name)
            try:
                evaluator = self._evaluator.ReferenceEvaluator(str(path), new_ops=[_grouped_conv_transpose()])
                self._graphs[name] = ReferenceGraph(evaluator, name)
            except Exception as error:
                raise failure(self.name, f"load {path.name}", error) from error
        return self._graphs[name]


class ReferenceGraph:
    """One evaluator. It takes anything numpy broadcasts, so shapes and dtypes are checked here."""

    def __init__(self, evaluator: Any, name: GraphName) -> None:
        self._evaluator = evaluator
        self._name = name
        self._specs = {spec.name: _shape_and_dtype(spec) for spec in evaluator.proto_.graph.input}
        self._names = frozenset(self._specs)

    def hold(self, constants: Arrays) -> Held:
        """See `Graph.hold`."""
        self._check(constants)
        return Held(self, {name: array.copy() for name, array in constants.items()})

    def run(self, inputs: Arrays, held: Held | None = None) -> dict[str, Array]:
        """See `Graph.run`."""
        check_names(self, "reference", self._name, self._names, inputs, held)
        self._check(inputs)
        feeds = {**inputs, **held.arrays} if held is not None else dict(inputs)
        try:
            with np.errstate(all="ignore"):  # Overflow is the model's affair; the result is checked where it is used.
                outputs = self._evaluator.run(None, feeds)
        except Exception as error:
            raise failure("reference", f"run {self._name}", error) from error
        # An Identity node returns its input itself.
        return {name: np.array(value) for name, value in zip(self._evaluator.output_names, outputs, strict=True)}

    def _check(self, arrays: Arrays) -> None:
        for name, array in arrays.items():
            if self._specs.get(name) != (array.shape, array.dtype):
                raise mismatch("reference", self._name, name, array)


def _grouped_conv_transpose() -> Any:
    """ConvTranspose as onnx has it, group by group: its own loop over groups takes wrong weights (onnx 1.23)."""
    module = require("onnx.reference.ops.op_conv_transpose", "reference", "to evaluate ONNX graphs by definition")

    class ConvTranspose(module.ConvTranspose):  # type: ignore[misc,name-defined]
        def _run(self, x: Array, w: Array, b: Array | None = None, group: int = 1, **settings: Any) -> tuple[Array]:
            biases = [None] * group if b is None else np.split(b, group)
            parts = zip(np.split(x, group, axis=1), np.split(w, group), biases, strict=True)
            run = super()._run
            return (np.concatenate([run(*part, group=1, **settings)[0] for part in parts], axis=1),)

    return ConvTranspose


def _shape_and_dtype(spec: Any) -> tuple[tuple[int, ...], np.dtype[Any]]:
    helper = require("onnx.helper", "reference", "to evaluate ONNX graphs by definition")
    tensor = spec.type.tensor_type
    shape = tuple(dimension.dim_value for dimension in tensor.shape.dim)
    return shape, np.dtype(helper.tensor_dtype_to_np_dtype(tensor.elem_type))
