"""Write TFLite: one file with four signatures that share their weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from edge_bdl.errors import ExportError, require
from edge_bdl_export.graphs import Graph
from edge_bdl_export.quiet import quiet

FILE = "graph.tflite"


def write_tflite(graphs: Mapping[str, Graph], folder: Path) -> None:
    """Write ``graph.tflite`` into ``folder``, one signature per graph.

    Raises:
        MissingExtraError: litert-torch is not installed.
        ExportError: litert-torch does not know an operator of the model.
    """
    with quiet():
        litert_torch = require("litert_torch", "export-tflite", "to write TFLite graphs")
        converter = litert_torch
        for name, graph in graphs.items():
            converter = converter.signature(name, graph.module, sample_kwargs=dict(graph.example))
        try:
            with torch.no_grad():
                model = converter.convert(strict_export=False)
        except Exception as error:  # the converter raises whatever its layers do
            lines = str(error).strip().splitlines()
            cause = lines[0] if lines else type(error).__name__
            raise ExportError(
                f"the model cannot be written as TFLite ({cause}); export with formats=('onnx',)"
            ) from error
        model.export(str(folder / FILE))
