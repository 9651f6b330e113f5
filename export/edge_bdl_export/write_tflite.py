"""Write TFLite: one file with four signatures that share their weights."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch

from edge_bdl.errors import ExportError, require
from edge_bdl_export.graphs import Graph

FILE = "graph.tflite"


def write_tflite(graphs: Mapping[str, Graph], folder: Path) -> None:
    """Write ``graph.tflite`` into ``folder``, one signature per graph.

    Raises:
        MissingExtraError: litert-torch is not installed.
        ExportError: litert-torch does not know an operator of the model.
    """
    with _quiet():
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
            raise ExportError(f"the model cannot be written as TFLite ({cause}); export with formats=('onnx',)") from error
        model.export(str(folder / FILE))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The converter talks on both streams, also from C++; what it says is shown only if it fails."""
    sys.stdout.flush()
    sys.stderr.flush()
    previous = logging.root.manager.disable
    saved = [os.dup(1), os.dup(2)]
    with open(os.devnull, "w") as sink, warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        os.dup2(sink.fileno(), 1)
        os.dup2(sink.fileno(), 2)
        try:
            yield
        finally:
            logging.disable(previous)
            for descriptor, copied in zip((1, 2), saved, strict=True):
                os.dup2(copied, descriptor)
                os.close(copied)
