"""TensorFlow Lite: ai-edge-litert, else its predecessor tflite-runtime.

One interpreter holds all signatures of ``graph.tflite``. The packages' own signature runners resize, reallocate and
copy every input on every call; here each signature's subgraph is allocated once, and member inputs are written only
when they change. The subgraph index is not in the public interface of either package; both keep it under the same
names, and the conformance tests run on both.
"""

from __future__ import annotations

import importlib
import importlib.metadata
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
from edge_bdl.errors import EngineError, MissingExtraError, require
from edge_bdl.manifest import Manifest


class TfliteEngine:
    """The signatures of ``graph.tflite`` under the TFLite interpreter with its default delegate (XNNPACK).

    Args:
        folder: The bundle's folder.
        manifest: The bundle's manifest.
        threads: Threads of the interpreter.

    Raises:
        MissingExtraError: Neither ai-edge-litert nor tflite-runtime is installed.
        InputError: The bundle has no TFLite graph.
        EngineError: The interpreter cannot load it.
    """

    name = "tflite"

    def __init__(self, folder: Path, manifest: Manifest, *, threads: int = 1) -> None:
        path = graph_file(folder, "graph.tflite", self.name)
        _check_size(path, manifest)
        module, package = _vendor()
        self.version = f"{package} {importlib.metadata.version(package)}"
        try:
            self._interpreter = module.Interpreter(str(path), num_threads=threads)
            # Allocating the whole interpreter once is what applies the delegate to all subgraphs (tflite-runtime).
            self._interpreter.allocate_tensors()
            self._signatures: dict[str, Any] = self._interpreter.get_signature_list()
        except Exception as error:
            if package == "tflite-runtime" and int(np.__version__.partition(".")[0]) >= 2:
                remedy = f"numpy older than 2, this is {np.__version__}: pip install 'edge-bdl[tflite-runtime]'"
                raise EngineError(f"{self.version} needs {remedy}") from error
            raise failure(self.name, f"load {path.name}", error) from error
        self._graphs: dict[GraphName, TfliteGraph] = {}

    def graph(self, name: GraphName) -> Graph:
        """See `Engine.graph`."""
        if name not in self._graphs:
            if name not in self._signatures:
                raise EngineError(f"tflite: graph.tflite has no signature {name}, it has {sorted(self._signatures)}")
            try:
                self._graphs[name] = TfliteGraph(self._interpreter.get_signature_runner(name), name)
            except Exception as error:
                raise failure(self.name, f"load signature {name}", error) from error
        return self._graphs[name]


def _check_size(path: Path, manifest: Manifest) -> None:
    """A bundle's digests are checked when it is opened; of what changed since, this is what kills the process.

    tflite-runtime does not verify a file: it reads past the end of one that was cut off.
    """
    entry, size = manifest.files.get(path.name), path.stat().st_size
    if entry is not None and size != entry.bytes:
        raise EngineError(
            f"tflite could not load {path.name}: {size} bytes, the manifest says {entry.bytes}; run edge-bdl verify"
        )


def _vendor() -> tuple[Any, str]:
    """The interpreter module that is installed, and its distribution's name."""
    try:
        return require("ai_edge_litert.interpreter", "tflite", "to run TFLite graphs"), "ai-edge-litert"
    except MissingExtraError:
        try:
            return importlib.import_module("tflite_runtime.interpreter"), "tflite-runtime"
        except ModuleNotFoundError:
            pass
        raise


class TfliteGraph:
    """One signature's subgraph."""

    def __init__(self, runner: Any, name: GraphName) -> None:
        self._name = name
        self._wrapper = runner._interpreter_wrapper
        self._subgraph: int = runner._subgraph_index
        details = runner.get_input_details()
        self._inputs = {key: int(detail["index"]) for key, detail in details.items()}
        self._specs = {key: (tuple(detail["shape"]), np.dtype(detail["dtype"])) for key, detail in details.items()}
        self._outputs = {key: int(detail["index"]) for key, detail in runner.get_output_details().items()}
        self._names = frozenset(self._inputs)
        self._resident: Held | None = None
        self._inputs_survive: bool | None = None
        self._wrapper.AllocateTensors(self._subgraph)

    def hold(self, constants: Arrays) -> Held:
        """See `Graph.hold`."""
        for name, array in constants.items():
            if self._specs.get(name) != (array.shape, array.dtype):
                raise mismatch("tflite", self._name, name, array)
        return Held(self, {name: array.copy() for name, array in constants.items()})

    def run(self, inputs: Arrays, held: Held | None = None) -> dict[str, Array]:
        """See `Graph.run`."""
        check_names(self, "tflite", self._name, self._names, inputs, held)
        wrapper, subgraph = self._wrapper, self._subgraph
        try:
            if held is not self._resident:
                self._resident = None
                if held is not None:
                    self._write(held.arrays)
            self._write(inputs)
            wrapper.Invoke(subgraph)
            if held is not None and held is not self._resident:
                self._keep(held)
            return {name: wrapper.GetTensor(index, subgraph) for name, index in self._outputs.items()}
        except Exception as error:
            self._resident = None
            raise failure("tflite", f"run {self._name}", error) from error

    def _write(self, arrays: Arrays) -> None:
        for name, array in arrays.items():
            self._wrapper.SetTensor(self._inputs[name], array, self._subgraph)

    def _keep(self, held: Held) -> None:
        """Leave members in the interpreter over frames, after seeing that a run leaves its inputs as they were."""
        if self._inputs_survive is None:
            self._inputs_survive = all(
                np.array_equal(self._wrapper.GetTensor(self._inputs[name], self._subgraph), array)
                for name, array in held.arrays.items()
            )
        self._resident = held if self._inputs_survive else None
