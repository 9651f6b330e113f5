"""Functions of the caller's own, named on the command line."""

from __future__ import annotations

import importlib
import sys
from typing import Any

from edge_bdl.errors import InputError


def call(reference: str, kind: str = "FUNCTION", otherwise: str = "") -> Any:
    """What a function without arguments returns.

    Args:
        reference: ``MODULE:FUNCTION``, as mynets:build; the module may lie in the present folder.
        kind: what such a function is called in messages.
        otherwise: what else it might have been and is not, to end the message of a name that is none.

    Raises:
        InputError: it cannot be imported, or fails.
    """
    module, _, name = reference.partition(":")
    if not module or not name:
        raise InputError(f"{reference!r} is not MODULE:{kind}, for example mynets:build{otherwise}")
    if "" not in sys.path:
        sys.path.insert(0, "")  # as with python -m
    try:
        function = getattr(importlib.import_module(module), name)
    except Exception as error:  # importing runs the caller's code
        raise InputError(
            f"{reference} cannot be imported ({_said(error)}): run from where {module} can be imported"
        ) from error
    try:
        return function()
    except Exception as error:  # and so does calling
        raise InputError(f"{reference}() failed ({_said(error)}): it is called without arguments") from error


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
