"""onnxruntime: one session per graph, one binding per set of held members.

Everything is bound once, frames excepted: over `InferenceSession.run` this saves converting the member inputs on every
frame, about 3 % of a small network's time.
"""

from __future__ import annotations

from collections.abc import Sequence
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
from edge_bdl.errors import InputError, require
from edge_bdl.manifest import Manifest

_DTYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(double)": "float64",
    "tensor(uint8)": "uint8",
    "tensor(int8)": "int8",
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
    "tensor(bool)": "bool",
}
_ERRORS_ARE_RAISED = 4  # log severity "fatal": onnxruntime also raises what it logs as an error


class OnnxRuntimeEngine:
    """ONNX graphs under onnxruntime, sequential, at its default optimisation level.

    Args:
        folder: The bundle's folder.
        manifest: The bundle's manifest.
        threads: Threads inside one operator. They sleep between runs: spinning costs milliseconds at p99.
        providers: Execution providers in order of preference.

    Raises:
        MissingExtraError: onnxruntime is not installed.
        InputError: A provider is not in this build of onnxruntime.
    """

    name = "onnxruntime"

    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        *,
        threads: int = 1,
        providers: Sequence[str] = ("CPUExecutionProvider",),
    ) -> None:
        self._ort: Any = require("onnxruntime", "onnx", "to run ONNX graphs")
        self._ort.disable_telemetry_events()
        available = self._ort.get_available_providers()
        if not providers or not set(providers) <= set(available):
            raise InputError(f"providers must be among {', '.join(available)}, got {', '.join(providers) or 'none'}")
        self.version = f"onnxruntime {self._ort.__version__}"
        self._folder = folder
        self._providers = list(providers)
        self._options = self._ort.SessionOptions()
        self._options.intra_op_num_threads = threads
        self._options.inter_op_num_threads = 1
        self._options.execution_mode = self._ort.ExecutionMode.ORT_SEQUENTIAL
        self._options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._options.log_severity_level = _ERRORS_ARE_RAISED
        self._graphs: dict[GraphName, OnnxRuntimeGraph] = {}

    def graph(self, name: GraphName) -> Graph:
        """See `Engine.graph`."""
        if name not in self._graphs:
            path = graph_file(self._folder, f"{name}.onnx", self.name)
            try:
                session = self._ort.InferenceSession(str(path), self._options, providers=self._providers)
                session.disable_fallback()  # A provider that fails must not silently become a slower one.
                self._graphs[name] = OnnxRuntimeGraph(self._ort, session, name)
            except Exception as error:
                raise failure(self.name, f"load {path.name}", error) from error
        return self._graphs[name]


class _Bound(Held):
    """Held members, bound to one `IOBinding` together with the graph's output buffers."""

    __slots__ = ("binding", "values")

    def __init__(self, owner: Graph, arrays: Arrays, values: list[Any], binding: Any) -> None:
        super().__init__(owner, arrays)
        self.values = values  # A binding does not keep its values alive.
        self.binding = binding


class OnnxRuntimeGraph:
    """One session and its bindings."""

    def __init__(self, ort: Any, session: Any, name: GraphName) -> None:
        self._ort = ort
        self._session = session
        self._name = name
        self._inputs = {spec.name: (tuple(spec.shape), _DTYPES[spec.type]) for spec in session.get_inputs()}
        self._outputs = {spec.name: np.empty(spec.shape, _DTYPES[spec.type]) for spec in session.get_outputs()}
        self._names = frozenset(self._inputs)
        self._unheld = self._bind({})

    def hold(self, constants: Arrays) -> Held:
        """See `Graph.hold`."""
        for name, array in constants.items():
            if self._inputs.get(name) != (array.shape, array.dtype.name):
                raise mismatch("onnxruntime", self._name, name, array)
        try:
            return self._bind(constants)
        except Exception as error:
            raise failure("onnxruntime", f"hold members for {self._name}", error) from error

    def run(self, inputs: Arrays, held: Held | None = None) -> dict[str, Array]:
        """See `Graph.run`."""
        check_names(self, "onnxruntime", self._name, self._names, inputs, held)
        bound = held if isinstance(held, _Bound) else self._unheld
        # A binding points into the arrays and does not keep them alive: contiguous copies must outlive the run.
        arrays = {name: np.ascontiguousarray(array) for name, array in inputs.items()}
        try:
            for name, array in arrays.items():
                bound.binding.bind_cpu_input(name, array)
            self._session.run_with_iobinding(bound.binding)
        except Exception as error:
            raise failure("onnxruntime", f"run {self._name}", error) from error
        return {name: buffer.copy() for name, buffer in self._outputs.items()}

    def _bind(self, constants: Arrays) -> _Bound:
        binding = self._session.io_binding()
        values = []
        for name, array in constants.items():
            values.append(self._ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array)))
            binding.bind_ortvalue_input(name, values[-1])
        for name, buffer in self._outputs.items():
            binding.bind_output(name, "cpu", 0, buffer.dtype, buffer.shape, buffer.ctypes.data)
        return _Bound(self, constants, values, binding)
