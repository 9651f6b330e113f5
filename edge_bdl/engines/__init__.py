"""Inference engines, by name. Nothing here imports a vendor's package before it is asked for."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any, cast

from edge_bdl.engines.base import (
    Array,
    Arrays,
    Engine,
    Graph,
    GraphName,
    Held,
)
from edge_bdl.errors import InputError
from edge_bdl.manifest import Manifest

__all__ = ["ENGINES", "Array", "Arrays", "Engine", "Graph", "GraphName", "Held", "open_engine"]

ENGINES = {
    "onnxruntime": "edge_bdl.engines.ort:OnnxRuntimeEngine",
    "tflite": "edge_bdl.engines.tflite:TfliteEngine",
    "reference": "edge_bdl.engines.reference:ReferenceEngine",
    "scripted": "edge_bdl.engines.scripted:ScriptedEngine",
}


def open_engine(name: str, folder: Path, manifest: Manifest, *, threads: int = 1, **options: Any) -> Engine:
    """Open a bundle's graphs under one engine.

    Args:
        name: A key of `ENGINES`.
        folder: The bundle's folder; its files are trusted to be what the manifest says (see `edge_bdl.bundle`).
        manifest: The bundle's manifest.
        threads: Threads that one run may use.
        options: The engine's own, such as ``providers`` for onnxruntime.

    Raises:
        InputError: The engine, the number of threads or an option is unknown, or the bundle is not made for it.
        MissingExtraError: Its package is not installed.
        EngineError: The engine cannot load the bundle.
    """
    if name not in ENGINES:
        raise InputError(f"no engine is called {name!r}: choose one of {', '.join(ENGINES)}")
    if isinstance(threads, bool) or not isinstance(threads, int) or threads < 1:
        raise InputError(f"threads must be a whole number of at least 1, got {threads!r}")
    module, _, attribute = ENGINES[name].partition(":")
    engine = getattr(importlib.import_module(module), attribute)
    known = engine.__init__.__kwdefaults__.keys() - {"threads"}
    if not options.keys() <= known:
        unknown = ", ".join(sorted(options.keys() - known))
        raise InputError(f"engine {name} has no option {unknown}: it knows {', '.join(sorted(known)) or 'none'}")
    return cast(Engine, engine(folder, manifest, threads=threads, **options))
