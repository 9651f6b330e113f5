"""Everything edge-bdl raises on purpose.

EdgeBdlError                 a person can put it right; the message says what, what was expected, what to do
├── BundleError              a bundle folder is damaged, hostile, too new, or not a bundle
│   └── SignatureError       a trusted key is configured and the signature is missing or wrong
├── InputError               a frame, a sample count or an option is not what the bundle or the command takes
├── EngineError              an engine could not load or run a graph
├── MissingExtraError        an optional dependency is not installed; carries the pip line
└── ExportError              a model cannot be exported as asked
    ├── UnsupportedModelError    something in it is stochastic and unknown, or cannot be captured
    └── ProofError               the exported graph does not have the posterior's moments; nothing was written
"""

from __future__ import annotations

import importlib
from types import ModuleType


class EdgeBdlError(Exception):
    """Root of all errors that edge-bdl raises on purpose."""


class BundleError(EdgeBdlError):
    """A bundle folder is damaged, hostile, too new, or not a bundle."""


class SignatureError(BundleError):
    """A trusted key is configured and the bundle's signature is missing or wrong."""


class InputError(EdgeBdlError):
    """A frame, a sample count or an option is not what the bundle or the command takes."""


class EngineError(EdgeBdlError):
    """An engine could not load or run a graph."""


class MissingExtraError(EdgeBdlError):
    """An optional dependency is not installed.

    Args:
        package: The import name that was not found.
        extra: The edge-bdl extra that installs it.
        purpose: What it is needed for, as the end of "needed ...".
    """

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(f"{package} is not installed, needed {purpose}: pip install 'edge-bdl[{extra}]'")
        self.package = package
        self.extra = extra


class ExportError(EdgeBdlError):
    """A model cannot be exported as asked."""


class UnsupportedModelError(ExportError):
    """Something in the model is stochastic and unknown, or the model cannot be captured."""


class ProofError(ExportError):
    """The exported graph does not have the posterior's moments; nothing was written."""


def require(module: str, extra: str, purpose: str) -> ModuleType:
    """Import an optional dependency when it is first used.

    Args:
        module: Dotted module name.
        extra: The edge-bdl extra that installs it.
        purpose: What it is needed for, as the end of "needed ...".

    Raises:
        MissingExtraError: The module, or the package that holds it, is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        # Only the asked-for package being absent is a missing extra; a broken one must show its own error.
        if error.name is None or not (module == error.name or module.startswith(f"{error.name}.")):
            raise
        raise MissingExtraError(module.partition(".")[0], extra, purpose) from error
