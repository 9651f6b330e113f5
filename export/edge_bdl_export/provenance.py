"""Provenance: what a bundle was made of, when and by what."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Sequence
from datetime import datetime, timezone

from torch import nn

from edge_bdl.findings import Provenance
from edge_bdl_export.adapters import Adapter


def provenance(model: nn.Module, engines: Sequence[str], seed: int, adapter: Adapter | None) -> Provenance:
    """Versions of all that had a part in it."""
    packages = ["edge-bdl", "torch", "numpy"]
    packages += ["onnx", "onnxscript", "onnxruntime"] if "onnxruntime" in engines else []
    packages += ["litert-torch", "ai-edge-litert"] if "tflite" in engines else []
    packages += [adapter.library] if adapter is not None and adapter.library else []
    return Provenance(
        created_utc=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        versions={package: importlib.metadata.version(package) for package in packages},
        model_class=f"{type(model).__module__}.{type(model).__qualname__}",
        seed=seed,
    )
