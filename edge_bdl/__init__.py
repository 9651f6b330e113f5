"""An embedded uncertainty runtime: networks that know when they are unsure, on robots that act on it.

Names are imported when they are first used, so that a process that only needs `Policy` loads no engine.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edge_bdl.bundle import Bundle
    from edge_bdl.errors import (
        BundleError,
        EdgeBdlError,
        EngineError,
        ExportError,
        InputError,
        MissingExtraError,
        ProofError,
        SignatureError,
        UnsupportedModelError,
    )
    from edge_bdl.manifest import Manifest
    from edge_bdl.policy import Decision, Evidence, Level, Policy
    from edge_bdl.runtime import Prediction, Runtime

_HOMES = {
    "Bundle": "bundle",
    "BundleError": "errors",
    "Decision": "policy",
    "EdgeBdlError": "errors",
    "EngineError": "errors",
    "Evidence": "policy",
    "ExportError": "errors",
    "InputError": "errors",
    "Level": "policy",
    "Manifest": "manifest",
    "MissingExtraError": "errors",
    "Policy": "policy",
    "Prediction": "runtime",
    "ProofError": "errors",
    "Runtime": "runtime",
    "SignatureError": "errors",
    "UnsupportedModelError": "errors",
}

__all__ = [
    "Bundle",
    "BundleError",
    "Decision",
    "EdgeBdlError",
    "EngineError",
    "Evidence",
    "ExportError",
    "InputError",
    "Level",
    "Manifest",
    "MissingExtraError",
    "Policy",
    "Prediction",
    "ProofError",
    "Runtime",
    "SignatureError",
    "UnsupportedModelError",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'edge_bdl' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"edge_bdl.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
